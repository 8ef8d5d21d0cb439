#include "bench/report.h"

#include <fmt/format.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace kolo::bench {
namespace {

constexpr const char* kClearLine = "\r\x1b[K";
constexpr const char* kLabelFormat = "{:<10} ";
constexpr const char* kRowFormat = "{:<12} {:<9} {:>11} {:>11} .. {:<11} {:>5}";
constexpr const char* kRatioFormat = " {:>8} {:>7} .. {}";

/// mpirun gives its ranks a terminal as stdout, which has no width when mpirun itself has none; but
/// never as stderr.
std::FILE* find_terminal() {
  for (std::FILE* stream : {stderr, stdout}) {
    winsize size{};
    if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return stream;
  }
  return nullptr;
}

nlohmann::ordered_json to_json(const Summary& value) {
  return {{"p25", value.p25}, {"median", value.median}, {"p75", value.p75},
          {"p99", value.p99}, {"max", value.max},       {"n", value.n}};
}

std::string render_label(const std::string& name, const Labels& value) {
  if (name == "bytes") return render_bytes(value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// With three digits that mean something, or more.
std::string render_number(double value) {
  // From so much on, one decimal less is enough.
  constexpr std::array<double, 5> kBounds = {0.00995, 0.0995, 9.995, 99.95, 999.5};
  const double size = value == 0 ? 1 : std::abs(value);
  const auto passed =
      std::ranges::count_if(kBounds, [size](double bound) { return size >= bound; });
  return fmt::format("{:.{}f}", value, kBounds.size() - static_cast<std::size_t>(passed));
}

std::string render_value(double value, const std::string& unit) {
  return unit == "bytes"
             ? render_bytes(value)
             : fmt::format("{}{}{}", render_number(value), unit == "%" ? "" : " ", unit);
}

}  // namespace

Report::Report(std::string benchmark, int rank, int ranks, const std::filesystem::path& json)
    : benchmark_(std::move(benchmark)), speaks_(rank == 0), ranks_(ranks), path_(json) {
  if (!speaks_) return;
  terminal_ = find_terminal();
  if (path_.empty()) return;
  json_.open(path_);
  if (!json_) {
    throw std::runtime_error(
        fmt::format("cannot write {}: {}", path_.string(), std::generic_category().message(errno)));
  }
}

Report::~Report() { clear_announcement(); }

void Report::announce(const Labels& labels) {
  if (terminal_ == nullptr) return;
  std::string text = "measuring";
  for (const auto& [name, value] : labels.items()) text += ' ' + render_label(name, value);
  fmt::print(terminal_, "{}{} ...", kClearLine, text);
  std::fflush(terminal_);
}

void Report::add(const Result& result) {
  if (!speaks_) return;
  clear_announcement();
  if (!std::exchange(has_header_, true)) {
    fmt::print("{}, {} rank{}\n{}\n", benchmark_, ranks_, ranks_ == 1 ? "" : "s",
               table_header(result));
  }
  fmt::print("{}\n", table_row(result));
  std::fflush(stdout);
  if (path_.empty()) return;
  json_ << to_json_line(benchmark_, ranks_, result) << '\n' << std::flush;
  if (!json_) throw std::runtime_error(fmt::format("cannot write {}", path_.string()));
}

void Report::add(const Labels& labels, const std::string& quantity, const std::string& unit,
                 const std::vector<Series>& series) {
  const Series& kolo = series.front();
  for (const Series& one : series) {
    Result result{.labels = labels,
                  .method = one.method,
                  .quantity = quantity,
                  .unit = unit,
                  .value = summary_of(one.samples)};
    if (&one != &kolo) result.ratio = summary_of(ratios(kolo.samples, one.samples));
    add(result);
  }
}

void Report::clear_announcement() {
  if (terminal_ == nullptr) return;
  fmt::print(terminal_, "{}", kClearLine);
  std::fflush(terminal_);
}

std::string to_json_line(const std::string& benchmark, int ranks, const Result& result) {
  nlohmann::ordered_json line = {{"benchmark", benchmark}, {"ranks", ranks}};
  line.update(result.labels);
  line["method"] = result.method;
  line["quantity"] = result.quantity;
  line["unit"] = result.unit;
  line.update(to_json(result.value));
  if (result.ratio) line["ratio"] = to_json(*result.ratio);
  return line.dump();
}

std::string table_header(const Result& result) {
  std::string header;
  for (const auto& [name, value] : result.labels.items()) {
    header += fmt::format(kLabelFormat, name == "bytes" ? "size" : name);
  }
  return header + fmt::format(kRowFormat, "method", "quantity", "median", "p25", "p75", "n") +
         fmt::format(kRatioFormat, "kolo/it", "p25", "p75");
}

std::string table_row(const Result& result) {
  std::string row;
  for (const auto& [name, value] : result.labels.items()) {
    row += fmt::format(kLabelFormat, render_label(name, value));
  }
  const Summary& value = result.value;
  row += fmt::format(kRowFormat, result.method, result.quantity,
                     render_value(value.median, result.unit), render_value(value.p25, result.unit),
                     render_value(value.p75, result.unit), value.n);
  if (!result.ratio) return row;
  return row + fmt::format(kRatioFormat, render_number(result.ratio->median),
                           render_number(result.ratio->p25), render_number(result.ratio->p75));
}

std::string render_bytes(double bytes) {
  static constexpr std::array<const char*, 4> kUnits = {"B", "KiB", "MiB", "GiB"};
  std::size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = bytes == std::round(bytes);
  return fmt::format("{:.{}f} {}", bytes, whole ? 0 : 1, kUnits[unit]);
}

}  // namespace kolo::bench

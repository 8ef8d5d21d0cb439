#include "launch/output.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "launch/usage_error.h"

namespace kolo::launch {
namespace {

constexpr std::size_t kLongestLine = 16 << 20;  ///< with a tag; a longer one is printed as several

std::vector<std::string> file_names(int ranks, const std::string& folder) {
  const auto digits = std::to_string(ranks - 1).size();
  std::vector<std::string> names;
  for (int rank = 0; rank < ranks; ++rank) {
    names.push_back(fmt::format("{}/rank.{:0{}}", folder, rank, digits));
  }
  return names;
}

}  // namespace

Output::Output(int ranks, bool tag, const std::string& folder) : tag_(tag) {
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  paths_ = file_names(ranks, folder);
  for (const auto& path : paths_) {
    files_.emplace_back(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (files_.back().get() < 0) {
      throw UsageError(fmt::format("--output-dir: '{}' cannot be written: {}", path,
                                   std::generic_category().message(errno)));
    }
  }
}

void Output::add(int rank, Stream stream, std::string_view text, Printed& printed) {
  if (!files_.empty()) write_file(rank, text);
  auto& begun = begun_[{rank, stream}];
  while (!text.empty()) {
    const auto end = text.find('\n');
    begun += text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (end == std::string_view::npos && (!tag_ || begun.size() < kLongestLine)) break;
    append_line(rank, begun, printed.of(stream));
    begun.clear();
  }
  if (begun.empty()) begun_.erase({rank, stream});
}

void Output::flush_prompts(Printed& printed) {
  if (tag_) return;
  for (const auto& [from, text] : begun_) printed.of(from.second) += text;
  begun_.clear();
}

void Output::finish(Printed& printed) {
  flush_prompts(printed);
  for (const auto& [from, text] : begun_) append_line(from.first, text, printed.of(from.second));
  begun_.clear();
}

void Output::append_line(int rank, std::string_view line, std::string& printed) const {
  if (tag_) printed += fmt::format("[{}] ", rank);
  printed += line;
  printed += '\n';
}

void Output::write_file(int rank, std::string_view text) {
  auto& file = files_[static_cast<std::size_t>(rank)];
  while (!text.empty() && file.get() >= 0) {
    const auto written = write(file.get(), text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      fmt::print(stderr, "kolorun: warning: '{}' cannot be written any more: {}\n",
                 paths_[static_cast<std::size_t>(rank)], std::generic_category().message(errno));
      file.reset();
    }
  }
}

}  // namespace kolo::launch

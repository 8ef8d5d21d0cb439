#include "progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace resnet_example {
namespace {

constexpr int kSmallestBar = 10;
constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
constexpr const char* kClearLine = "\r\x1b[K";

/// 0 for what is no terminal of a known width.
int terminal_columns(std::FILE* stream) {
  winsize size{};
  if (::isatty(::fileno(stream)) == 0 || ::ioctl(::fileno(stream), TIOCGWINSZ, &size) != 0) {
    return 0;
  }
  return size.ws_col;
}

/// mpirun gives its ranks a terminal as stdout when it has one itself, but never as stderr.
std::FILE* bar_stream() {
  if (terminal_columns(stderr) > 0) return stderr;
  return terminal_columns(stdout) > 0 ? stdout : nullptr;
}

}  // namespace

Progress::Progress(bool speaks, int log_every)
    : speaks_(speaks), log_every_(log_every), bar_(speaks ? bar_stream() : nullptr) {}

bool Progress::due(std::int64_t step, std::int64_t steps) const {
  if (!speaks_) return false;
  if (bar_ == nullptr) return step % log_every_ == 0 || step == steps;
  return step == steps || Clock::now() - last_shown_ >= kRedrawInterval;
}

void Progress::show(const StepStatus& status) {
  if (!speaks_) return;
  if (bar_ == nullptr) {
    print(render_line(status));
    return;
  }
  fmt::print(bar_, "{}{}", kClearLine, render_bar(status, terminal_columns(bar_)));
  std::fflush(bar_);
  bar_visible_ = true;
  last_shown_ = Clock::now();
}

void Progress::print(const std::string& text) {
  if (!speaks_) return;
  if (bar_visible_) {
    fmt::print(bar_, "{}", kClearLine);
    std::fflush(bar_);
    bar_visible_ = false;
  }
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::string render_count(std::int64_t count) {
  std::string text = fmt::format("{}", count);
  for (auto i = static_cast<std::ptrdiff_t>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(text.begin() + i, ',');
  }
  return text;
}

std::string render_count(std::int64_t count, const char* noun) {
  return fmt::format("{} {}{}", render_count(count), noun, count == 1 ? "" : "s");
}

std::string render_duration(double seconds) {
  const auto s = std::max(0L, std::lround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02} h", s / 3600, s / 60 % 60, s % 60);
}

std::string render_line(const StepStatus& s) {
  return fmt::format("{}  step {}/{}  loss {:.4f}  accuracy {:.2f} %  {:.1f} images/s  {} left",
                     s.title, s.step, s.steps, s.loss, 100 * s.accuracy, s.images_per_second,
                     render_duration(s.seconds_left));
}

std::string render_bar(const StepStatus& s, int columns) {
  const std::string before = s.title + ' ';
  const std::string after =
      fmt::format(" {:3.0f} %  loss {:.4f}  accuracy {:.1f} %  {:.0f} images/s  {} left",
                  100.0 * static_cast<double>(s.step) / static_cast<double>(s.steps), s.loss,
                  100 * s.accuracy, s.images_per_second, render_duration(s.seconds_left));
  // One column stays free: a full line would wrap on some terminals.
  const int width = columns - 1 - static_cast<int>(before.size() + after.size()) - 2;
  if (width < kSmallestBar) {
    return (before + after).substr(0, static_cast<std::size_t>(std::max(columns - 1, 0)));
  }
  const auto done = static_cast<std::size_t>(width * s.step / s.steps);
  return fmt::format("{}[{}{}]{}", before, std::string(done, '#'),
                     std::string(static_cast<std::size_t>(width) - done, '.'), after);
}

std::string render_epoch(const EpochRecord& r) {
  return fmt::format(
      "epoch {}: train loss {:.4f}, accuracy {:.2f} %; test loss {:.4f}, accuracy {:.2f} %; {:.1f} "
      "images/s, {}",
      r.epoch, r.train_loss, 100 * r.train_accuracy, r.test_loss, 100 * r.test_accuracy,
      r.images_per_second, render_duration(r.seconds));
}

std::string render_summary(const std::string& dataset, std::int64_t batch_size,
                           const std::vector<EpochRecord>& epochs) {
  const EpochRecord& last = epochs.back();
  const EpochRecord& best = *std::ranges::max_element(epochs, {}, &EpochRecord::test_accuracy);
  double seconds = 0;
  double images = 0;
  Phases sum;
  for (const EpochRecord& r : epochs) {
    seconds += r.seconds;
    images += r.images_per_second * r.seconds;
    sum.data += r.phases.data;
    sum.forward += r.phases.forward;
    sum.backward += r.phases.backward;
    sum.communication += r.phases.communication;
    sum.optimizer += r.phases.optimizer;
  }
  std::string text = fmt::format("\n{}, {} with batches of {}\n", dataset,
                                 render_count(last.ranks, "rank"), batch_size);
  auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("  {:<26} {}\n", name, value);
  };
  row("test accuracy", fmt::format("{:.2f} % (best {:.2f} %, epoch {})", 100 * last.test_accuracy,
                                   100 * best.test_accuracy, best.epoch));
  row("training", fmt::format("{}, {:.1f} images/s", render_duration(seconds), images / seconds));
  for (const auto& [name, part] : {std::pair{"  waiting for data", sum.data},
                                   {"  forward", sum.forward},
                                   {"  backward", sum.backward},
                                   {"  waiting for other ranks", sum.communication},
                                   {"  optimizer", sum.optimizer}}) {
    row(name, fmt::format("{:5.1f} %", 100 * part / seconds));
  }
  text.pop_back();
  return text;
}

}  // namespace resnet_example

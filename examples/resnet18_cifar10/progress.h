#pragma once

/// What a person sees while it trains.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "history.h"

namespace resnet_example {

struct StepStatus {
  std::string title;      ///< such as "epoch 1/5"
  std::int64_t step = 0;  ///< done
  std::int64_t steps = 0;
  double loss = 0;  ///< mean of the steps so far, on this rank
  double accuracy = 0;
  double images_per_second = 0;
  double seconds_left = 0;
};

/// A bar that is redrawn in place on a terminal, and a line every `log_every` steps elsewhere.
class Progress {
 public:
  /// Only the rank that `speaks` shows anything.
  Progress(bool speaks, int log_every);

  /// Whether show() is worth its price now: it needs the loss, and on a GPU that is a wait.
  bool due(std::int64_t step, std::int64_t steps) const;
  void show(const StepStatus& status);

  /// Prints a line of text, where a bar stood if there is one.
  void print(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  bool speaks_;
  int log_every_;
  std::FILE* bar_ = nullptr;  // where the bar is drawn; null: lines
  bool bar_visible_ = false;
  Clock::time_point last_shown_ = {};
};

std::string render_line(const StepStatus& status);
std::string render_bar(const StepStatus& status, int columns);
std::string render_epoch(const EpochRecord& record);

/// The table at the end: the last epoch's figures, and where the time of all of them went.
std::string render_summary(const std::string& dataset, std::int64_t batch_size,
                           const std::vector<EpochRecord>& epochs);

/// 11,173,962.
std::string render_count(std::int64_t count);

/// 1 rank, 2 ranks.
std::string render_count(std::int64_t count, const char* noun);

/// 12 s, 3:05 min, 1:02:03 h.
std::string render_duration(double seconds);

}  // namespace resnet_example

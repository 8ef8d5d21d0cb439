// What kolorun knows of each rank: where it runs, and how it ended.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kolo::launch {

/// 0 to 255, or 128 + signal, as a shell tells how a process ended.
int exit_code_of(int wait_status);

class Ranks {
 public:
  explicit Ranks(int count) : ranks_(static_cast<std::size_t>(count)) {}

  void started(int rank, const std::string& host);
  void ended(int rank, int wait_status);

  bool any_started() const { return started_ > 0; }
  bool all_started() const { return started_ == ranks_.size(); }
  bool all_ended() const { return order_.size() == ranks_.size(); }

  /// "0, 2-5": those that have not started.
  std::string missing() const;

  /// The exit code of the rank that failed first, if one has.
  std::optional<int> failure() const;

  /// How the failed ones ended, the first one first: those that ended alike on a host in one line,
  /// without those that mpirun has ended after the first.
  std::vector<std::string> failures() const;

 private:
  struct Rank {
    bool has_started = false;
    std::string host;
    std::optional<int> wait_status;
  };

  std::vector<Rank> ranks_;
  std::vector<int> order_;  ///< in which they ended
  std::size_t started_ = 0;
};

}  // namespace kolo::launch

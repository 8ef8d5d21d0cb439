#pragma once

/// One rank's operations in several channels: started interleaved, and moved in random order.

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "base/types.h"

namespace kolo::core {

/// A Part can start(), progress() (whether anything has moved), tell when it is over(), and check()
/// what came out.
template <typename Part>
class Flights {
 public:
  using Queue = std::deque<std::unique_ptr<Part>>;

  /// `idle`: called when nothing moves.
  Flights(int rank, std::size_t most_in_flight, std::function<void()> idle)
      : random_(static_cast<unsigned>(rank) + 1),
        most_in_flight_(most_in_flight),
        idle_(std::move(idle)) {}

  void run(std::map<ChannelId, Queue> waiting) {
    const auto none = [](const auto& entry) { return entry.second.empty(); };
    while (!flights_.empty() || !std::ranges::all_of(waiting, none)) {
      const bool started = start_any(waiting);
      if (::testing::Test::HasFatalFailure()) return;
      if (!progress_all() && !started) idle_();
    }
  }

 private:
  struct Flight {
    ChannelId channel;
    std::unique_ptr<Part> part;
  };

  /// Starts the next operation of some channel, if there is one that may start.
  bool start_any(std::map<ChannelId, Queue>& waiting) {
    std::vector<ChannelId> ready;
    for (const auto& [channel, queue] : waiting) {
      const auto in_flight = std::ranges::count(flights_, channel, &Flight::channel);
      if (!queue.empty() && std::cmp_less(in_flight, most_in_flight_)) ready.push_back(channel);
    }
    if (ready.empty()) return false;
    const ChannelId channel = ready[random_() % ready.size()];
    Flight flight{channel, std::move(waiting[channel].front())};
    waiting[channel].pop_front();
    flight.part->start();
    flights_.push_back(std::move(flight));
    return true;
  }

  /// Gives each a turn, in random order; those that are over are freed while others go on.
  bool progress_all() {
    bool moved = false;
    std::ranges::shuffle(flights_, random_);
    for (Flight& flight : flights_) moved = flight.part->progress() || moved;
    const auto over = std::erase_if(flights_, [](const Flight& flight) {
      if (!flight.part->over()) return false;
      flight.part->check();
      return true;
    });
    return moved || over > 0;
  }

  std::mt19937 random_;
  const std::size_t most_in_flight_;
  const std::function<void()> idle_;
  std::vector<Flight> flights_;
};

}  // namespace kolo::core

#include "mpi/meeting.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "mpi/session.h"

namespace kolo::core::mpi {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// MPI lets every program use tags up to 32767.
constexpr int kCall = 30271;
/// Who waits answers a call within this time, unless it is kept from it.
constexpr Seconds kAnswer{1.0};
constexpr double kAnswerFraction = 0.2;

/// One rank's part in a meeting. What MPI may still write or read when it is given up stays with
/// MPI.
class Meeting {
 public:
  Meeting(MPI_Comm comm, std::span<const std::byte> word, const Patience& patience)
      : comm_(comm), patience_(patience), word_(word.begin(), word.end()) {
    MPI_Comm_rank(comm, &rank_);
    int size = 1;
    MPI_Comm_size(comm, &size);
    has_called_.assign(static_cast<std::size_t>(size), 0);
    words_.resize(word.size() * has_called_.size());
  }

  Status run() {
    const int bytes = static_cast<int>(word_.size());
    Status started = check(MPI_Iallgather(word_.data(), bytes, MPI_BYTE, words_.data(), bytes,
                                          MPI_BYTE, comm_, requests_.slot(kWords)),
                           "MPI_Iallgather");
    if (!started.ok()) return started;
    Status met = wait(/*listens=*/true);
    if (!met.ok()) return met;
    return take_calls();
  }

  std::vector<std::vector<std::byte>> words() const {
    std::vector<std::vector<std::byte>> parts;
    for (auto begin = words_.begin(); begin != words_.end();) {
      const auto end = begin + static_cast<std::ptrdiff_t>(word_.size());
      parts.emplace_back(begin, end);
      begin = end;
    }
    return parts;
  }

 private:
  static constexpr std::size_t kWords = 0;

  std::size_t size() const { return has_called_.size(); }

  /// Until MPI has done all that it was asked to.
  Status wait(bool listens) {
    const Clock::time_point begin = Clock::now();
    Seconds next_warning = patience_.warn_after;
    while (true) {
      const Result<Requests::Tested> tested = requests_.test();
      if (!tested.ok()) return tested.status();
      for (const Requests::Failure& failure : tested.value().failures) {
        return check(failure.code, "meeting the other ranks");
      }
      if (requests_.idle()) return {};
      const Seconds waited = Clock::now() - begin;
      if (listens) {
        if (Status status = listen(waited); !status.ok()) return status;
      }
      if (patience_.give_up_after.count() > 0 && waited > patience_.give_up_after) {
        return give_up(waited);
      }
      if (patience_.warn_after.count() > 0 && waited > next_warning) {
        next_warning += patience_.warn_after;
        warn(waited);
      }
      const auto pause = std::chrono::duration_cast<std::chrono::microseconds>(waited / 8);
      std::this_thread::sleep_for(
          std::clamp(pause, std::chrono::microseconds(20), std::chrono::microseconds(5000)));
    }
  }

  /// When this rank calls, unless another one does before: 0 means never.
  Seconds calls_after() const {
    Seconds first{0};
    for (const Seconds limit : {patience_.warn_after, patience_.give_up_after}) {
      if (limit.count() > 0 && (first.count() == 0 || limit < first)) first = limit;
    }
    const Seconds early = first - std::max(kAnswer, kAnswerFraction * first);
    return std::max(early, std::min(first, Seconds(1e-3)));
  }

  /// Hears who calls, and calls when it is time to, or when others do.
  Status listen(Seconds waited) {
    int is_there = 1;
    while (is_there != 0) {
      MPI_Status status{};
      Status probed =
          check(MPI_Iprobe(MPI_ANY_SOURCE, kCall, comm_, &is_there, &status), "MPI_Iprobe");
      if (!probed.ok()) return probed;
      if (is_there == 0) break;
      if (Status received = receive_call(status.MPI_SOURCE); !received.ok()) return received;
    }
    const Seconds due = calls_after();
    const bool is_due = due.count() > 0 && waited > due;
    const bool is_called = std::ranges::find(has_called_, 1) != has_called_.end();
    return !calls_ && (is_due || is_called) ? call() : Status();
  }

  Status receive_call(int source) {
    has_called_[static_cast<std::size_t>(source)] = 1;
    return check(MPI_Recv(nullptr, 0, MPI_BYTE, source, kCall, comm_, MPI_STATUS_IGNORE),
                 "MPI_Recv");
  }

  Status call() {
    calls_ = true;
    const std::size_t first = requests_.add(size());
    for (std::size_t peer = 0; peer < size(); ++peer) {
      const int destination = static_cast<int>(peer);
      if (destination == rank_) continue;
      Status sent = check(
          MPI_Isend(nullptr, 0, MPI_BYTE, destination, kCall, comm_, requests_.slot(first + peer)),
          "MPI_Isend");
      if (!sent.ok()) return sent;
    }
    return {};
  }

  /// All are here: what they have sent besides is received.
  Status take_calls() {
    const int own = calls_ ? 1 : 0;
    callers_.resize(size());
    Status asked = check(MPI_Iallgather(&own, 1, MPI_INT, callers_.data(), 1, MPI_INT, comm_,
                                        requests_.slot(kWords)),
                         "MPI_Iallgather");
    if (!asked.ok()) return asked;
    if (Status heard = wait(/*listens=*/false); !heard.ok()) return heard;
    for (std::size_t peer = 0; peer < size(); ++peer) {
      const int source = static_cast<int>(peer);
      if (callers_[peer] == 0 || source == rank_ || has_called_[peer] != 0) continue;
      if (Status received = receive_call(source); !received.ok()) return received;
    }
    return {};
  }

  /// All that have not called, which those that wait have.
  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (std::size_t peer = 0; peer < size(); ++peer) {
      const int rank = static_cast<int>(peer);
      if (rank != rank_ && has_called_[peer] == 0) ranks.push_back(rank);
    }
    return ranks;
  }

  static constexpr std::string_view kWayOut =
      "Every rank of the job must call kolo::init(), and as often as the others; if only some are "
      "to, they "
      "call kolo::init(communicator), of <kolo/mpi.h>";

  void warn(Seconds waited) const {
    const std::vector<int> absent = missing();
    // All before it are.
    const bool speaks =
        std::ranges::count_if(absent, [this](int rank) { return rank < rank_; }) == rank_;
    if (!speaks) return;
    patience_.warn(fmt::format(
        "stalled: rank(s) {} have not called kolo::init() ({:.1f} s), in which others wait. {}. "
        "KOLO_STALL_ABORT_SECONDS ends such a wait",
        fmt::join(absent, ", "), waited.count(), kWayOut));
  }

  Status give_up(Seconds waited) const {
    leave_mpi_unfinished();
    return Status::error(fmt::format(
        "given up after {:.1f} s (KOLO_STALL_ABORT_SECONDS): rank(s) {} have not come. {}.",
        waited.count(), fmt::join(missing(), ", "), kWayOut));
  }

  const MPI_Comm comm_;
  const Patience patience_;
  int rank_ = 0;
  const std::vector<std::byte> word_;
  std::vector<std::byte> words_;
  std::vector<int> callers_;
  /// By rank: whose call has been received.
  std::vector<int> has_called_;
  bool calls_ = false;
  Requests requests_{1};
};

}  // namespace

Result<std::vector<std::vector<std::byte>>> meet(MPI_Comm comm, std::span<const std::byte> word,
                                                 const Patience& patience) {
  auto meeting = std::make_shared<Meeting>(comm, word, patience);
  if (Status status = meeting->run(); !status.ok()) {
    leave_to_mpi(std::move(meeting));
    return status;
  }
  return meeting->words();
}

}  // namespace kolo::core::mpi

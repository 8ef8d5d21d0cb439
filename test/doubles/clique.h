#pragma once

/// The ranks of one ncclUniqueId: where they meet, what they compute there, and what goes wrong.

#include <nccl.h>

#include <atomic>
#include <compare>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "doubles/nccl_arithmetic.h"
#include "doubles/worker.h"

namespace kolo::doubles {

enum class Kind { AllReduce, Reduce, Broadcast, AllGather, ReduceScatter, Send, Recv };

/// Which operations of ranks belong together: the n-th collectives of all, or the n-th send of one
/// rank to another and the n-th receive there.
struct Place {
  int source = -1;
  int destination = -1;
  std::int64_t number = 0;

  auto operator<=>(const Place&) const = default;
};

/// One rank's part. `count` is that of NCCL's call; `root` also says a collective's root, if it has
/// one.
struct Operation {
  Kind kind;
  const void* send;
  void* receive;
  std::size_t count;
  ncclDataType_t dtype;
  Reduction reduction = {};
  int root = -1;
  /// Among all of the rank's.
  std::int64_t number = 0;
  Place place = {};

  bool is_collective() const { return kind != Kind::Send && kind != Kind::Recv; }
  std::size_t send_bytes(int rank, int ranks) const;
  std::size_t receive_bytes(int rank, int ranks) const;
};

class Clique {
 public:
  Clique(int index, Delays delays) : index_(index), delays_(delays) {}

  /// Waits until all ranks have come, or there is an error, or the rank is aborted.
  void join(int rank, int ranks, int device);
  /// Does operations that are grouped, in the thread of a stream: waits until all are done, or the
  /// rank is aborted, which poisons what was to be received.
  void perform(int rank, std::span<const Operation> operations);
  void abort(int rank);
  void abort_all();

  void hang(std::int64_t operation);
  void report(int rank, ncclResult_t error, std::string message);
  /// What was reported first to the rank.
  ncclResult_t error(int rank);
  std::string message(int rank);

  int index() const { return index_; }
  int ranks() const { return ranks_; }

 private:
  struct Meeting {
    std::vector<const Operation*> operations;
    std::size_t missing;
    /// By part, once it is done.
    std::vector<std::vector<std::byte>> results = {};
    bool is_done = false;
  };
  /// What an operation is in a meeting.
  struct Part {
    std::shared_ptr<Meeting> meeting;
    std::size_t index;
  };
  struct Error {
    int rank;
    ncclResult_t result;
    std::string message;
  };

  // All with the lock.
  Part arrive(int rank, const Operation& operation);
  bool is_aborted(int rank) const { return all_aborted_ || aborted_.contains(rank); }
  const Error* find_error(int rank) const;
  void add_error(int rank, ncclResult_t error, std::string message);
  bool agrees(const Meeting& meeting);
  void compute(Meeting& meeting) const;
  void compute_collective(Meeting& meeting) const;

  const int index_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Delays delays_;
  /// Written before the first rank has joined, and read by ranks that have.
  std::atomic<int> ranks_ = 0;
  std::map<int, int> device_of_rank_;
  std::map<Place, std::shared_ptr<Meeting>> meetings_;
  std::set<std::int64_t> hung_;
  std::set<int> aborted_;
  bool all_aborted_ = false;
  std::vector<Error> errors_;
  /// Read without the lock, which would order more than NCCL does.
  std::atomic<bool> has_errors_ = false;
};

/// By its number, made if it is not there.
Clique& clique_at(int index);
/// The number of the next one.
int next_clique();
void abort_all_cliques();
/// After all threads that may know them have ended.
void reset_cliques();

}  // namespace kolo::doubles

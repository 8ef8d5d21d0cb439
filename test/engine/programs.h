#pragma once

/// What ranks do in tests: operations that every rank describes alike, and whose results each rank
/// computes for itself, serially. The same for ranks as threads and under mpirun.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "collectives/reduce_oracle.h"
#include "context/context.h"

namespace kolo::core::programs {

/// A process set.
struct Set {
  ChannelId channel = kWorldChannel;
  std::vector<int> ranks;
};

Set world(const Context& context);

/// Asks for a new set. On all ranks of the job, also those that will not belong to it.
std::shared_ptr<Work> add_set_async(Context& context, const std::string& name,
                                    const std::vector<int>& ranks);
Set add_set(Context& context, const std::string& name, const std::vector<int>& ranks);

/// An operation, the same on all ranks.
struct Recipe {
  std::string name;
  CollectiveKind kind = CollectiveKind::Allreduce;
  DataType dtype = DataType::Float32;
  DeviceType device = DeviceType::Cpu;
  ReduceOp op = ReduceOp::Sum;
  double prescale = 1.0;
  double postscale = 1.0;
  /// Broadcast: index of the member that gives.
  std::size_t root_member = 0;
  /// Elements; or rows, to which an all-gather and an all-to-all may add a few.
  std::int64_t count = 1;
  /// For the values.
  std::uint64_t seed = 0;
  /// Not 0: of this plan; an all-gather then has as many rows on each member.
  PlanId plan = 0;
  /// Who submits it waits at once.
  bool awaited = false;
  /// By Context::run(), where that is for it.
  bool runs = false;
};

/// One rank's part in an operation.
class Call {
 public:
  /// Submits or runs it.
  Call(Context& context, const Set& set, Recipe recipe);

  const Work& work() const { return *work_; }

  /// Waits as users do, and says how it went.
  Status wait() const { return work_ == nullptr ? ended_ : work_->wait(); }

  /// Waits, for the GPU as well; the result must be the right one.
  void check() const;

 private:
  Shape shape_of(int rank) const;
  /// Alltoall: rows that a rank gives to each member. Whether they are told, or are equal.
  std::vector<std::int64_t> splits_of(int rank) const;
  bool tells_splits() const { return recipe_.seed % 3 != 0; }
  /// Each host has as many consecutive ranks.
  int host_of(int rank) const { return rank / ranks_per_host_; }
  oracle::Bytes input_of(int rank) const;
  oracle::Bytes expected() const;
  std::vector<std::int64_t> slices() const;
  std::vector<std::int64_t> expected_rows() const;
  std::size_t member_of(int rank) const;
  oracle::Bytes rows_of(const oracle::Bytes& tensor, const std::vector<std::int64_t>& rows,
                        std::size_t index) const;

  Set set_;
  int rank_;
  int ranks_per_host_;
  Recipe recipe_;
  /// Owned by the submission as well, which may outlive this.
  std::shared_ptr<oracle::Bytes> input_;
  std::shared_ptr<oracle::Bytes> output_;
  /// Null, and how it ended, when it was run.
  std::shared_ptr<Work> work_;
  Status ended_;
};

/// A blocking call, whose result must be the right one.
void run(Context& context, const Set& set, Recipe recipe);

/// Any kind, dtype, op and size, by the seed.
Recipe random_recipe(const std::string& name, std::uint64_t seed, const Set& set);

/// What a test makes of a recipe, the same on all ranks.
using Change = std::function<void(Recipe&)>;

/// Operations of every kind, submitted by each rank in an order of its own, and all checked.
void run_in_random_order(
    Context& context, const Set& set, std::size_t operations, std::uint64_t seed,
    const Change& change = [](Recipe&) {});

/// Operations of three plans, and as many that are negotiated, interleaved on each rank in a way of
/// its own.
void run_plans(
    Context& context, const Set& set, std::size_t rounds, std::uint64_t seed,
    const Change& change = [](Recipe&) {});

/// Two threads of each rank, each with a process set of its own that has all ranks.
void run_two_sets(
    Context& context, int rounds, const Change& change = [](Recipe&) {});

}  // namespace kolo::core::programs

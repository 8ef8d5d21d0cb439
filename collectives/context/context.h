#pragma once

/// Everything that a rank of Kolo is, in one object: planes, coordinator, timeline.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/config.h"
#include "base/doorbell.h"
#include "base/log.h"
#include "base/topology.h"
#include "context/retired_memory.h"
#include "control/control_plane.h"
#include "data/data_plane.h"
#include "engine/blocking_allreduce.h"
#include "engine/coordinator.h"
#include "engine/timeline.h"
#include "engine/trace_relay.h"

namespace kolo::core {

struct Agreement;

/// How a rank reaches the others.
struct Planes {
  std::unique_ptr<ControlPlane> control;
  std::unique_ptr<DataPlane> data;
  /// See Context::gpu().
  Result<std::optional<int>> gpu = std::optional<int>();
  /// For the log, if not empty: what the user should know about them, and what they are.
  std::string warning;
  std::string description;
};

/// Makes planes that ring the given doorbell, which outlives them.
using Connect = std::function<Result<Planes>(const Config&, Doorbell&)>;

/// Planes of a rank in the job that this process belongs to: under a launcher, or when the program
/// has started MPI itself, shared memory within a host and MPI beyond; otherwise the process is
/// alone and MPI is not touched.
Result<Planes> connect_to_job(const Config& config, Doorbell& doorbell);

/// If the program finalises MPI, `leave` is called first, while Kolo can still use it.
Status leave_before_mpi(void (*leave)());

/// Finalises MPI now, if Kolo has started it and nobody has finalised it. Collective.
void end_own_mpi();

class Context {
 public:
  /// Collective: returns when all ranks have called it. Fails on every rank when the ranks'
  /// settings do not go together, or one of them cannot start.
  static Result<std::unique_ptr<Context>> create(const Config& config, const Connect& connect);

  /// Leaves: see Coordinator::leave().
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// In a child of fork() (base/forked.h) nothing is submitted, or told to anybody: there all that can
  /// fail does. The Context itself is not to be destroyed there.

  const Topology& topology() const { return topology_; }

  /// Starts an operation. A name that is empty is replaced by the kind and a running number. Never
  /// blocks; errors come through the returned Work. Thread-safe.
  std::shared_ptr<Work> submit(Submission submission);

  /// As submit(allreduce.submission())->wait(), and quicker where its name recurs. Thread-safe.
  Status run(const BlockingAllreduce& allreduce);

  /// This rank submits nothing more of the plan: the other members' later operations of it fail. When all
  /// members have said so, nothing is left of it. The members of the set have agreed on an operation
  /// before. Never blocks. Thread-safe.
  void end_plan(ChannelId process_set, PlanId plan);

  /// Fails everything on all ranks, for this reason, which is this rank's. Never blocks. Thread-safe.
  void give_up(const std::string& reason) { coordinator_->give_up(reason); }

  /// 0, 1, 2, …: for names that are the same on all ranks, as long as these ask in the same order.
  /// Thread-safe.
  int take_number() { return next_number_++; }

  /// The threads of this rank, and what they wait for. Thread-safe.
  Waiters& waiters() { return coordinator_->waiters(); }

  /// Into the log. Thread-safe.
  void inform(const std::string& message);
  void warn(const std::string& message);

  /// Memory of the host, or of this rank's GPU, aligned for all planes. It may outlive the Context.
  /// Thread-safe.
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes);

  /// Lets go of memory of this rank's GPU once that has come to these moments, some time later.
  /// Thread-safe.
  void retire(std::shared_ptr<void> memory, RetiredMemory::Events last_uses);

  const Config& config() const { return config_; }

  /// The GPU that this rank uses, by its number in this process; none where there is no GPU (or this
  /// build has no use for one). An error where the ranks of the host cannot share the GPUs that there
  /// are, or CUDA's driver or NCCL are missing or too old for them.
  const Result<std::optional<int>>& gpu() const { return planes_.gpu; }

  /// Null when there is none. Thread-safe.
  Timeline* timeline() { return timeline_.get(); }

  /// As in the destructor: after it every submission fails. Thread-safe, idempotent.
  void leave();

 private:
  explicit Context(const Config& config) : config_(config) {}
  Status start(const Agreement& agreement);

  const Config config_;
  std::shared_ptr<spdlog::logger> logger_;
  Doorbell doorbell_;
  Planes planes_;
  Topology topology_;
  /// On another host than rank 0's.
  std::unique_ptr<TraceRelay> relay_;
  std::unique_ptr<Timeline> timeline_;
  std::mutex mutex_;
  std::map<std::pair<ChannelId, CollectiveKind>, std::int64_t> unnamed_;  // guarded by mutex_
  std::atomic<int> next_number_{0};
  RetiredMemory retired_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace kolo::core

#pragma once

/// Turns submissions of all ranks into operations that all ranks run: on a thread of its own, or on one
/// that waits (baton.h says who works when).
///
/// How ranks agree on what they submit is in process_sets.h. Here are who works on it, and when; what
/// else ranks say to each other; and a rank's life.
///
/// Nobody listens without need. In a rank that has submitted nothing nobody hears the doorbell: no
/// operation of its sets can complete without it, so what others have sent can wait until it submits,
/// too. A leader whose call was refused, or has failed, stays awake until it has told the others.
///
///   state     meaning                               leaves it
///   --------  ------------------------------------  ------------------------------------------------
///   Running   submissions are negotiated            leave() -> Leaving; a broken plane here,
///                                                   give_up(), or a Failure from another rank ->
///                                                   Failed
///   Failed    every submission ends with the first  leave(): ends, as the others have been told
///             failure's message
///   Leaving   this rank has sent Leave to the       AllLeft from the leader of each of its sets (sent
///             leaders of its sets; it still runs    after Leave from all members), with nothing in
///             what had been agreed on before        flight and nothing still to be sent; or a failure
///
/// Leave withdraws what the rank had submitted: the leader fails what is not yet agreed on, on all
/// ranks, and whatever is submitted to that set later. It says how many operations of each plan the rank
/// has submitted, which it still runs; by MemberLeft the leader passes that on, and the members end the
/// plans there. A plan can end before (plans.h): each member tells the leader, which tells all members, and
/// nothing is left of it when all have. Messages between two ranks arrive in order, so a
/// rank knows of everything agreed on in a set before it hears AllLeft for that set.

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/config.h"
#include "base/doorbell.h"
#include "base/log.h"
#include "control/control_plane.h"
#include "data/data_plane.h"
#include "engine/baton.h"
#include "engine/blocking_allreduce.h"
#include "engine/circle_watch.h"
#include "engine/engine_trace.h"
#include "engine/executor.h"
#include "engine/leave_monitor.h"
#include "engine/plans.h"
#include "engine/process_sets.h"
#include "engine/stall_monitor.h"
#include "engine/trace_relay.h"
#include "engine/work.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace kolo::core {

class Coordinator final : private Baton::Holder {
 public:
  struct Planes {
    ControlPlane& control;
    DataPlane& data;
    /// What the planes ring.
    Doorbell& doorbell;
  };

  /// What is recorded, and, on another host than rank 0's, the relay that it goes through. May be
  /// null.
  struct Trace {
    Timeline* timeline = nullptr;
    TraceRelay* relay = nullptr;
  };

  /// All of these must outlive the coordinator. `baton`: of the planes' doorbell.
  Coordinator(const Config& config, Planes planes, std::shared_ptr<Baton> baton, Trace trace,
              spdlog::logger& logger);

  /// Leaves.
  ~Coordinator() override;

  /// Starts the thread, before anything is submitted. Fails when there is none to be had: then it is to be
  /// abandoned.
  Status start();

  /// What ranks that had started before have said: Blocked. Before anything is submitted.
  void hear(const std::vector<Envelope>& early);

  /// In place of leave(), where another rank could not start: nobody listens, so nothing is said.
  void abandon();

  /// Never blocks; errors come through the submission's Work. Thread-safe.
  void submit(SubmissionPtr submission);

  /// Runs an all-reduce whose name recurs on the caller's thread, if this rank has nothing else
  /// under way. Unless it was started, it is to be submitted, which says why. Thread-safe.
  Executor::RunNow run_now(const BlockingAllreduce& allreduce);

  /// See Context::end_plan(). Thread-safe.
  void end_plan(ChannelId plan);

  /// See Context::give_up(). Thread-safe.
  void give_up(const std::string& reason);

  /// Returns when all ranks have left. Thread-safe, idempotent.
  void leave();

  /// Of this rank. Thread-safe.
  Waiters& waiters() { return baton_->waiters(); }

  /// After leave(): it did not wait any longer for ranks that have not left.
  bool has_left_early() const { return has_left_early_; }

 private:
  void run_thread();
  void run(const Work* awaited) noexcept override;
  bool has_work() override;
  bool finished() const;
  Result<bool> advance();

  Result<bool> progress();

  Result<bool> take_submissions();
  Status tell_end(ChannelId plan);
  Status begin_leaving();
  Status relay_trace();

  Result<bool> receive();
  Status handle(int source, std::shared_ptr<const RequestList> list);
  Status handle(int source, const ResponseList& list);
  Status handle(int source, const Leave& leave);
  Status handle(int source, const AllLeft& all_left);
  Status handle(int source, const Failure& failure);
  Status handle(int source, const StallNotice& notice);
  Status handle(int source, const Hello& hello);
  Status handle(int source, const Welcome& welcome);
  Status handle(int source, const TraceLines& trace);
  Status handle(int source, const MemberLeft& member_left);
  Status handle(int source, const PlanEnd& plan_end);

  Result<bool> release_members();
  Status report_stalls();
  Status watch_circles();
  Status send(std::span<const int> destinations, const Message& message);
  Status send(int destination, const Message& message) { return send({&destination, 1}, message); }
  void fail_everywhere(const std::string& reason);
  void fail_all(const std::string& reason);
  void fail(const std::string& reason);
  bool expecting() const;
  void pause(Clock::duration idle, int looks, bool calling);

  ControlPlane& control_;
  Doorbell& doorbell_;
  const std::shared_ptr<Baton> baton_;
  const DataPlane& data_;
  /// This host has more ranks than cores.
  const bool crowded_;
  spdlog::logger& logger_;
  const int rank_;
  TraceRelay* const relay_;
  std::unique_ptr<EngineTrace> trace_;
  Executor executor_;
  Plans plans_;
  ProcessSets sets_;
  StallMonitor stalls_;
  CircleWatch circles_;
  LeaveMonitor leaves_;

  std::mutex mutex_;
  std::vector<SubmissionPtr> submitted_;  // guarded by mutex_
  std::vector<ChannelId> ended_;       // guarded by mutex_
  std::string given_up_;               // guarded by mutex_
  bool leave_called_ = false;          // guarded by mutex_
  /// Any of these is new; written under mutex_.
  std::atomic<bool> news_ = false;

  // The rest belongs to who holds the baton.
  /// What was submitted and is taken now; its memory is submitted_'s the next time.
  std::vector<SubmissionPtr> taken_;
  /// When the look at hand began.
  Clock::time_point now_ = Clock::now();
  Decoder decode_;
  std::string failure_;
  /// An operation has failed, and until then its cause may be told.
  struct Suspicion {
    Status status;
    Clock::time_point until;
    int looks = 0;
  };
  std::optional<Suspicion> suspicion_;
  bool leaving_ = false;
  bool has_left_early_ = false;
  /// Sets for which AllLeft has come, or was sent.
  std::set<ChannelId> all_left_;
  std::once_flag join_once_;
  std::thread thread_;
};

}  // namespace kolo::core

#include "engine/coordinator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/threads.h"
#include "base/cpu_quota.h"
#include "engine/default_arithmetic.h"

namespace kolo::core {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

/// Looks for work in this time without sleeping. The thread that submits, or another rank, may share the
/// core: it is offered to them, except by a caller that has a core of its own.
constexpr auto kAwakeFor = microseconds(20);
/// About as long, for what needs nothing but the other ranks' data.
constexpr Executor::Looks kLooksAtOnce{.most = 200};
/// A caller on a host with more ranks than cores looks so often, however long it takes until it has
/// its turn again: mostly the others come meanwhile, and are spared to wake it.
constexpr Executor::Looks kLooksInCrowd{.most = 4, .gives_way = true};
/// Then it sleeps until a plane rings; or, where none does, for a fraction of the time that it has
/// been idle, within these bounds: an answer is seen late by at most that fraction, and a long wait
/// costs next to nothing.
constexpr int kSleepFraction = 8;
constexpr auto kShortestSleep = microseconds(20);
constexpr auto kLongestSleep = milliseconds(5);
/// An operation that fails waits so long, and for as many looks, to hear that another rank is the cause.
constexpr auto kHearsay = milliseconds(100);
constexpr int kHearsayLooks = 20;

/// What `work` gives, or an error when there is not enough memory for it.
template <typename Work>
auto within_memory(Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return Status::error("out of memory");
  }
}

}  // namespace

Coordinator::Coordinator(const Config& config, Planes planes, std::shared_ptr<Baton> baton,
                         Trace trace, spdlog::logger& logger)
    : control_(planes.control),
      doorbell_(planes.doorbell),
      baton_(std::move(baton)),
      data_(planes.data),
      crowded_(planes.control.topology().local_size >
               within_cpu_quota(static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)))),
      logger_(logger),
      rank_(planes.control.topology().rank),
      relay_(trace.relay),
      trace_(trace.timeline == nullptr ? nullptr : std::make_unique<EngineTrace>(*trace.timeline)),
      executor_(planes.data,
                static_cast<std::size_t>(config.fusion_threshold.value_or(kDefaultFusionThreshold)),
                trace_.get()),
      plans_(executor_),
      sets_(planes.control.topology(), planes.data, executor_, plans_, trace_.get(),
            [this](std::span<const int> ranks, const Message& message) {
              return send(ranks, message);
            }),
      stalls_(config, rank_, logger),
      circles_(config, rank_, baton_->waiters(), sets_,
               [this](std::span<const int> ranks, const Message& message) {
                 return send(ranks, message);
               }),
      leaves_(config, planes.control.topology(), logger) {
  baton_->serve(*this);
}

Coordinator::~Coordinator() { leave(); }

Status Coordinator::start() {
  Result<std::thread> thread = start_thread("kolo", [this] { run_thread(); });
  if (!thread.ok()) return thread.status();
  thread_ = std::move(thread).value();
  return {};
}

void Coordinator::hear(const std::vector<Envelope>& early) {
  for (const Envelope& envelope : early) {
    const Result<Message> message = decode(envelope.bytes);
    if (message.ok()) (void)circles_.handle(envelope.source, std::get<Blocked>(message.value()));
  }
}

void Coordinator::abandon() {
  // Nobody has had the baton yet. So it is finished at once.
  failure_ = "the ranks could not start";
  leaving_ = true;
  leave();
}

void Coordinator::submit(SubmissionPtr submission) {
  const bool awaited = submission->awaited;
  // A plan's are also submitted by threads of LibTorch's.
  if (submission->plan == 0) waiters().count_caller();
  submission->work->work_with(baton_);
  {
    const std::lock_guard lock(mutex_);
    if (leave_called_) {
      return submission->work->complete(Status::error(
          fmt::format("{}: submitted after kolo::shutdown()", label(submission->request))));
    }
    submitted_.push_back(std::move(submission));
    news_.store(true, std::memory_order_relaxed);
  }
  baton_->call(awaited);
}

Executor::RunNow Coordinator::run_now(const BlockingAllreduce& allreduce) {
  waiters().count_caller();
  if (!baton_->take_if_idle()) return {};
  const DefaultArithmetic arithmetic;
  Result<Executor::RunNow> ran = within_memory(
      [&] { return sets_.run_now(allreduce, crowded_ ? kLooksInCrowd : kLooksAtOnce); });
  if (!ran.ok()) {
    suspicion_ = {ran.status(), Clock::now() + kHearsay};
  } else if (ran.value().state == Executor::RunNow::State::Late) {
    const Work& work = *ran.value().work;
    ran.value().work->work_with(baton_);
    const Waiters::Waiting waiting(waiters(), work);
    run(&work);
  }
  baton_->give_back();
  return ran.ok() ? std::move(ran).value() : Executor::RunNow();
}

void Coordinator::end_plan(ChannelId plan) {
  {
    const std::lock_guard lock(mutex_);
    if (leave_called_) return;
    ended_.push_back(plan);
    news_.store(true, std::memory_order_relaxed);
  }
  baton_->call(/*awaited=*/false);
}

void Coordinator::give_up(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (leave_called_ || !given_up_.empty()) return;
    given_up_ = reason;
    news_.store(true, std::memory_order_relaxed);
  }
  baton_->call(/*awaited=*/false);
}

void Coordinator::leave() {
  {
    const std::lock_guard lock(mutex_);
    leave_called_ = true;
    news_.store(true, std::memory_order_relaxed);
  }
  baton_->close();
  std::call_once(join_once_, [this] {
    if (thread_.joinable()) thread_.join();
  });
}

void Coordinator::run_thread() {
  bool over = false;
  while (!over) {
    baton_->take();
    run(/*awaited=*/nullptr);
    over = finished();
    if (over) sets_.end("kolo::shutdown() was called before it was done");
    baton_->give_back();
  }
}

void Coordinator::run(const Work* awaited) noexcept {
  const DefaultArithmetic arithmetic;
  Clock::time_point idle_since = now_ = Clock::now();
  int looks = 0;
  while (!finished() && !baton_->recalled()) {
    const Result<bool> moved = within_memory([this] { return advance(); });
    if (!moved.ok()) fail_all(moved.status().message());
    if (awaited != nullptr && awaited->done()) return;
    if (moved.ok() && moved.value()) {
      idle_since = now_ = Clock::now();
      looks = 0;
    } else if (has_work()) {
      pause(now_ - idle_since, ++looks, /*calling=*/awaited != nullptr);
      now_ = Clock::now();
    } else {
      return;
    }
  }
}

/// Besides what can come from other ranks, what is to be taken from this one's users. Whoever
/// brings that calls the baton afterwards, so it does not matter if it is seen only then.
bool Coordinator::has_work() {
  if (expecting()) return true;
  if (relay_ != nullptr && !leaving_ && !relay_->empty()) return true;
  return news_.load(std::memory_order_relaxed);
}

bool Coordinator::finished() const {
  if (!leaving_) return false;
  if (!failure_.empty()) return true;
  // Who waits for a message of this rank still receives.
  return executor_.idle() && !control_.sending() &&
         std::ranges::all_of(sets_.all(), [this](const auto& entry) {
           return all_left_.contains(entry.first);
         });
}

/// One look at everything that can have changed. True when something has.
Result<bool> Coordinator::advance() {
  const Result<bool> taken = take_submissions();
  if (!taken.ok()) return taken;
  const Result<bool> received = receive();
  if (!received.ok()) return received;
  const Result<bool> answered = sets_.answer();
  if (!answered.ok()) return answered;
  const Result<bool> released = release_members();
  if (!released.ok()) return released;
  const Result<bool> progressed = progress();
  if (!progressed.ok()) return progressed;
  if (Status status = sets_.hand_in_again(executor_.take_declined(), now_); !status.ok()) {
    return status;
  }
  if (Status status = report_stalls(); !status.ok()) return status;
  if (Status status = watch_circles(); !status.ok()) return status;
  return taken.value() || received.value() || answered.value() || released.value() ||
         progressed.value();
}

/// What fails may be the consequence of another rank's failure, or of a leave, of which this rank has
/// yet to hear.
Result<bool> Coordinator::progress() {
  if (!suspicion_) {
    const Result<bool> progressed = executor_.progress();
    if (progressed.ok()) return progressed;
    suspicion_ = {progressed.status(), Clock::now() + kHearsay};
  }
  if (!failure_.empty() || executor_.failure_is_moot()) {
    suspicion_.reset();
    return true;
  }
  if (++suspicion_->looks < kHearsayLooks || now_ < suspicion_->until) return false;
  return std::exchange(suspicion_, std::nullopt)->status;
}

/// Whether anything can come from other ranks that somebody waits for.
bool Coordinator::expecting() const {
  if (!failure_.empty()) return control_.sending();
  return suspicion_ || sets_.expecting() || leaving_ || control_.sending() || !executor_.idle();
}

/// After so many looks in vain, in that time.
void Coordinator::pause(Clock::duration idle, int looks, bool calling) {
  const bool awake = calling && crowded_ ? looks <= kLooksInCrowd.most : idle < kAwakeFor;
  if (awake) {
    if (!calling || crowded_) std::this_thread::yield();
    return;
  }
  if (control_.rings() && data_.rings() && !suspicion_) {
    return doorbell_.wait_for(std::min<nanoseconds>(StallMonitor::kInterval, circles_.interval()));
  }
  doorbell_.wait_for(std::clamp<nanoseconds>(idle / kSleepFraction, kShortestSleep, kLongestSleep));
}

// ---- from this rank's users ----

Result<bool> Coordinator::take_submissions() {
  taken_.clear();
  std::vector<ChannelId> ended;
  bool leave = false;
  std::string given_up;
  {
    const std::lock_guard lock(mutex_);
    given_up = given_up_;
    taken_.swap(submitted_);
    ended.swap(ended_);
    news_.store(false, std::memory_order_relaxed);
    // Nothing is submitted after the call.
    leave = leave_called_ && !leaving_;
  }
  if (Status status = sets_.hand_in(taken_, now_); !status.ok()) return status;
  for (const ChannelId plan : ended) {
    if (Status status = tell_end(plan); !status.ok()) return status;
  }
  if (!given_up.empty() && failure_.empty()) return Status::error(given_up);
  if (Status status = relay_trace(); !status.ok()) return status;
  if (leave) {
    if (Status status = begin_leaving(); !status.ok()) return status;
  }
  return leave || !taken_.empty() || !ended.empty();
}

/// After what was submitted of the plan. A failure has ended it already.
Status Coordinator::tell_end(ChannelId plan) {
  if (!failure_.empty()) return {};
  const PlanEnd plan_end{rank_, plans_.end_here(plan)};
  const int leader = sets_.all().at(process_set_of(plan)).leader();
  return leader == rank_ ? handle(rank_, plan_end) : send(leader, plan_end);
}

/// What comes after Leave is lost: rank 0 may be gone.
Status Coordinator::relay_trace() {
  if (relay_ == nullptr || leaving_) return {};
  for (std::string& lines : relay_->take()) {
    if (Status status = send(0, TraceLines{std::move(lines)}); !status.ok()) return status;
  }
  return {};
}

Status Coordinator::begin_leaving() {
  leaving_ = true;
  leaves_.begin(now_);
  std::set<int> leaders;
  for (const auto& [id, set] : sets_.all()) leaders.insert(set.leader());
  leaders.erase(rank_);
  const Leave leave{plans_.progress()};
  if (!failure_.empty()) {
    // Who leaves because of a failure must not look like the cause of it.
    for (int rank = 0; rank < control_.topology().size; ++rank) {
      if (Status status = send(rank, Failure{failure_}); !status.ok()) return status;
    }
    return handle(rank_, leave);
  }
  for (const int leader : leaders) {
    if (Status status = send(leader, leave); !status.ok()) return status;
  }
  return handle(rank_, leave);
}

// ---- from other ranks ----

Result<bool> Coordinator::receive() {
  bool received = false;
  while (true) {
    Result<std::optional<Envelope>> envelope = control_.receive();
    if (!envelope.ok()) return envelope.status();
    if (!envelope.value().has_value()) return received;
    received = true;
    const int source = envelope.value()->source;
    const Result<std::shared_ptr<const Message>> decoded =
        decode_(std::move(envelope.value()->bytes));
    if (!decoded.ok()) {
      return Status::error(fmt::format("from rank {}: {}", source, decoded.status().message()));
    }
    const std::shared_ptr<const Message>& message = decoded.value();
    Status status = std::visit(
        [&]<typename M>(const M& m) {
          if constexpr (std::is_same_v<M, RequestList>) {
            return handle(source, std::shared_ptr<const M>(message, &m));
          } else if constexpr (std::is_same_v<M, Blocked> || std::is_same_v<M, CircleQuestion> ||
                               std::is_same_v<M, CircleAnswer>) {
            return circles_.handle(source, m);
          } else {
            return handle(source, m);
          }
        },
        *message);
    if (!status.ok()) return status;
  }
}

Status Coordinator::handle(int source, std::shared_ptr<const RequestList> list) {
  return sets_.handle(source, std::move(list), now_);
}

Status Coordinator::handle(int source, const ResponseList& list) {
  return sets_.handle(source, list);
}

Status Coordinator::handle(int source, const Leave& leave) {
  for (const ChannelId id : sets_.leave(source)) {
    const MemberLeft member_left{id, source, leave.plans};
    // Also to those that have left: they may have operations in flight that this one will not
    // start.
    for (const int rank : sets_.all().at(id).ranks) {
      if (rank == rank_ || rank == source) continue;
      if (Status status = send(rank, member_left); !status.ok()) return status;
    }
    if (Status status = handle(rank_, member_left); !status.ok()) return status;
  }
  return {};
}

Status Coordinator::handle(int /*source*/, const MemberLeft& member_left) {
  plans_.end(member_left);
  if (member_left.channel == kWorldChannel) leaves_.left(member_left.rank);
  return {};
}

Status Coordinator::handle(int /*source*/, const PlanEnd& plan_end) {
  const Channel& set = sets_.all().at(process_set_of(plan_end.plan.channel));
  if (set.negotiator != nullptr) {
    if (Status status = send(set.ranks, plan_end); !status.ok()) return status;
  }
  plans_.end(plan_end, set);
  return {};
}

Status Coordinator::handle(int /*source*/, const AllLeft& all_left) {
  all_left_.insert(all_left.channel);
  return {};
}

Status Coordinator::handle(int /*source*/, const Failure& failure) {
  fail(failure.reason);
  return {};
}

Status Coordinator::handle(int /*source*/, const StallNotice& notice) {
  const auto found = sets_.all().find(notice.channel);
  if (found != sets_.all().end()) found->second.quiet_since = now_;
  return {};
}

Status Coordinator::handle(int source, const Hello& /*hello*/) {
  return Status::error(fmt::format("rank {} starts anew while the others are running", source));
}

Status Coordinator::handle(int source, const Welcome& /*welcome*/) {
  return Status::error(fmt::format("rank {} starts anew while the others are running", source));
}

Status Coordinator::handle(int /*source*/, const TraceLines& trace) {
  if (trace_ != nullptr) trace_->relayed(trace.lines);
  return {};
}

// ---- telling others, and failing ----

/// Of the sets that this rank leads, and has itself left: after the last answers.
Result<bool> Coordinator::release_members() {
  if (!leaving_) return false;
  bool released = false;
  for (const auto& [id, set] : sets_.all()) {
    if (set.leader() != rank_ || all_left_.contains(id)) continue;
    if (!std::ranges::includes(sets_.left(), set.ranks)) continue;
    released = true;
    all_left_.insert(id);
    if (Status status = send(set.ranks, AllLeft{id}); !status.ok()) return status;
  }
  return released;
}

Status Coordinator::report_stalls() {
  const Result<StallMonitor::Notices> notices = stalls_.check(sets_.all(), executor_, now_);
  if (!notices.ok()) {
    // Not this rank has failed: it has waited for others.
    fail_everywhere(notices.status().message());
    return {};
  }
  for (const auto& [rank, notice] : notices.value()) {
    if (Status status = send(rank, notice); !status.ok()) return status;
  }
  if (!leaving_ || all_left_.contains(kWorldChannel)) return {};
  Status waited = leaves_.check(now_);
  has_left_early_ = !waited.ok();
  return waited;
}

Status Coordinator::watch_circles() {
  if (!failure_.empty() || !circles_.due(now_)) return {};
  const Result<std::optional<std::string>> circle = circles_.look(now_, leaving_);
  if (!circle.ok()) return circle.status();
  if (circle.value()) fail_everywhere(*circle.value());
  return {};
}

/// Also to the others when one cannot be told.
Status Coordinator::send(std::span<const int> destinations, const Message& message) {
  const std::vector<std::byte> bytes = encode(message);
  Status result;
  for (const int destination : destinations) {
    if (destination == rank_) continue;
    if (Status status = control_.send(destination, bytes); !status.ok()) result = status;
  }
  return result;
}

/// In the same words on all ranks.
void Coordinator::fail_everywhere(const std::string& reason) {
  for (int rank = 0; failure_.empty() && rank < control_.topology().size; ++rank) {
    // Best effort: the plane that would carry the news may be what has failed.
    if (rank != rank_) (void)send(rank, Failure{reason});
  }
  fail(reason);
}

/// This rank's own failure is all ranks'.
void Coordinator::fail_all(const std::string& reason) {
  fail_everywhere(fmt::format("rank {} has failed: {}", rank_, reason));
}

/// The first failure wins, and lasts.
void Coordinator::fail(const std::string& reason) {
  if (failure_.empty()) {
    failure_ = reason;
    // A peer ends when all have left, which this rank may not have read yet when it finds that peer
    // gone. What has failed besides is told by those that have not left.
    logger_.log(leaving_ ? spdlog::level::info : spdlog::level::err, "{}", reason);
  }
  // What lacked the memory to be handed in.
  taken_.clear();
  sets_.end(failure_);
  executor_.fail(failure_);
}

}  // namespace kolo::core

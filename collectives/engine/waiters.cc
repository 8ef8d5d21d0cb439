#include "engine/waiters.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <mutex>
#include <set>
#include <utility>

namespace kolo::core {

struct KnownThread {
  const pid_t id = gettid();
  // Written by the thread itself alone.
  std::atomic<const Work*> awaited = nullptr;
  std::atomic<std::uint64_t> changes = 0;
  // Guarded by the mutex of all.
  std::string activity;
  /// See Activity.
  std::optional<pid_t> caller;

  void change() {
    changes.store(changes.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
};

struct KnownThreads {
  std::mutex mutex;
  std::vector<std::shared_ptr<KnownThread>> all;
  /// Those of threads that have ended, and one for each that has come or gone.
  std::uint64_t changes = 0;

  void remove(const std::shared_ptr<KnownThread>& thread) {
    const std::lock_guard lock(mutex);
    changes += thread->changes + 1;
    std::erase(all, thread);
  }
};

namespace {

std::atomic<std::uint64_t> next_id = 1;

/// What the calling thread is where it was counted last.
constinit thread_local KnownThread* latest = nullptr;
/// It has ended, but for what runs at exit.
constinit thread_local bool over = false;

/// As the calling thread is known, by rank: in tests ranks are threads.
struct Memberships {
  struct Membership {
    std::uint64_t id;
    std::weak_ptr<KnownThreads> threads;
    std::shared_ptr<KnownThread> thread;
  };
  std::vector<Membership> all;

  ~Memberships() {
    over = true;
    latest = nullptr;
    for (const Membership& membership : all) {
      if (const auto threads = membership.threads.lock()) threads->remove(membership.thread);
    }
  }
};
thread_local Memberships memberships;

/// The thread for whose end this one waits in pthread_join(), which is a futex whose expected value
/// is that thread's id; nothing when it does anything else, or there is no telling.
std::optional<pid_t> joined_by(pid_t thread) {
  std::ifstream file(fmt::format("/proc/self/task/{}/syscall", thread));
  std::string number;
  std::string address, operation, value, timeout;
  if (!(file >> number >> address >> operation >> value >> timeout)) return std::nullopt;
  if (number != std::to_string(SYS_futex) || timeout != "0x0") return std::nullopt;
  return static_cast<pid_t>(std::strtol(value.c_str(), nullptr, 16));
}

}  // namespace

Waiters::Waiters() : id_(next_id++), threads_(std::make_shared<KnownThreads>()) {}

Waiters::~Waiters() = default;

KnownThread* Waiters::caller() const {
  if (latest_id == id_) return latest;
  if (over) return nullptr;
  auto& mine = memberships.all;
  std::erase_if(mine, [](const auto& membership) { return membership.threads.expired(); });
  auto found = std::ranges::find(mine, id_, &Memberships::Membership::id);
  if (found == mine.end()) {
    const auto thread = std::make_shared<KnownThread>();
    found = mine.insert(mine.end(), {id_, threads_, thread});
    const std::lock_guard lock(threads_->mutex);
    threads_->all.push_back(thread);
    ++threads_->changes;
  }
  latest_id = id_;
  return latest = found->thread.get();
}

std::optional<std::vector<Waiters::Wait>> Waiters::all_wait() const {
  const std::lock_guard lock(threads_->mutex);
  std::vector<Wait> waits;
  std::set<pid_t> waiting;
  std::vector<pid_t> elsewhere;
  for (const auto& thread : threads_->all) {
    const Work* const work = thread->awaited.load(std::memory_order_acquire);
    if (work != nullptr) {
      waits.push_back({work, thread->activity});
      waiting.insert({thread->id, thread->caller.value_or(thread->id)});
    } else if (!thread->caller) {
      elsewhere.push_back(thread->id);
    }
  }
  const auto waits_too = [&waiting](pid_t thread) {
    if (waiting.contains(thread)) return true;
    const std::optional<pid_t> joined = joined_by(thread);
    return joined && waiting.contains(*joined);
  };
  while (!waiting.empty() && !elsewhere.empty()) {
    const auto still = std::stable_partition(elsewhere.begin(), elsewhere.end(), waits_too);
    if (still == elsewhere.begin()) return std::nullopt;
    waiting.insert(elsewhere.begin(), still);
    elsewhere.erase(elsewhere.begin(), still);
  }
  if (waits.empty()) return std::nullopt;
  return waits;
}

std::uint64_t Waiters::changes() const {
  const std::lock_guard lock(threads_->mutex);
  std::uint64_t changes = threads_->changes;
  for (const auto& thread : threads_->all)
    changes += thread->changes.load(std::memory_order_acquire);
  return changes;
}

Waiters::Waiting::Waiting(Waiters& waiters, const Work& work) : thread_(waiters.caller()) {
  if (thread_ == nullptr) return;
  thread_->change();
  thread_->awaited.store(&work, std::memory_order_release);
}

Waiters::Waiting::~Waiting() {
  if (thread_ == nullptr) return;
  thread_->change();
  thread_->awaited.store(nullptr, std::memory_order_release);
}

Waiters::Activity::Activity(Waiters& waiters, std::string words, std::optional<pid_t> caller)
    : waiters_(waiters), thread_(waiters.caller()) {
  if (thread_ == nullptr) return;
  const std::lock_guard lock(waiters_.threads_->mutex);
  before_ = std::exchange(thread_->activity, std::move(words));
  thread_->caller = caller;
}

Waiters::Activity::~Activity() {
  if (thread_ == nullptr) return;
  const std::lock_guard lock(waiters_.threads_->mutex);
  thread_->activity = std::move(before_);
}

}  // namespace kolo::core

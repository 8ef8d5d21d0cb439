#include "global.h"

#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/mpi.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <optional>

#include "base/forked.h"
#include "context/job.h"

namespace kolo {
namespace {

struct Global {
  std::mutex mutex;
  std::shared_ptr<core::Context> context;
  /// By process set, of that Context.
  std::map<core::ChannelId, std::weak_ptr<OptimizerFamily>> families;
};

/// Never destroyed: a child of fork() has no right to end what it has of its parent.
Global& global() {
  static Global& instance = *new Global();
  return instance;
}

/// Leaves before MPI is finalised and while LibTorch is still whole.
void leave_at_exit() {
  [[maybe_unused]] static const int registered = std::atexit([] { shutdown(); });
  // Which runs nothing of the above. A rank that has not left is missed by the others.
  [[maybe_unused]] static const int registered_quick = std::at_quick_exit([] {
    if (!core::is_forked_child() && !is_initialized()) core::end_own_mpi();
  });
}

std::shared_ptr<core::Context> running_context() {
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  return state.context;
}

void end(core::Context* context) {
  if (!core::is_forked_child()) delete context;
}

std::shared_ptr<core::Context> make_context(const core::GivenRanks& ranks) {
  const core::Result<core::Config> config = core::Config::from_environment();
  if (!config.ok()) {
    throw Error("kolo::init(): " + core::refuse_job(config.status(), ranks).message());
  }
  core::Result<std::unique_ptr<core::Context>> context =
      core::Context::create(config.value(), core::connect_to_ranks(ranks));
  if (!context.ok()) throw Error("kolo::init(): " + context.status().message());
  // A program that ends its own MPI need not end Kolo before.
  const core::Status prepared = core::leave_before_mpi([] {
    if (const auto running = running_context()) running->leave();
  });
  if (!prepared.ok()) context.value()->warn(prepared.message());
  return {context.value().release(), end};
}

/// On these ranks, or on all that there are.
void start(const core::GivenRanks& ranks) {
  detail::require_own_process();
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  if (state.context != nullptr) return;
  try {
    state.context = make_context(ranks);
  } catch (const std::bad_alloc&) {
    throw Error("kolo::init(): out of memory");
  }
  leave_at_exit();
}

}  // namespace

namespace detail {

void require_own_process() {
  if (core::is_forked_child()) throw Error(core::refused_in_child().message());
}

std::shared_ptr<core::Context> current_context() {
  require_own_process();
  std::shared_ptr<core::Context> context = running_context();
  if (context == nullptr) {
    throw Error("Kolo is not running: call kolo::init() first, and use nothing of Kolo after "
                "kolo::shutdown()");
  }
  return context;
}

std::shared_ptr<OptimizerFamily> latest_family(core::ChannelId process_set) {
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  return state.families[process_set].lock();
}

void set_latest_family(core::ChannelId process_set, const std::shared_ptr<OptimizerFamily>& family) {
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  state.families[process_set] = family;
}

}  // namespace detail

void init() { start(core::GivenRanks()); }

void init(MPI_Comm communicator) { start(communicator); }

void shutdown() noexcept {
  if (core::is_forked_child()) return;
  Global& state = global();
  std::shared_ptr<core::Context> context;
  {
    const std::lock_guard lock(state.mutex);
    context.swap(state.context);
    state.families.clear();
  }
  // Others may hold the context, too, so its destructor is not enough.
  if (context != nullptr) context->leave();
}

bool is_initialized() noexcept {
  return !core::is_forked_child() && running_context() != nullptr;
}

int rank() { return detail::current_context()->topology().rank; }
int size() { return detail::current_context()->topology().size; }
int local_rank() { return detail::current_context()->topology().local_rank; }
int local_size() { return detail::current_context()->topology().local_size; }
int cross_rank() { return detail::current_context()->topology().cross_rank; }
int cross_size() { return detail::current_context()->topology().cross_size; }

torch::Device local_device() {
  const std::shared_ptr<core::Context> context = detail::current_context();
  const core::Result<std::optional<int>>& gpu = context->gpu();
  if (!gpu.ok()) throw Error("kolo::local_device(): " + gpu.status().message());
  if (!gpu.value()) return torch::kCPU;
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(*gpu.value())};
}

}  // namespace kolo

#include "global.h"

#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/mpi.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>

#include "context/job.h"

namespace kolo {
namespace {

struct Global {
  std::mutex mutex;
  std::shared_ptr<core::Context> context;
  /// By process set, of that Context.
  std::map<core::ChannelId, std::weak_ptr<OptimizerFamily>> families;
};

Global& global() {
  static Global instance;
  return instance;
}

/// Leaves before MPI is finalised and while LibTorch is still whole.
void leave_at_exit() {
  [[maybe_unused]] static const int registered = std::atexit([] { shutdown(); });
}

/// On these ranks, or on all that there are.
void start(const core::GivenRanks& ranks) {
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  if (state.context != nullptr) return;
  const core::Result<core::Config> config = core::Config::from_environment();
  if (!config.ok()) {
    throw Error("kolo::init(): " + core::refuse_job(config.status(), ranks).message());
  }
  core::Result<std::unique_ptr<core::Context>> context =
      core::Context::create(config.value(), core::connect_to_ranks(ranks));
  if (!context.ok()) throw Error("kolo::init(): " + context.status().message());
  state.context = std::move(context).value();
  leave_at_exit();
}

}  // namespace

namespace detail {

std::shared_ptr<core::Context> current_context() {
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  if (state.context == nullptr) {
    throw Error("Kolo is not running: call kolo::init() first, and use nothing of Kolo after "
                "kolo::shutdown()");
  }
  return state.context;
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
  Global& state = global();
  const std::lock_guard lock(state.mutex);
  return state.context != nullptr;
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

#include "doubles/control.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <shared_mutex>
#include <utility>

namespace kolo::doubles {
namespace {

/// How often something happened, by device and altogether. Relaxed, so that counting orders
/// nothing.
class Count {
 public:
  /// The n-th one, altogether and on the device.
  struct Place {
    std::int64_t of_all;
    std::int64_t of_device;
  };

  Place add(int device) {
    return {all_.fetch_add(1, std::memory_order_relaxed),
            at(device).fetch_add(1, std::memory_order_relaxed)};
  }
  std::int64_t read(int device) {
    return (device == kAnyDevice ? all_ : at(device)).load(std::memory_order_relaxed);
  }
  void clear() {
    all_.store(0, std::memory_order_relaxed);
    for (auto& count : by_device_) count.store(0, std::memory_order_relaxed);
  }

 private:
  std::atomic<std::int64_t>& at(int device) {
    return by_device_.at(static_cast<std::size_t>(device));
  }

  std::atomic<std::int64_t> all_ = 0;
  std::array<std::atomic<std::int64_t>, kMostDevices> by_device_ = {};
};

/// Something that a test wants done to the n-th of a device, or of all.
struct Target {
  std::int64_t n;
  int device;

  bool is(Count::Place place, int current) const {
    return device == kAnyDevice ? n == place.of_all : device == current && n == place.of_device;
  }
};

struct Failure {
  std::size_t function;
  Target target;
  int error;
};

/// Readers of the plans share the lock, which orders nothing between them.
struct Control {
  std::array<Count, kFunctions.size()> calls;
  Count waits;
  Count asked;
  std::array<std::atomic<bool>, kMostDevices> contexts = {};
  std::shared_mutex plans_mutex;
  Settings settings;
  std::vector<Failure> failures;
  std::vector<Target> skipped_waits;
  std::vector<Target> early_answers;
  std::mutex misuses_mutex;
  std::vector<std::string> misuses;
};

Control& control() {
  static Control& instance = *new Control;
  return instance;
}

thread_local int device_of_thread = 0;
thread_local bool is_stream_thread = false;

std::size_t index_of(std::string_view function) {
  const auto found = std::ranges::find(kFunctions, function);
  if (found == kFunctions.end()) {
    fmt::print(stderr, "the doubles of CUDA and NCCL have no function {}\n", function);
    std::abort();
  }
  return static_cast<std::size_t>(found - kFunctions.begin());
}

void plan_failure(std::string_view function, Target target, int error) {
  const std::unique_lock lock(control().plans_mutex);
  control().failures.push_back({index_of(function), target, error});
}

/// Counts one more, and says whether it is among the targets.
bool is_targeted(Count& count, const std::vector<Target>& targets) {
  const Count::Place place = count.add(device_of_thread);
  const std::shared_lock lock(control().plans_mutex);
  return std::ranges::any_of(
      targets, [&](const Target& target) { return target.is(place, device_of_thread); });
}

}  // namespace

int enter(Function function) {
  if (is_stream_thread) report_misuse(fmt::format("{} from a host function", function.name()));
  const int device = device_of_thread;
  const Count::Place place = control().calls.at(function.index()).add(device);
  const std::shared_lock lock(control().plans_mutex);
  for (const Failure& failure : control().failures) {
    if (failure.function == function.index() && failure.target.is(place, device)) {
      return failure.error;
    }
  }
  return 0;
}

bool wait_is_skipped() { return is_targeted(control().waits, control().skipped_waits); }

bool answer_is_early() { return is_targeted(control().asked, control().early_answers); }

void report_misuse(std::string message) {
  const std::lock_guard lock(control().misuses_mutex);
  control().misuses.push_back(std::move(message));
}

const Settings& settings() { return control().settings; }

std::chrono::microseconds longest_delay_of(int device) {
  return settings().longest_delay * (device == settings().slow_device ? 10 : 1);
}

int current_device() { return device_of_thread; }
void set_current_device(int device) {
  device_of_thread = device;
  control().contexts.at(static_cast<std::size_t>(device)) = true;
}
bool has_context(int device) { return control().contexts.at(static_cast<std::size_t>(device)); }
void mark_as_stream_thread() { is_stream_thread = true; }

void reset_control(const Settings& settings) {
  for (Count& count : control().calls) count.clear();
  control().waits.clear();
  control().asked.clear();
  for (auto& context : control().contexts) context = false;
  device_of_thread = 0;
  const std::unique_lock plans(control().plans_mutex);
  control().settings = settings;
  control().settings.devices = std::min(settings.devices, kMostDevices);
  control().failures.clear();
  control().skipped_waits.clear();
  control().early_answers.clear();
  const std::lock_guard misuses(control().misuses_mutex);
  control().misuses.clear();
}

void fail(std::string_view function, std::int64_t n, cudaError_t error, int device) {
  plan_failure(function, {n, device}, error);
}

void fail(std::string_view function, std::int64_t n, ncclResult_t error, int device) {
  plan_failure(function, {n, device}, error);
}

void skip_wait(std::int64_t n, int device) {
  const std::unique_lock lock(control().plans_mutex);
  control().skipped_waits.push_back({n, device});
}

std::int64_t waits(int device) { return control().waits.read(device); }

void answer_early(std::int64_t n, int device) {
  const std::unique_lock lock(control().plans_mutex);
  control().early_answers.push_back({n, device});
}

std::int64_t asked(int device) { return control().asked.read(device); }

std::int64_t calls(std::string_view function, int device) {
  return control().calls.at(index_of(function)).read(device);
}

std::vector<std::string> misuses() {
  const std::lock_guard lock(control().misuses_mutex);
  return control().misuses;
}

}  // namespace kolo::doubles

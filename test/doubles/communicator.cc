#include "doubles/communicator.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>

namespace kolo::doubles {
namespace {

struct Communicators {
  std::mutex mutex;
  std::deque<ncclComm> communicators;
  /// Relaxed, so that counting orders nothing.
  std::atomic<int> finalized = 0;
};

Communicators& all() {
  static Communicators& instance = *new Communicators;
  return instance;
}

thread_local std::string last_message;

}  // namespace

UseOfCommunicator::UseOfCommunicator(ncclComm_t communicator, std::string_view function)
    : communicator_(communicator), function_(function) {
  if (communicator_ == nullptr) return;
  if (communicator_->is_in_use.exchange(true, std::memory_order_relaxed)) {
    report_misuse(fmt::format("{} while another thread is inside a call with the communicator {}",
                              function_, communicator_->clique.index()));
  }
  ++communicator_->uses;
}

UseOfCommunicator::~UseOfCommunicator() {
  if (communicator_ != nullptr) communicator_->is_in_use.store(false, std::memory_order_relaxed);
}

ncclResult_t UseOfCommunicator::is_alive() const {
  if (communicator_ == nullptr) {
    return refuse(ncclInvalidArgument, fmt::format("{} without a communicator", function_));
  }
  if (communicator_->destroyed.load(std::memory_order_relaxed)) {
    report_misuse(fmt::format("{} with a communicator that was destroyed", function_));
    return refuse(ncclInvalidArgument, "the communicator was destroyed");
  }
  return ncclSuccess;
}

ncclResult_t UseOfCommunicator::is_settled() const {
  if (const ncclResult_t error = is_alive()) return error;
  const ncclResult_t state = communicator_->state();
  if (state != ncclInProgress) return state;
  report_misuse(fmt::format("{} before the communicator's last call was complete", function_));
  return refuse(ncclInvalidArgument,
                "Attempt to use communicator before the previous operation returned ncclSuccess");
}

ncclResult_t UseOfCommunicator::is_ready() const {
  if (const ncclResult_t error = is_settled()) return error;
  if (!communicator_->is_finalized) return ncclSuccess;
  report_misuse(fmt::format("{} with a communicator that was finalized", function_));
  return refuse(ncclInvalidArgument, "the communicator was finalized");
}

ncclComm_t create_communicator(Clique& clique, int rank, int ranks, bool is_blocking) {
  const std::lock_guard lock(all().mutex);
  const std::uint64_t seed = settings().seed * 1000 + 700 + all().communicators.size();
  return &all().communicators.emplace_back(clique, rank, ranks, current_device(), is_blocking,
                                           Delays(seed, longest_delay_of(current_device())));
}

ncclResult_t refuse(ncclResult_t error, std::string why) {
  last_message = std::move(why);
  return error;
}

ncclResult_t entered_nccl(Function function) {
  const auto error = static_cast<ncclResult_t>(enter(function));
  if (error == ncclSuccess) return ncclSuccess;
  return refuse(error, fmt::format("{} fails because a test wants it to", function.name()));
}

ncclResult_t state_or_end(ncclComm_t communicator) {
  if (!communicator->is_blocking) return ncclInProgress;
  while (communicator->is_in_progress.load(std::memory_order_acquire)) {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return communicator->clique.error(communicator->rank);
}

LiveCommunicators live_communicators() {
  const std::lock_guard lock(all().mutex);
  LiveCommunicators live;
  for (const ncclComm& communicator : all().communicators) {
    if (communicator.destroyed.load(std::memory_order_relaxed)) continue;
    ++live.communicators;
    live.registrations += static_cast<int>(communicator.registrations.size());
    live.reduction_operators += static_cast<int>(std::ranges::count_if(
        communicator.reductions, [](const auto& reduction) { return reduction.has_value(); }));
  }
  return live;
}

void count_finalized() { all().finalized.fetch_add(1, std::memory_order_relaxed); }

int finalized_communicators() { return all().finalized.load(std::memory_order_relaxed); }

void end_communicators() {
  const std::lock_guard lock(all().mutex);
  for (ncclComm& communicator : all().communicators) {
    if (communicator.destroyed.exchange(true, std::memory_order_relaxed)) continue;
    communicator.is_aborted.store(true, std::memory_order_release);
    communicator.launcher.close();
    communicator.launcher.join();
  }
}

void reset_communicators() {
  const std::lock_guard lock(all().mutex);
  all().communicators.clear();
  all().finalized.store(0, std::memory_order_relaxed);
}

}  // namespace kolo::doubles

using namespace kolo::doubles;  // NOLINT(google-build-using-namespace)

ncclResult_t ncclComm::state() {
  // First, so that what is complete has told its error.
  const bool in_progress = is_in_progress.load(std::memory_order_acquire);
  const ncclResult_t error = clique.error(rank);
  return error == ncclSuccess && in_progress ? ncclInProgress : error;
}

/// What NCCL's own last message was about: the communicator's error, or the thread's last refused
/// call.
const char* ncclGetLastError(ncclComm_t communicator) {
  if (communicator != nullptr) {
    std::string message = communicator->clique.message(communicator->rank);
    if (!message.empty()) last_message = std::move(message);
  }
  return last_message.c_str();
}

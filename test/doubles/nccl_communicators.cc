// NCCL's calls about communicators and what belongs to them.

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "doubles/communicator.h"

namespace kolo::doubles {
namespace {

constexpr unsigned kConfigMagic = 0xcafebeef;
constexpr std::string_view kIdPrefix = "double ";

/// The clique that an id names, or -1.
int number_of(const ncclUniqueId& id) {
  if (std::memcmp(id.internal, kIdPrefix.data(), kIdPrefix.size()) != 0) return -1;
  int number = 0;
  std::memcpy(&number, id.internal + kIdPrefix.size(), sizeof number);
  return number;
}

bool is_in_flight(const ncclComm& communicator) {
  return communicator.outstanding.load(std::memory_order_acquire) != 0 &&
         !communicator.is_aborted.load(std::memory_order_acquire);
}

void wait_until_idle(const ncclComm& communicator) {
  while (is_in_flight(communicator)) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

/// Until as many are finalized as the settings ask for.
void wait_for_finalized(const ncclComm& communicator) {
  while (finalized_communicators() < settings().finalized_together &&
         !communicator.is_aborted.load(std::memory_order_acquire)) {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

/// Its registrations end with it, as NCCL's do.
void destroy(ncclComm& communicator) {
  communicator.destroyed.store(true, std::memory_order_relaxed);
  communicator.launcher.close();
  communicator.launcher.join();
  for (const auto& registration : communicator.registrations) {
    (*registration)->registrations.fetch_sub(1, std::memory_order_relaxed);
  }
  communicator.registrations.clear();
}

}  // namespace
}  // namespace kolo::doubles

using namespace kolo::doubles;  // NOLINT(google-build-using-namespace)

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclNumResults:
      break;
  }
  return "unknown result code";
}

ncclResult_t ncclGetVersion(int* version) {
  if (const ncclResult_t error = entered_nccl("ncclGetVersion")) return error;
  *version = settings().nccl_version;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (const ncclResult_t error = entered_nccl("ncclGetUniqueId")) return error;
  *id = {};
  const int number = next_clique();
  std::memcpy(id->internal, kIdPrefix.data(), kIdPrefix.size());
  std::memcpy(id->internal + kIdPrefix.size(), &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (const ncclResult_t error = entered_nccl("ncclCommInitRankConfig")) return error;
  *communicator = nullptr;
  const int number = number_of(id);
  if (number < 0) return refuse(ncclInvalidArgument, "the id is not one of ncclGetUniqueId");
  if (rank < 0 || rank >= ranks) {
    return refuse(ncclInvalidArgument, fmt::format("rank {} of {}", rank, ranks));
  }
  if (config != nullptr && config->magic != kConfigMagic) {
    return refuse(ncclInvalidArgument, "ncclConfig_t argument not initialized");
  }
  const bool is_blocking = config == nullptr || config->blocking != 0;
  Clique& clique = clique_at(number);
  const ncclComm_t made = create_communicator(clique, rank, ranks, is_blocking);
  *communicator = made;
  begin(made, [made] { made->clique.join(made->rank, made->ranks, made->device); });
  if (is_in_group()) {
    add_to_group(made);
    return ncclSuccess;
  }
  return state_or_end(made);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* result) {
  if (const ncclResult_t error = entered_nccl("ncclCommGetAsyncError")) return error;
  const UseOfCommunicator use(communicator, "ncclCommGetAsyncError");
  if (const ncclResult_t error = use.is_alive()) return error;
  *result = communicator->state();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  if (const ncclResult_t error = entered_nccl("ncclCommFinalize")) return error;
  const UseOfCommunicator use(communicator, "ncclCommFinalize");
  if (const ncclResult_t error = use.is_ready()) return error;
  if (is_in_flight(*communicator)) {
    report_misuse("ncclCommFinalize while streams have operations of the communicator");
  }
  communicator->is_finalized = true;
  count_finalized();
  begin(communicator, [communicator] {
    wait_until_idle(*communicator);
    wait_for_finalized(*communicator);
  });
  return state_or_end(communicator);
}

ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  if (const ncclResult_t error = entered_nccl("ncclCommDestroy")) return error;
  if (communicator == nullptr) return ncclSuccess;
  const UseOfCommunicator use(communicator, "ncclCommDestroy");
  if (const ncclResult_t error = use.is_settled()) return error;
  if (!communicator->is_finalized && !communicator->is_blocking) {
    report_misuse("ncclCommDestroy, which would wait, of a communicator that is not finalized");
  }
  wait_until_idle(*communicator);
  destroy(*communicator);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  if (const ncclResult_t error = entered_nccl("ncclCommAbort")) return error;
  if (communicator == nullptr) return ncclSuccess;
  const UseOfCommunicator use(communicator, "ncclCommAbort");
  if (const ncclResult_t error = use.is_alive()) return error;
  communicator->is_aborted.store(true, std::memory_order_release);
  communicator->clique.abort(communicator->rank);
  destroy(*communicator);
  return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t communicator, void* address, size_t size,
                              void** handle) {
  if (const ncclResult_t error = entered_nccl("ncclCommRegister")) return error;
  const UseOfCommunicator use(communicator, "ncclCommRegister");
  if (const ncclResult_t error = use.is_ready()) return error;
  Allocation* const allocation = allocation_of(address, size);
  if (allocation == nullptr || allocation->device != communicator->device) {
    report_misuse("ncclCommRegister of what is no memory of the communicator's device");
    return refuse(ncclInvalidArgument, "no memory of the communicator's device");
  }
  allocation->registrations.fetch_add(1, std::memory_order_relaxed);
  *handle =
      communicator->registrations.emplace_back(std::make_unique<Allocation*>(allocation)).get();
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t communicator, void* handle) {
  if (const ncclResult_t error = entered_nccl("ncclCommDeregister")) return error;
  const UseOfCommunicator use(communicator, "ncclCommDeregister");
  if (const ncclResult_t error = use.is_ready()) return error;
  const auto found = std::ranges::find(
      communicator->registrations, handle,
      [](const auto& registration) { return static_cast<void*>(registration.get()); });
  if (found == communicator->registrations.end()) {
    report_misuse("ncclCommDeregister of what is not registered");
    return refuse(ncclInvalidArgument, "not registered");
  }
  (**found)->registrations.fetch_sub(1, std::memory_order_relaxed);
  communicator->registrations.erase(found);
  return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void** address, size_t size) {
  if (const ncclResult_t error = entered_nccl("ncclMemAlloc")) return error;
  *address = nullptr;
  if (size == 0) return ncclSuccess;
  *address = allocate(size, Allocator::Nccl);
  return *address != nullptr ? ncclSuccess : refuse(ncclUnhandledCudaError, "out of memory");
}

ncclResult_t ncclMemFree(void* address) {
  if (const ncclResult_t error = entered_nccl("ncclMemFree")) return error;
  if (address == nullptr) return ncclSuccess;
  if (release(address, Allocator::Nccl, "ncclMemFree")) return ncclSuccess;
  return refuse(ncclInvalidArgument, "no memory of ncclMemAlloc, or in use");
}

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t dtype,
                                      ncclScalarResidence_t residence, ncclComm_t communicator) {
  if (const ncclResult_t error = entered_nccl("ncclRedOpCreatePreMulSum")) return error;
  const UseOfCommunicator use(communicator, "ncclRedOpCreatePreMulSum");
  if (const ncclResult_t error = use.is_ready()) return error;
  if (size_of(dtype) == 0 || residence != ncclScalarHostImmediate) {
    return refuse(ncclInvalidArgument, "the doubles know scalars of the host only");
  }
  PremultipliedSum sum{dtype, {.is_premultiplied = true}};
  std::memcpy(sum.reduction.scalar.data(), scalar, size_of(dtype));
  *op = static_cast<ncclRedOp_t>(ncclNumOps + communicator->reductions.size());
  communicator->reductions.emplace_back(sum);
  return ncclSuccess;
}

ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t communicator) {
  if (const ncclResult_t error = entered_nccl("ncclRedOpDestroy")) return error;
  const UseOfCommunicator use(communicator, "ncclRedOpDestroy");
  if (const ncclResult_t error = use.is_alive()) return error;
  const auto index = static_cast<std::size_t>(op) - ncclNumOps;
  if (op < ncclNumOps || index >= communicator->reductions.size() ||
      !communicator->reductions[index].has_value()) {
    report_misuse("ncclRedOpDestroy of what was not created");
    return refuse(ncclInvalidArgument, "no such reduction operator");
  }
  communicator->reductions[index].reset();
  return ncclSuccess;
}

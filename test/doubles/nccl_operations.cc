// NCCL's groups, collectives, sends and receives.

#include <fmt/core.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "doubles/communicator.h"
#include "doubles/streams.h"

namespace kolo::doubles {
namespace {

/// What a stream does at once: a communicator's operations of one group.
struct Batch {
  ncclComm_t communicator;
  cudaStream_t stream;
  std::vector<Operation> operations;
  std::vector<Use> uses;
};

/// What the calling thread has collected.
struct Group {
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  std::vector<Batch> batches;
  std::vector<ncclComm_t> begun;
};

thread_local Group group;

void number(Operation& operation, ncclComm& communicator) {
  operation.number = communicator.operations++;
  if (operation.is_collective()) {
    operation.place = {.number = communicator.collectives++};
    return;
  }
  const auto peer = static_cast<std::size_t>(operation.root);
  operation.place = operation.kind == Kind::Send
                        ? Place{communicator.rank, operation.root, communicator.sends[peer]++}
                        : Place{operation.root, communicator.rank, communicator.receives[peer]++};
}

void queue(Batch batch) {
  if (batch.stream->destroyed.load(std::memory_order_relaxed)) {
    report_misuse("a stream was destroyed before NCCL had queued an operation in it");
    return;
  }
  CUstream_st& stream = *batch.stream;
  stream.worker.push([batch = std::move(batch)]() mutable {
    ncclComm& communicator = *batch.communicator;
    communicator.clique.perform(communicator.rank, batch.operations);
    batch.uses.clear();
    communicator.outstanding.fetch_sub(1, std::memory_order_release);
  });
}

/// All batches go through one launcher if any communicator does not block.
ncclResult_t launch(std::vector<Batch> batches) {
  ncclComm_t launcher = nullptr;
  std::vector<ncclComm_t> in_progress;
  for (Batch& batch : batches) {
    ncclComm& communicator = *batch.communicator;
    for (Operation& operation : batch.operations) number(operation, communicator);
    communicator.outstanding.fetch_add(1, std::memory_order_relaxed);
    if (communicator.is_blocking) continue;
    communicator.is_in_progress.store(true, std::memory_order_relaxed);
    in_progress.push_back(&communicator);
    launcher = in_progress.front();
  }
  auto queue_all = [batches = std::move(batches)]() mutable {
    for (Batch& batch : batches) queue(std::move(batch));
  };
  if (launcher == nullptr) {
    queue_all();
    return ncclSuccess;
  }
  launcher->launcher.push(
      [queue_all = std::move(queue_all), in_progress = std::move(in_progress)]() mutable {
        queue_all();
        for (const ncclComm_t communicator : in_progress) {
          communicator->is_in_progress.store(false, std::memory_order_release);
        }
      });
  return ncclInProgress;
}

/// The last of a nested group begins what was collected.
ncclResult_t end_group() {
  Group ended = std::exchange(group, {});
  if (ended.error != ncclSuccess) return ended.error;
  ncclResult_t result = launch(std::move(ended.batches));
  for (const ncclComm_t communicator : ended.begun) {
    const ncclResult_t state = state_or_end(communicator);
    if (result == ncclSuccess || result == ncclInProgress) result = std::max(result, state);
  }
  return result;
}

void collect(ncclComm_t communicator, cudaStream_t stream, Operation operation, Use send,
             Use receive) {
  const auto same = std::ranges::find_if(group.batches, [&](const Batch& batch) {
    return batch.communicator == communicator && batch.stream == stream;
  });
  Batch& batch = same != group.batches.end()
                     ? *same
                     : group.batches.emplace_back(Batch{communicator, stream, {}, {}});
  batch.operations.push_back(operation);
  batch.uses.push_back(std::move(send));
  batch.uses.push_back(std::move(receive));
}

bool overlaps_badly(const Operation& operation, const ncclComm& communicator) {
  const auto send = reinterpret_cast<std::uintptr_t>(operation.send);
  const auto receive = reinterpret_cast<std::uintptr_t>(operation.receive);
  const std::size_t sent = operation.send_bytes(communicator.rank, communicator.ranks);
  const std::size_t received = operation.receive_bytes(communicator.rank, communicator.ranks);
  if (sent == 0 || received == 0) return false;
  const std::size_t part =
      operation.count * size_of(operation.dtype) * static_cast<std::size_t>(communicator.rank);
  const bool is_in_place = operation.kind == Kind::AllGather       ? send == receive + part
                           : operation.kind == Kind::ReduceScatter ? receive == send + part
                                                                   : send == receive;
  return !is_in_place && send < receive + received && receive < send + sent;
}

ncclResult_t check(const Operation& operation, const ncclComm& communicator,
                   std::string_view name) {
  if (size_of(operation.dtype) == 0) {
    return refuse(ncclInvalidArgument, fmt::format("{}: dtype {}", name, int{operation.dtype}));
  }
  const bool has_root = operation.kind == Kind::Broadcast || operation.kind == Kind::Reduce ||
                        !operation.is_collective();
  if (has_root && (operation.root < 0 || operation.root >= communicator.ranks)) {
    return refuse(ncclInvalidArgument, fmt::format("{}: root or peer {} of {} ranks", name,
                                                   operation.root, communicator.ranks));
  }
  if (overlaps_badly(operation, communicator)) {
    report_misuse(fmt::format("{} with memory that overlaps, but not in place", name));
  }
  return ncclSuccess;
}

ncclResult_t find_reduction(ncclRedOp_t op, ncclDataType_t dtype, const ncclComm& communicator,
                            Reduction& reduction) {
  if (op >= ncclSum && op < ncclNumOps) {
    reduction.op = op;
    return ncclSuccess;
  }
  const auto index = static_cast<std::size_t>(op) - ncclNumOps;
  if (op < ncclNumOps || index >= communicator.reductions.size() ||
      !communicator.reductions[index].has_value() ||
      communicator.reductions[index]->dtype != dtype) {
    return refuse(ncclInvalidArgument, fmt::format("op {} for {}", int{op}, to_string(dtype)));
  }
  reduction = communicator.reductions[index]->reduction;
  return ncclSuccess;
}

/// After the call was counted. `op` is of the kinds that reduce.
ncclResult_t add(Function function, Operation operation, ncclRedOp_t op, ncclComm_t communicator,
                 cudaStream_t handle) {
  const UseOfCommunicator use(communicator, function.name());
  if (const ncclResult_t error = use.is_ready()) return error;
  if (const ncclResult_t error = check(operation, *communicator, function.name())) return error;
  if (const ncclResult_t error =
          find_reduction(op, operation.dtype, *communicator, operation.reduction)) {
    return error;
  }
  const cudaStream_t stream = find_stream(handle, function.name(), communicator->device);
  if (stream == nullptr || stream->device != communicator->device) {
    report_misuse(fmt::format("{} in a stream of another device", function.name()));
    return refuse(ncclInvalidArgument, "no stream of the communicator's device");
  }
  if (operation.is_collective() && operation.count == 0) return ncclSuccess;
  collect(
      communicator, stream, operation,
      use_of_device(operation.send, operation.send_bytes(communicator->rank, communicator->ranks),
                    communicator->device, function.name()),
      use_of_device(operation.receive,
                    operation.receive_bytes(communicator->rank, communicator->ranks),
                    communicator->device, function.name()));
  return ncclSuccess;
}

/// A call outside of a group is a group of its own.
ncclResult_t call(Function function, const Operation& operation, ncclRedOp_t op,
                  ncclComm_t communicator, cudaStream_t stream) {
  ncclResult_t error = entered_nccl(function);
  if (error == ncclSuccess) error = add(function, operation, op, communicator, stream);
  if (group.depth > 0) {
    if (group.error == ncclSuccess) group.error = error;
    return error;
  }
  if (error == ncclSuccess) return end_group();
  group = {};
  return error;
}

}  // namespace

bool is_in_group() { return group.depth > 0; }

void add_to_group(ncclComm_t communicator) { group.begun.push_back(communicator); }

}  // namespace kolo::doubles

using namespace kolo::doubles;  // NOLINT(google-build-using-namespace)

ncclResult_t ncclGroupStart() {
  if (const ncclResult_t error = entered_nccl("ncclGroupStart")) return error;
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  const ncclResult_t error = entered_nccl("ncclGroupEnd");
  if (group.depth == 0) return refuse(ncclInvalidUsage, "not in a group call");
  if (--group.depth > 0) return error;
  if (error == ncclSuccess) return end_group();
  group = {};
  return error;
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t dtype,
                           ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclAllReduce", {Kind::AllReduce, send, receive, count, dtype}, op, communicator,
              stream);
}

ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t dtype,
                        ncclRedOp_t op, int root, ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclReduce", {Kind::Reduce, send, receive, count, dtype, {}, root}, op, communicator,
              stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t dtype,
                               ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclReduceScatter", {Kind::ReduceScatter, send, receive, count, dtype}, op,
              communicator, stream);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t dtype,
                           int root, ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclBroadcast", {Kind::Broadcast, send, receive, count, dtype, {}, root}, ncclSum,
              communicator, stream);
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t dtype,
                           ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclAllGather", {Kind::AllGather, send, receive, count, dtype}, ncclSum,
              communicator, stream);
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t dtype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclSend", {Kind::Send, send, nullptr, count, dtype, {}, peer}, ncclSum,
              communicator, stream);
}

ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t dtype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return call("ncclRecv", {Kind::Recv, nullptr, receive, count, dtype, {}, peer}, ncclSum,
              communicator, stream);
}

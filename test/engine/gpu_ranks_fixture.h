#pragma once

/// Ranks as threads whose tensors are on the host and on GPUs, on doubles of CUDA and NCCL.

#include "collectives/gpu_ranks.h"
#include "data/selector.h"
#include "ranks_fixture.h"

namespace kolo::core {

using gpus::UserStream;
using oracle::Bytes;
using std::chrono::milliseconds;

/// The host's plane, and one for a GPU.
inline std::unique_ptr<DataPlane> with_gpu(int rank, int size, std::unique_ptr<DataPlane> plane) {
  const std::shared_ptr<DataPlane> host = std::move(plane);
  const NcclDataPlane::Settings settings{
      .device = rank, .rank = rank, .end_within = gpus::kPatience};
  const auto gpu = std::make_shared<NcclDataPlane>(host, settings);
  std::vector<Route> routes;
  for (const auto kind :
       {CollectiveKind::Allreduce, CollectiveKind::Broadcast, CollectiveKind::Allgather,
        CollectiveKind::Reducescatter, CollectiveKind::Alltoall}) {
    routes.push_back({.kind = kind, .device = DeviceType::Cpu, .reach = Reach::Host, .plane = 0});
    routes.push_back({.kind = kind, .device = DeviceType::Cuda, .reach = Reach::Host, .plane = 1});
  }
  std::vector<int> ranks;
  for (int other = 0; other < size; ++other) ranks.push_back(other);
  return std::make_unique<SelectingDataPlane>(
      std::vector<SelectingDataPlane::Choice>{{"host", host}, {"gpu", gpu}}, std::move(routes),
      std::move(ranks), host->rings());
}

class GpuRanksTest : public ::testing::TestWithParam<Job::Planes> {
 protected:
  /// Nothing is left in the end.
  void run(
      int size, const MeetingBody& body, const std::function<void(Job&)>& prepare = [](Job&) {}) {
    // Tensors of the doubles' GPUs may be any memory.
    doubles::reset({.seed = ++jobs_, .host_memory_allowed = true});
    {
      Job job(size, GetParam(), jobs_);
      job.wrap_data = [size](int rank, std::unique_ptr<DataPlane> plane) {
        return with_gpu(rank, size, std::move(plane));
      };
      prepare(job);
      run_meeting(job, body);
    }
    EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
    EXPECT_EQ(doubles::live(), doubles::Live());
  }

 private:
  std::uint64_t jobs_ = 0;
};

/// A tensor whose input a GPU has yet to write.
struct Tensor {
  Tensor(Context& context, UserStream& stream, const std::string& name, float value,
         PlanId plan = 0) {
    const auto bytes = 100 * sizeof(float);
    memory = context.allocate(DeviceType::Cuda, bytes).value();
    stream.write(memory.get(), oracle::filled(DataType::Float32, 100, value));
    Submission submission;
    submission.plan = plan;
    submission.request.name = name;
    submission.request.device = DeviceType::Cuda;
    submission.request.shape = {100};
    submission.input = submission.output = memory.get();
    submission.ready = stream.now();
    auto owner = std::make_shared<std::shared_ptr<std::byte>>(memory);
    kept = owner;
    submission.keepalive = std::move(owner);
    work = context.submit(std::move(submission));
  }

  std::shared_ptr<std::byte> memory;
  std::weak_ptr<void> kept;
  std::shared_ptr<Work> work;
};

}  // namespace kolo::core

// Ranks as threads on several hosts, whose GPUs use NCCL within a host, and between hosts the
// host's plane, on doubles of CUDA and NCCL.

#include "collectives/gpu_hosts.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "collectives/gpu_ranks.h"
#include "data/selector.h"
#include "ranks_fixture.h"

namespace kolo::core {
namespace {

using Layout = std::vector<int>;

/// The host's plane, and those of a GPU.
std::unique_ptr<DataPlane> with_gpu(gpus::GpuHosts& hosts, int rank,
                                    std::unique_ptr<DataPlane> plane) {
  const std::shared_ptr<DataPlane> host = std::move(plane);
  const NcclDataPlane::Settings settings{
      .device = rank, .rank = rank, .end_within = gpus::kPatience};
  const auto nccl = std::make_shared<NcclDataPlane>(host, settings);
  std::vector<Route> routes;
  for (const auto kind :
       {CollectiveKind::Allreduce, CollectiveKind::Broadcast, CollectiveKind::Allgather,
        CollectiveKind::Reducescatter, CollectiveKind::Alltoall}) {
    routes.push_back({.kind = kind, .device = DeviceType::Cpu, .plane = 0});
    routes.push_back({.kind = kind, .device = DeviceType::Cuda, .plane = 1});
  }
  return std::make_unique<SelectingDataPlane>(
      std::vector<SelectingDataPlane::Choice>{{"host", host}, {"gpu", hosts.connect(rank, nccl)}},
      std::move(routes), std::vector<int>(), host->rings());
}

class GpuHostsTest : public ::testing::TestWithParam<std::tuple<Layout, Job::Planes>> {
 protected:
  /// Nothing is left in the end.
  void run(
      const MeetingBody& body, const std::function<void()>& prepare = [] {},
      std::int64_t chunk_bytes = 1000) {
    const auto& [layout, planes] = GetParam();
    gpus::GpuHosts hosts(layout, {.chunk_bytes = chunk_bytes});
    doubles::reset({.seed = ++jobs_, .devices = hosts.size(), .host_memory_allowed = true});
    prepare();
    {
      Job job(hosts.size(), planes, jobs_);
      job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
        return with_gpu(hosts, rank, std::move(plane));
      };
      run_meeting(job, body);
    }
    EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
    EXPECT_EQ(doubles::live(), doubles::Live());
  }

 private:
  std::uint64_t jobs_ = 0;
};

INSTANTIATE_TEST_SUITE_P(
    Layouts, GpuHostsTest,
    ::testing::Combine(::testing::Values(Layout{0, 0, 2, 2}, Layout{0, 1}, Layout{0, 1, 1}),
                       ::testing::Values(Job::Planes::Ringing, Job::Planes::Silent)),
    [](const auto& test) {
      return fmt::format("{}_{}", fmt::join(std::get<0>(test.param), ""),
                         job::name_of(std::get<1>(test.param)));
    });

/// Makes some of them operations of GPUs whose result does not depend on the order of members.
void some_to_gpu(Recipe& recipe) {
  if (recipe.kind == CollectiveKind::Barrier || recipe.seed % 4 == 0) return;
  recipe.device = DeviceType::Cuda;
  if (!reduces(recipe.kind)) return;
  recipe.prescale = recipe.postscale = 1;
  if (recipe.op == ReduceOp::Average) recipe.op = ReduceOp::Sum;
  if (recipe.dtype == DataType::Int16 || is_floating(recipe.dtype)) recipe.dtype = DataType::Int32;
}

TEST_P(GpuHostsTest, MixedDevicesInAnyOrder) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    run([seed](Context& context, int, std::barrier<>&) {
      programs::run_in_random_order(context, programs::world(context), 30, seed, some_to_gpu);
    });
  }
}

TEST_P(GpuHostsTest, PlansThatEnd) {
  std::atomic<bool> gone = false;
  run([&gone](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    programs::run_plans(context, all, 8, 3, some_to_gpu);
    for (PlanId plan = 1; plan <= 3; ++plan) context.end_plan(kWorldChannel, plan);
    // Each rank's own channel has three at most: two within the host, and one of all.
    const auto most = 3 * context.topology().size;
    for (std::uint64_t i = 0; !gone; ++i) {
      programs::run(context, all, {.name = "next", .device = DeviceType::Cuda, .count = 7});
      meeting.arrive_and_wait();
      const auto begun = doubles::calls("ncclCommInitRankConfig");
      if (rank == 0) gone = begun - doubles::calls("ncclCommDestroy") <= most;
      meeting.arrive_and_wait();
    }
  });
}

// Each stage of a chunk's way on one rank: all say why, now and later.
TEST_P(GpuHostsTest, AFailingCallFailsAllRanks) {
  struct Failure {
    const char* function;
    std::int64_t n;
  };
  const auto& [layout, planes] = GetParam();
  const int faulty = layout.back();
  const bool together = std::ranges::count(layout, faulty) > 1;
  std::vector<Failure> failures = {{"cudaHostAlloc", 0},
                                   {"cudaMemcpyAsync", 0},
                                   {"cudaMemcpyAsync", 5},
                                   {"cudaEventRecord", 3},
                                   {"cudaEventQuery", 9}};
  if (together) {
    for (const char* name : {"ncclAllReduce", "ncclBroadcast", "ncclCommInitRankConfig"}) {
      failures.push_back({name, 0});
      failures.push_back({name, 1});
    }
  }
  for (const Failure& failure : failures) {
    SCOPED_TRACE(fmt::format("{} {}", failure.function, failure.n));
    const bool of_nccl = std::string_view(failure.function).starts_with("nccl");
    run(
        [&](Context& context, int rank, std::barrier<>& meeting) {
          const Set all = programs::world(context);
          const Call bad(
              context, all,
              {.name = "bad", .dtype = DataType::Int32, .device = DeviceType::Cuda, .count = 5000});
          const bool failed = !bad.work().wait().ok();
          EXPECT_TRUE(failed || rank != faulty);
          // The in-process plane, which is between hosts, may tell of what a rank has given up
          // before the engine tells why.
          const auto says_why = AnyOf(HasSubstr(failure.function), HasSubstr("gave up"),
                                      HasSubstr("different operations"));
          if (failed) {
            EXPECT_THAT(error_of(bad.work()), says_why);
          }
          const Call next(context, all, {.name = "next", .device = DeviceType::Cuda});
          EXPECT_THAT(error_of(next.work()), says_why);
          meeting.arrive_and_wait();
        },
        [&] {
          if (of_nccl) {
            doubles::fail(failure.function, failure.n, ncclSystemError, faulty);
          } else {
            doubles::fail(failure.function, failure.n, cudaErrorLaunchFailure, faulty);
          }
        });
  }
}

// One rank leaves without having submitted all of a plan: what it has submitted comes out right.
TEST_P(GpuHostsTest, OneLeavesWithoutTheRestOfAPlan) {
  run([](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    constexpr std::uint64_t kCommon = 3;
    std::vector<Call> calls;
    for (std::uint64_t i = 0; i < (rank == 1 ? kCommon : 2 * kCommon); ++i) {
      calls.emplace_back(context, all,
                         Recipe{.name = fmt::format("t{}", i),
                                .dtype = DataType::Int64,
                                .device = DeviceType::Cuda,
                                .count = 700,
                                .seed = i,
                                .plan = 1});
    }
    if (rank == 1) context.leave();
    for (std::uint64_t i = 0; i < calls.size(); ++i) {
      if (i < kCommon) {
        calls[i].check();
      } else {
        EXPECT_THAT(error_of(calls[i].work()), HasSubstr("rank 1 has shut down"));
      }
    }
  });
}

}  // namespace
}  // namespace kolo::core

// Ranks as threads whose tensors are on the host and on GPUs, on doubles of CUDA and NCCL.

#include "collectives/gpu_ranks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "data/selector.h"
#include "job.h"
#include "programs.h"

namespace kolo::core {
namespace {

using gpus::UserStream;
using job::error_of;
using job::Job;
using oracle::Bytes;
using programs::Call;
using programs::Recipe;
using programs::Set;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// The host's plane, and one for a GPU.
std::unique_ptr<DataPlane> with_gpu(int rank, int size, std::unique_ptr<DataPlane> plane) {
  const std::shared_ptr<DataPlane> host = std::move(plane);
  const auto gpu =
      std::make_shared<NcclDataPlane>(host, NcclDataPlane::Settings{.device = rank, .rank = rank});
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
  using Body = std::function<void(Context&, int rank, std::barrier<>&)>;

  /// The body meets the others, outside of Kolo, wherever it says so. Nothing is left in the end.
  void run(
      int size, const Body& body, const std::function<void(Job&)>& prepare = [](Job&) {}) {
    // Tensors of the doubles' GPUs may be any memory.
    doubles::reset({.seed = ++jobs_, .host_memory_allowed = true});
    {
      Job job(size, GetParam(), jobs_);
      job.wrap_data = [size](int rank, std::unique_ptr<DataPlane> plane) {
        return with_gpu(rank, size, std::move(plane));
      };
      prepare(job);
      std::barrier<> meeting(size);
      job.run([&](Context& context) { body(context, context.topology().rank, meeting); });
    }
    EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
    EXPECT_EQ(doubles::live(), doubles::Live());
  }

 private:
  std::uint64_t jobs_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Planes, GpuRanksTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

/// Makes it one for a GPU of which the result has the host's bits.
void to_gpu(Recipe& recipe) {
  if (recipe.kind == CollectiveKind::Barrier) return;
  recipe.device = DeviceType::Cuda;
  recipe.prescale = recipe.postscale = 1;
  const bool reduced = reduces(recipe.kind);
  if (reduced && recipe.dtype == DataType::Int16) recipe.dtype = DataType::Int32;
  if (reduced && recipe.op == ReduceOp::Average) recipe.op = ReduceOp::Sum;
}

void some_to_gpu(Recipe& recipe) {
  if (recipe.seed % 4 < 2) to_gpu(recipe);
}

// ---- right values ----

TEST_P(GpuRanksTest, MixedDevicesInAnyOrder) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    run(1 + static_cast<int>(seed % 4), [seed](Context& context, int, std::barrier<>&) {
      programs::run_in_random_order(context, programs::world(context), 40, seed, some_to_gpu);
    });
  }
}

TEST_P(GpuRanksTest, Plans) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    run(3, [seed](Context& context, int, std::barrier<>&) {
      programs::run_plans(context, programs::world(context), 12, seed, some_to_gpu);
    });
  }
}

TEST_P(GpuRanksTest, TwoSetsFromTwoThreads) {
  run(3, [](Context& context, int, std::barrier<>&) {
    programs::run_two_sets(context, 6, some_to_gpu);
  });
  run(2,
      [](Context& context, int, std::barrier<>&) { programs::run_two_sets(context, 6, to_gpu); });
}

TEST_P(GpuRanksTest, WithATimeline) {
  const std::string file = ::testing::TempDir() + "/gpu_ranks_timeline.json";
  run(
      2,
      [](Context& context, int, std::barrier<>&) {
        programs::run_in_random_order(context, programs::world(context), 40, 5, some_to_gpu);
      },
      [&](Job& job) { job.config.timeline = file; });
}

// ---- in the GPU's time ----

/// A tensor whose input a GPU has yet to write.
struct Tensor {
  Tensor(Context& context, UserStream& stream, const std::string& name, float value,
         PlanId plan = 0) {
    const auto bytes = 100 * sizeof(float);
    memory = context.allocate(DeviceType::Cuda, bytes);
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

/// Whether it comes true within the time in which something must.
bool soon(const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + std::chrono::seconds(5);
  while (!condition() && Clock::now() < deadline) std::this_thread::sleep_for(milliseconds(1));
  return condition();
}

// Operations are done for the host, and nobody has to wait, before the GPU has begun.
TEST_P(GpuRanksTest, AreDoneBeforeTheGpuIs) {
  run(2, [](Context& context, int rank, std::barrier<>& meeting) {
    UserStream stream(rank);
    UserStream consumer(rank);
    std::binary_semaphore gate(0);
    stream.call([&gate] { gate.acquire(); });
    std::vector<Tensor> tensors;
    std::vector<Bytes> results;
    for (int i = 0; i < 12; ++i) {
      tensors.emplace_back(context, stream, fmt::format("t{}", i), static_cast<float>(i));
    }
    results.resize(tensors.size(), Bytes(100 * sizeof(float)));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Status status = tensors[i].work->wait();
      ASSERT_TRUE(status.ok()) << status.message();
      const std::shared_ptr<DeviceEvent> finished = tensors[i].work->outcome().finished;
      ASSERT_NE(finished, nullptr);
      EXPECT_FALSE(finished->reached().value());
      EXPECT_FALSE(tensors[i].kept.expired());
      consumer.wait_for(*finished);
      consumer.read(tensors[i].memory.get(), results[i]);
    }
    meeting.arrive_and_wait();
    gate.release();
    consumer.finish();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(results[i], oracle::filled(DataType::Float32, 100, 2.0L * static_cast<float>(i)));
      EXPECT_TRUE(soon([&] { return tensors[i].kept.expired(); }));
    }
    // Some travelled together.
    EXPECT_LT(doubles::calls("ncclAllReduce", rank), 12);
    EXPECT_GT(doubles::calls("launch_table", rank), 0);
  });
}

// What is not yet in `input` is copied there by the GPU.
TEST_P(GpuRanksTest, PacksAPlansGroup) {
  run(3, [](Context& context, int rank, std::barrier<>&) {
    UserStream stream(rank);
    const auto group = context.allocate(DeviceType::Cuda, 200 * sizeof(float));
    const auto apart = context.allocate(DeviceType::Cuda, 100 * sizeof(float));
    Bytes result(200 * sizeof(float));
    for (int step = 0; step < 4; ++step) {
      stream.dawdle(milliseconds(5));
      stream.write(group.get(), oracle::filled(DataType::Float32, 100, rank + step));
      stream.write(apart.get(), oracle::filled(DataType::Float32, 100, rank + 10 * step));
      Submission submission;
      submission.plan = 1;
      submission.request.name = "group";
      submission.request.device = DeviceType::Cuda;
      submission.request.op = ReduceOp::Max;
      submission.request.prescale = 2;
      submission.request.postscale = 3;
      submission.request.shape = {200};
      submission.input = submission.output = group.get();
      submission.pack = {{apart.get(), group.get() + 100 * sizeof(float), 100}};
      submission.ready = stream.now();
      const auto work = context.submit(std::move(submission));
      ASSERT_TRUE(work->wait().ok()) << work->wait().message();
      stream.wait_for(*work->outcome().finished);
      stream.read(group.get(), result);
      stream.finish();
      Bytes expected = oracle::filled(DataType::Float32, 100, 6 * (2 + step));
      const Bytes packed = oracle::filled(DataType::Float32, 100, 6 * (2 + 10 * step));
      expected.insert(expected.end(), packed.begin(), packed.end());
      EXPECT_EQ(result, expected) << "step " << step;
    }
  });
}

// ---- plans that end ----

// As an optimizer in each epoch has one.
TEST_P(GpuRanksTest, ACommunicatorGoesWithItsPlan) {
  std::atomic<bool> gone = false;
  run(2, [&gone](Context& context, int rank, std::barrier<>& meeting) {
    UserStream stream(rank);
    Tensor steady(context, stream, "steady", 1);
    ASSERT_TRUE(steady.work->wait().ok());
    for (PlanId plan = 1; plan <= 5; ++plan) {
      const Tensor tensor(context, stream, "t", 2, plan);
      ASSERT_TRUE(tensor.work->wait().ok());
      stream.wait_for(*tensor.work->outcome().finished);
      stream.finish();
      EXPECT_EQ(reinterpret_cast<const float*>(tensor.memory.get())[99], 4);
      context.end_plan(kWorldChannel, plan);
    }
    while (!gone) {
      Tensor next(context, stream, "next", 1);
      ASSERT_TRUE(next.work->wait().ok());
      stream.wait_for(*next.work->outcome().finished);
      stream.finish();
      meeting.arrive_and_wait();
      if (rank == 0) gone = doubles::calls("ncclCommDestroy") == 10;
      meeting.arrive_and_wait();
    }
  });
  EXPECT_EQ(doubles::calls("ncclCommDestroy"), 12);
}

// ---- leaving ----

TEST_P(GpuRanksTest, LeaveWithOperationsInFlight) {
  for (int late = 0; late < 3; ++late) {
    run(3, [late](Context& context, int rank, std::barrier<>&) {
      UserStream stream(rank);
      std::vector<Tensor> tensors;
      for (int i = 0; i < 5; ++i) {
        if (rank == late) stream.dawdle(milliseconds(5));
        tensors.emplace_back(context, stream, fmt::format("t{}", i), static_cast<float>(i), 1);
      }
      context.leave();
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Status status = tensors[i].work->wait();
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(tensors[i].work->outcome().finished->reached().value());
        EXPECT_TRUE(tensors[i].kept.expired());
        const auto* const numbers = reinterpret_cast<const float*>(tensors[i].memory.get());
        EXPECT_EQ(numbers[99], 3 * static_cast<float>(i));
      }
    });
  }
}

// One rank leaves without having submitted all of a plan. What it has submitted still comes out
// right, although the GPU had the rest in its queue.
TEST_P(GpuRanksTest, OneLeavesWithoutTheRestOfAPlan) {
  constexpr int kAll = 6;
  constexpr int kCommon = 3;
  for (int leaver = 0; leaver < 3; ++leaver) {
    run(3, [leaver](Context& context, int rank, std::barrier<>&) {
      UserStream stream(rank);
      std::vector<Tensor> tensors;
      // Channels exist, so that all is in the queue before the news comes.
      Tensor first(context, stream, "first", 1, 1);
      ASSERT_TRUE(first.work->wait().ok());
      stream.dawdle(milliseconds(rank == leaver ? 60 : 0));
      for (int i = 0; i < (rank == leaver ? kCommon : kAll); ++i) {
        tensors.emplace_back(context, stream, fmt::format("t{}", i), static_cast<float>(i), 1);
      }
      if (rank == leaver) context.leave();
      for (int i = 0; i < std::ssize(tensors); ++i) {
        const Tensor& tensor = tensors[static_cast<std::size_t>(i)];
        const Status status = tensor.work->wait();
        if (i < kCommon) {
          ASSERT_TRUE(status.ok()) << status.message();
          const Status run = tensor.work->outcome().finished->synchronize();
          ASSERT_TRUE(run.ok()) << run.message();
          const auto* const numbers = reinterpret_cast<const float*>(tensor.memory.get());
          EXPECT_EQ(numbers[99], 3 * static_cast<float>(i));
        } else if (!status.ok()) {
          EXPECT_THAT(status.message(), HasSubstr(fmt::format("rank {} has shut down", leaver)));
        } else {
          EXPECT_THAT(tensor.work->outcome().finished->synchronize().message(),
                      HasSubstr("given up"));
        }
      }
    });
  }
}

// ---- failures ----

// On one rank; all say why, now and later.
TEST_P(GpuRanksTest, AFailingCallFailsAllRanks) {
  for (int faulty = 0; faulty < 3; ++faulty) {
    run(
        3,
        [faulty](Context& context, int rank, std::barrier<>& meeting) {
          const Set all = programs::world(context);
          for (int i = 0; i < 3; ++i) {
            programs::run(context, all, {.name = "good", .device = DeviceType::Cuda});
          }
          const Call bad(context, all, {.name = "bad", .device = DeviceType::Cuda});
          const std::string reason = "ncclAllReduce: unhandled system error";
          // Others may have been through with their call: then the GPU's event tells.
          if (rank == faulty || !bad.work().wait().ok()) {
            EXPECT_THAT(error_of(bad.work()), AllOf(HasSubstr("'bad'"), HasSubstr(reason)));
          }
          for (const auto device : {DeviceType::Cuda, DeviceType::Cpu}) {
            const Call next(context, all, {.name = "next", .device = device});
            EXPECT_THAT(error_of(next.work()),
                        AllOf(HasSubstr("'next'"), HasSubstr(reason), HasSubstr("a test wants")));
          }
          if (rank != faulty && bad.work().wait().ok()) {
            EXPECT_THAT(bad.work().outcome().finished->synchronize().message(),
                        HasSubstr("given up"));
          }
          meeting.arrive_and_wait();
        },
        [faulty](Job&) { doubles::fail("ncclAllReduce", 3, ncclSystemError, faulty); });
  }
}

TEST_P(GpuRanksTest, AnErrorOfNcclFailsAllRanks) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    programs::run(context, all, {.name = "good", .device = DeviceType::Cuda});
    meeting.arrive_and_wait();
    if (rank == 0) doubles::report_async_error(0, ncclRemoteError, "the cable is cut");
    meeting.arrive_and_wait();
    const Call next(context, all, {.name = "next", .device = DeviceType::Cuda});
    EXPECT_THAT(error_of(next.work()), AllOf(HasSubstr("'next'"), HasSubstr("the cable is cut")));
    meeting.arrive_and_wait();
  });
}

TEST_P(GpuRanksTest, OneRunsOutOfMemory) {
  run(
      2,
      [](Context& context, int, std::barrier<>& meeting) {
        const Call call(context, programs::world(context),
                        {.name = "t",
                         .kind = CollectiveKind::Allgather,
                         .device = DeviceType::Cuda,
                         .count = 9});
        // The other one may have been through with its call.
        if (!call.work().wait().ok()) {
          EXPECT_THAT(error_of(call.work()), HasSubstr("rank 1 is out of memory"));
        }
        const Call next(context, programs::world(context), {.name = "next"});
        EXPECT_THAT(error_of(next.work()), HasSubstr("rank 1 is out of memory"));
        meeting.arrive_and_wait();
      },
      [](Job&) { doubles::fail("ncclMemAlloc", 0, ncclUnhandledCudaError, 1); });
}

TEST_P(GpuRanksTest, Refusals) {
  run(2, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    const Call shorts(context, all,
                      {.name = "shorts", .dtype = DataType::Int16, .device = DeviceType::Cuda});
    EXPECT_THAT(error_of(shorts.work()), AllOf(HasSubstr("'shorts'"), HasSubstr("int16")));
    if (rank == 1) meeting.arrive_and_wait();
    const Call mixed(context, all,
                     {.name = "mixed", .device = rank == 0 ? DeviceType::Cpu : DeviceType::Cuda});
    if (rank == 0) meeting.arrive_and_wait();
    EXPECT_THAT(error_of(mixed.work()), HasSubstr("device differs: rank 0 has"));
    programs::run(context, all, {.name = "t", .device = DeviceType::Cuda});
  });
}

}  // namespace
}  // namespace kolo::core

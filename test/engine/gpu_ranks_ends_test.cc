// Ranks as threads whose tensors are on the host and on GPUs: who leaves, what fails, and what is
// refused.

#include "gpu_ranks_fixture.h"

namespace kolo::core {
namespace {

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
          const std::string reason =
              fmt::format("rank {} has failed: ncclAllReduce: unhandled system error", faulty);
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
    EXPECT_THAT(error_of(next.work()),
                AllOf(HasSubstr("'next'"), HasSubstr("rank "), HasSubstr(" has failed: "),
                      HasSubstr("remote process exited"),
                      HasSubstr("NCCL's last error: the cable is cut")));
    meeting.arrive_and_wait();
  });
}

// For a result, or for the buffer of a group.
TEST_P(GpuRanksTest, OneRunsOutOfMemory) {
  const std::vector<Recipe> recipes = {
      {.kind = CollectiveKind::Allgather, .device = DeviceType::Cuda, .count = 9},
      {.device = DeviceType::Cuda, .count = 9}};
  const auto says_why =
      AllOf(HasSubstr("rank 1 has failed: ncclMemAlloc of "),
            HasSubstr(" bytes of GPU 1: unhandled cuda"),
            HasSubstr("NCCL's last error: ncclMemAlloc fails because a test wants it to"));
  for (const Recipe& recipe : recipes) {
    run(
        2,
        [&](Context& context, int, std::barrier<>& meeting) {
          const Set all = programs::world(context);
          std::string error;
          // Until some travel together.
          while (error.empty()) {
            std::vector<Call> calls;
            for (int i = 0; i < 8; ++i) {
              Recipe named = recipe;
              named.name = fmt::format("t{}", i);
              calls.emplace_back(context, all, std::move(named));
            }
            for (const Call& call : calls) {
              if (!call.work().wait().ok() && error.empty()) error = error_of(call.work());
            }
          }
          EXPECT_THAT(error, AllOf(HasSubstr("'t"), says_why));
          const Call next(context, all, {.name = "next"});
          EXPECT_THAT(error_of(next.work()), AllOf(HasSubstr("'next'"), says_why));
          meeting.arrive_and_wait();
        },
        [](Job&) { doubles::fail("ncclMemAlloc", 0, ncclUnhandledCudaError, 1); });
  }
}

TEST_P(GpuRanksTest, Refusals) {
  run(2, [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const Call shorts(context, all,
                      {.name = "shorts", .dtype = DataType::Int16, .device = DeviceType::Cuda});
    EXPECT_THAT(error_of(shorts.work()), AllOf(HasSubstr("'shorts'"), HasSubstr("int16")));
    const Call mixed(context, all,
                     {.name = "mixed", .device = rank == 0 ? DeviceType::Cpu : DeviceType::Cuda});
    // The first to be heard is named first.
    EXPECT_THAT(error_of(mixed.work()),
                AllOf(HasSubstr("device differs: "), HasSubstr("rank 0 has cpu"),
                      HasSubstr("rank 1 has cuda")));
    programs::run(context, all, {.name = "t", .device = DeviceType::Cuda});
  });
}

}  // namespace
}  // namespace kolo::core

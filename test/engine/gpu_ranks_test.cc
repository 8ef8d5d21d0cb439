// Ranks as threads whose tensors are on the host and on GPUs: values, and who waits for a GPU.

#include <atomic>
#include <deque>
#include <semaphore>
#include <variant>

#include "gpu_ranks_fixture.h"
#include "timeline/trace_reader.h"
#include "wire/codec.h"

namespace kolo::core {
namespace {

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

// The host is through with an operation long before the GPU begins.
TEST_P(GpuRanksTest, ATimelineHasTheGpusTimes) {
  const TemporaryPath file;
  run(
      2,
      [](Context& context, int rank, std::barrier<>&) {
        Timeline& timeline = *context.timeline();
        const Timeline::Track track = timeline.add_track("test");
        UserStream stream(rank);
        std::binary_semaphore gate(0);
        stream.call([&gate] { gate.acquire(); });
        const Tensor tensor(context, stream, "late", 1);
        const Status status = tensor.work->wait();
        std::this_thread::sleep_for(milliseconds(20));
        timeline.instant(track, "open", Clock::now());
        gate.release();
        ASSERT_TRUE(status.ok()) << status.message();
        stream.wait_for(*tensor.work->outcome().finished);
        stream.finish();
      },
      [&](Job& job) { job.config.timeline = file.string(); });
  const std::vector<Json> events = read_events(file.string());
  for (int rank = 0; rank < 2; ++rank) {
    const auto time_of = [&](std::string_view name) {
      for (const Json& event : events) {
        if (event["pid"] == rank && event["name"] == name) return event["ts"].get<double>();
      }
      ADD_FAILURE() << "rank " << rank << " has no " << name;
      return 0.0;
    };
    constexpr double kRounding = 1000;
    EXPECT_GE(time_of("reduce") + kRounding, time_of("open")) << "rank " << rank;
  }
}

// ---- in the GPU's time ----

constexpr int kTogether = 12;

/// Hears of the other rank's requests only when so many have come.
class GatheringControl final : public job::ForwardingControl {
 public:
  using ForwardingControl::ForwardingControl;

  Result<std::optional<Envelope>> receive() override {
    while (true) {
      Result<std::optional<Envelope>> envelope = ForwardingControl::receive();
      if (!envelope.ok()) return envelope;
      if (!envelope.value()) break;
      const Message message = decode(envelope.value()->bytes).value();
      const auto* const list = std::get_if<RequestList>(&message);
      if (list == nullptr) return envelope;
      requests_ += std::ssize(list->requests);
      gathered_.push_back(std::move(*envelope.value()));
    }
    if (requests_ < kTogether || gathered_.empty()) return std::optional<Envelope>();
    std::optional<Envelope> next(std::move(gathered_.front()));
    gathered_.pop_front();
    return next;
  }

 private:
  std::int64_t requests_ = 0;
  std::deque<Envelope> gathered_;
};

// Operations are done for the host, and nobody has to wait, before the GPU has begun.
TEST_P(GpuRanksTest, AreDoneBeforeTheGpuIs) {
  const auto body = [](Context& context, int rank, std::barrier<>& meeting) {
    UserStream stream(rank);
    UserStream consumer(rank);
    std::binary_semaphore gate(0);
    stream.call([&gate] { gate.acquire(); });
    std::vector<Tensor> tensors;
    std::vector<Bytes> results;
    // What rank 0 has submitted is agreed on when all of rank 1's has come.
    if (rank == 1) meeting.arrive_and_wait();
    for (int i = 0; i < kTogether; ++i) {
      tensors.emplace_back(context, stream, fmt::format("t{}", i), static_cast<float>(i));
    }
    if (rank == 0) meeting.arrive_and_wait();
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
      while (!tensors[i].kept.expired()) std::this_thread::sleep_for(milliseconds(1));
    }
    // Some travelled together.
    EXPECT_LT(doubles::calls("ncclAllReduce", rank), kTogether);
    EXPECT_GT(doubles::calls("launch_table", rank), 0);
  };
  run(2, body, [](Job& job) {
    job.wrap_control = [](int rank, std::unique_ptr<ControlPlane> plane) {
      return rank == 0 ? std::make_unique<GatheringControl>(std::move(plane)) : std::move(plane);
    };
  });
}

// What is not yet in `input` is copied there by the GPU.
TEST_P(GpuRanksTest, PacksAPlansGroup) {
  run(3, [](Context& context, int rank, std::barrier<>&) {
    UserStream stream(rank);
    const auto group = context.allocate(DeviceType::Cuda, 200 * sizeof(float)).value();
    const auto apart = context.allocate(DeviceType::Cuda, 100 * sizeof(float)).value();
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

}  // namespace
}  // namespace kolo::core

// Ranks that do not fit together do not start, and all say why, as threads; and what the timeline
// says of those that do.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "ranks_fixture.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

class StartTest : public RanksFixture {};

INSTANTIATE_TEST_SUITE_P(Planes, StartTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

/// Each rank's error; all must fail to start.
std::vector<std::string> errors_of_start(Job& job) {
  std::vector<std::string> errors(static_cast<std::size_t>(job.size()));
  testing::run_ranks(job.size(), [&](int rank) {
    const Result<std::unique_ptr<Context>> context = job.create(rank);
    ASSERT_FALSE(context.ok());
    errors[static_cast<std::size_t>(rank)] = context.status().message();
  });
  return errors;
}

TEST_P(StartTest, SettingsDiffer) {
  Job job(3, GetParam());
  job.change_config = [](int rank, Config config) {
    if (rank == 2) config.fusion_threshold = 4096;
    return config;
  };
  EXPECT_THAT(errors_of_start(job), ::testing::Each(AllOf(HasSubstr("KOLO_FUSION_THRESHOLD"),
                                                          HasSubstr("rank 0 has 67108864"),
                                                          HasSubstr("rank 2 has 4096"))));
}

TEST_P(StartTest, PlanesOfGpusDiffer) {
  Job job(3, GetParam());
  job.change_config = [](int rank, Config config) {
    config.gpu_over_mpi = rank == 1;
    return config;
  };
  EXPECT_THAT(errors_of_start(job),
              ::testing::Each(AllOf(HasSubstr("KOLO_GPU_BETWEEN_HOSTS differs"),
                                    HasSubstr("rank 0 has nccl"), HasSubstr("rank 1 has mpi"))));
}

TEST_P(StartTest, TimelineOnSomeRanksOnly) {
  Job job(3, GetParam());
  job.change_config = [](int rank, Config config) {
    if (rank == 1) config.timeline = ::testing::TempDir() + "/kolo-some-ranks.json";
    return config;
  };
  EXPECT_THAT(errors_of_start(job),
              ::testing::Each(AllOf(HasSubstr("KOLO_TIMELINE"), HasSubstr("rank 1"))));
}

TEST_P(StartTest, TimelinesOfAHostDiffer) {
  const std::string own = ::testing::TempDir() + fmt::format("/kolo-own-{}.json", getpid());
  const std::string other = ::testing::TempDir() + fmt::format("/kolo-other-{}.json", getpid());
  std::ofstream(other) << "of somebody else, without an end";
  for (const std::string& differs : {other, other + ".missing"}) {
    Job job(3, GetParam());
    job.change_config = [&](int rank, Config config) {
      config.timeline = rank == 1 ? differs : own;
      return config;
    };
    EXPECT_THAT(errors_of_start(job),
                ::testing::Each(AllOf(HasSubstr("KOLO_TIMELINE differs: rank 0 has '"),
                                      HasSubstr("kolo-own"), HasSubstr("rank 1 of the same host has '"),
                                      HasSubstr("kolo-other"))));
    std::filesystem::remove(own);
  }
  std::stringstream text;
  text << std::ifstream(other).rdbuf();
  EXPECT_EQ(text.str(), "of somebody else, without an end");
  std::filesystem::remove(other);
}

TEST_P(StartTest, TimelineCannotBeOpened) {
  Job job(3, GetParam());
  job.config.timeline = "/no/such/folder/timeline.json";
  EXPECT_THAT(errors_of_start(job), ::testing::Each(HasSubstr("/no/such/folder/timeline.json")));
}

/// As a build with another wire format speaks and hears.
class OtherVersion final : public job::ForwardingControl {
 public:
  using ForwardingControl::ForwardingControl;

  Status send(int destination, std::span<const std::byte> bytes) override {
    std::vector<std::byte> changed(bytes.begin(), bytes.end());
    changed.front() = std::byte{77};
    return ForwardingControl::send(destination, changed);
  }
  Result<std::optional<Envelope>> receive() override {
    Result<std::optional<Envelope>> envelope = ForwardingControl::receive();
    if (envelope.ok() && envelope.value()) envelope.value()->bytes.front() = std::byte{77};
    return envelope;
  }
};

TEST_P(StartTest, BuildsDiffer) {
  for (int other = 0; other < 3; ++other) {
    Job job(3, GetParam());
    job.wrap_control = [&](int rank, std::unique_ptr<ControlPlane> plane) {
      return rank != other ? std::move(plane) : std::make_unique<OtherVersion>(std::move(plane));
    };
    EXPECT_THAT(errors_of_start(job), ::testing::Each(HasSubstr("same build of Kolo")));
  }
}

TEST_P(StartTest, TimelineNamesTensors) {
  const std::string path = ::testing::TempDir() + fmt::format("/kolo-engine-{}.json", getpid());
  Job job(2, GetParam());
  job.config.timeline = path;
  run_meeting(job, [](Context& context, int, std::barrier<>&) {
    programs::run_in_random_order(context, programs::world(context), 20, 1);
  });
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_THAT(text.str(), AllOf(HasSubstr("negotiation"), HasSubstr("\"t7\""), HasSubstr("reduce"),
                                HasSubstr("allreduce")));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kolo::core

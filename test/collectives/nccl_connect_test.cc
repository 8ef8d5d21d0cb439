// The NCCL data plane on doubles of CUDA and NCCL: ranks that cannot be connected, and who says so.

#include <fmt/format.h>

#include <functional>
#include <string_view>

#include "data/nccl_introduction.h"
#include "nccl_sums.h"

namespace kolo::core {
namespace {

/// Changes what a rank says of itself.
class EditedHost final : public DataPlane {
 public:
  using Edit = std::function<void(NcclIntroduction&)>;
  EditedHost(std::shared_ptr<DataPlane> host, Edit edit)
      : host_(std::move(host)), edit_(std::move(edit)) {}

  StartedOperation start(const Collective& collective) override {
    introduction_ = *static_cast<const NcclIntroduction*>(collective.input);
    edit_(introduction_);
    Collective edited = collective;
    edited.input = &introduction_;
    return host_->start(edited);
  }
  bool rings() const override { return host_->rings(); }

 private:
  const std::shared_ptr<DataPlane> host_;
  const Edit edit_;
  NcclIntroduction introduction_;
};

gpus::Options edited(int rank, const EditedHost::Edit& edit) {
  gpus::Options options;
  options.wrap_host = [=](int own, std::shared_ptr<DataPlane> host) -> std::shared_ptr<DataPlane> {
    if (own != rank) return host;
    return std::make_shared<EditedHost>(std::move(host), edit);
  };
  return options;
}

TEST(NcclFailures, OlderLibraryThanCompiledWith) {
  gpus::Options options;
  options.doubles.nccl_version = NCCL_VERSION_CODE - 100;
  EXPECT_THAT(run_sums(3, options), Each(AllOf(HasSubstr("rank 0: NCCL 2."),
                                               HasSubstr("but Kolo was compiled with 2."))));
}

TEST(NcclFailures, RefusalsReachAll) {
  for (const char* function : {"ncclGetVersion", "ncclGetUniqueId"}) {
    const bool of_first = std::string_view(function) == "ncclGetUniqueId";
    gpus::Options options;
    options.prepare = [=] { doubles::fail(function, 0, ncclSystemError, of_first ? 0 : 1); };
    EXPECT_THAT(
        run_sums(3, options),
        Each(AllOf(HasSubstr(fmt::format("rank {}: {}", of_first ? 0 : 1, function)),
                   HasSubstr("unhandled system error"), HasSubstr("because a test wants it to"))));
  }
  gpus::Options options;
  options.prepare = [] { doubles::fail("cudaDeviceGetPCIBusId", 0, cudaErrorInvalidDevice, 2); };
  EXPECT_THAT(run_sums(3, options), Each(HasSubstr("rank 2: cudaDeviceGetPCIBusId of GPU 2: ")));
}

TEST(NcclFailures, VersionsDiffer) {
  const auto newer = [](NcclIntroduction& own) { own.nccl_version = NCCL_VERSION_CODE + 1; };
  EXPECT_THAT(run_sums(3, edited(2, newer)),
              Each(AllOf(HasSubstr("rank 0 has NCCL"), HasSubstr("but rank 2 has"))));
}

TEST(NcclFailures, OneGpuForTwoRanks) {
  gpus::Options options;
  options.change_settings = [](int rank, NcclDataPlane::Settings settings) {
    settings.device = rank == 2 ? 1 : rank;
    return settings;
  };
  EXPECT_THAT(run_sums(3, options), Each(AllOf(HasSubstr("ranks 1 and 2 both use GPU 0000:02:00.0"),
                                               HasSubstr("KOLO_SHARED_GPU=on"))));
}

TEST(NcclFailures, GpusMayBeShared) {
  std::vector<NcclIntroduction> members(2);
  for (NcclIntroduction& member : members) member.gpu = {"0000:02:00.0"};
  EXPECT_FALSE(can_connect(members, {3, 5}, /*gpus_are_shared=*/false).ok());
  EXPECT_TRUE(can_connect(members, {3, 5}, /*gpus_are_shared=*/true).ok());
  members.back().host = {"another"};
  EXPECT_TRUE(can_connect(members, {3, 5}, /*gpus_are_shared=*/false).ok());
}

// Containers may have any name.
TEST(NcclFailures, HostsAreToldApartByTheirKernels) {
  std::vector<NcclIntroduction> members(2);
  for (NcclIntroduction& member : members) {
    member.gpu = {"0000:02:00.0"};
    member.host = {"container"};
    member.boot = {"one"};
  }
  EXPECT_FALSE(can_connect(members, {3, 5}, /*gpus_are_shared=*/false).ok());
  members.back().host = {"another"};
  EXPECT_FALSE(can_connect(members, {3, 5}, /*gpus_are_shared=*/false).ok());
  members.back().boot = {"two"};
  members.back().host = members.front().host;
  EXPECT_TRUE(can_connect(members, {3, 5}, /*gpus_are_shared=*/false).ok());
}

TEST(NcclFailures, ARankNeverIntroducesItself) {
  gpus::run(
      3,
      [](Rank& rank) {
        if (rank.rank == 1) return;
        Sum lonely(rank, 0);
        EXPECT_THAT(lonely.run(),
                    AnyOf(AllOf(HasSubstr("connecting ranks 0, 1, 2"), HasSubstr("0.3 s"),
                                ContainsRegex("nothing has come from (0, )?1")),
                          HasSubstr("gave up")));
      },
      with_deadlines(-1, milliseconds(300), milliseconds(0)));
}

TEST(NcclFailures, ARankNeverConnects) {
  std::barrier<> meeting(3);
  gpus::run(
      3,
      [&](Rank& rank) {
        Sum lonely(rank, 0);
        // First, so that it cannot go on to connect at once.
        if (rank.rank == 1) lonely.start();
        meeting.arrive_and_wait();
        if (rank.rank != 1) {
          EXPECT_THAT(lonely.run(), AnyOf(AllOf(HasSubstr("connecting ranks 0, 1, 2"),
                                                HasSubstr("took longer than 0.3 s")),
                                          HasSubstr("gave up")));
        }
        meeting.arrive_and_wait();
      },
      with_deadlines(1, milliseconds(300), milliseconds(0)));
}

}  // namespace
}  // namespace kolo::core

// The NCCL data plane on doubles of CUDA and NCCL: what fails, who says what, and what is left.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/nccl_introduction.h"
#include "gpu_ranks.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr std::int64_t kCount = 50;

Collective sum(const Rank& rank, std::uint64_t sequence, ChannelId channel = kWorldChannel) {
  Collective c;
  for (int member = 0; member < rank.size; ++member) c.ranks.push_back(member);
  c.member = rank.rank;
  c.channel = channel;
  c.sequence = sequence;
  c.device = DeviceType::Cuda;
  c.count = kCount;
  return c;
}

std::size_t bytes_of(const Collective& c) {
  return static_cast<std::size_t>(c.count) * size_of(c.dtype);
}

/// How an operation went: "done", or its error.
std::string finish(const Rank& rank, const StartedOperation& started) {
  if (!started.ok()) return started.status().message();
  while (true) {
    const Result<Operation::Progress> progress = started.value()->progress();
    if (!progress.ok()) return progress.status().message();
    if (progress.value() == Operation::Progress::Done) return "done";
    rank.idle();
  }
}

/// One all-reduce in the memory of the plane.
class Sum {
 public:
  Sum(Rank& rank, std::uint64_t sequence, ChannelId channel = kWorldChannel)
      : rank_(rank), collective_(sum(rank, sequence, channel)) {
    memory_ = rank.plane.allocate(DeviceType::Cuda, bytes_of(collective_));
    collective_.input = collective_.output = memory_.get();
  }
  ~Sum() { give_up(); }
  Sum(const Sum&) = delete;
  Sum& operator=(const Sum&) = delete;

  /// Unless it is over.
  void give_up() {
    started_ = Status::error("over");
    rank_.plane.drain();
  }

  Collective& collective() { return collective_; }
  Operation& start() {
    started_ = rank_.plane.start(collective_);
    EXPECT_TRUE(started_.ok());
    return *started_.value();
  }
  std::string run() {
    if (!started_.ok()) started_ = rank_.plane.start(collective_);
    return finish(rank_, started_);
  }
  /// When it was done.
  std::shared_ptr<DeviceEvent> run_and_keep() {
    EXPECT_EQ(run(), "done");
    return started_.value()->issued();
  }

 private:
  Rank& rank_;
  Collective collective_;
  std::shared_ptr<std::byte> memory_;
  StartedOperation started_ = Status::error("not begun");
};

/// How an all-reduce, and another one, went on each rank, which all stay until all have heard.
std::vector<std::string> run_sums(int size, const gpus::Options& options) {
  std::vector<std::string> outcomes(static_cast<std::size_t>(size));
  std::barrier<> meeting(size);
  gpus::run(
      size,
      [&](Rank& rank) {
        Sum first(rank, 7);
        std::string& outcome = outcomes[static_cast<std::size_t>(rank.rank)];
        outcome = first.run();
        Sum second(rank, 8);
        // The first failure lasts.
        if (outcome != "done") {
          EXPECT_EQ(second.run(), outcome);
        } else {
          outcome = second.run();
        }
        meeting.arrive_and_wait();
      },
      options);
  return outcomes;
}

/// Others than the rank that fails need not wait for long.
gpus::Options with_deadlines(int failing, milliseconds connect, milliseconds done) {
  gpus::Options options;
  options.change_settings = [=](int rank, NcclDataPlane::Settings settings) {
    if (rank == failing) return settings;
    settings.connect_within = connect;
    settings.done_within = done;
    return settings;
  };
  return options;
}

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

// ---- before NCCL connects ----

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
                                HasSubstr("nothing has come from 1")),
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
          EXPECT_THAT(lonely.run(), AllOf(HasSubstr("connecting ranks 0, 1, 2"),
                                          HasSubstr("took longer than 0.3 s")));
        }
        meeting.arrive_and_wait();
      },
      with_deadlines(1, milliseconds(300), milliseconds(0)));
}

// ---- calls that fail ----

/// Everything that the plane asks CUDA and NCCL for, but for what ends things.
std::string use_everything(Rank& rank) {
  const auto private_memory = gpus::cuda_memory(rank.device, kCount * sizeof(float));
  gpus::UserStream user(rank.device);
  user.write(private_memory.get(), oracle::Bytes(kCount * sizeof(float)));
  const std::shared_ptr<DeviceEvent> ready = user.now();
  user.finish();

  Sum packed(rank, 0);
  packed.collective().ready = {ready};
  packed.collective().pack = {{private_memory.get(), packed.collective().output, kCount}};
  packed.collective().prescale = 0.5;
  packed.collective().timed = true;
  if (std::string outcome = packed.run(); outcome != "done") return outcome;

  Sum ragged(rank, 1);
  Collective& c = ragged.collective();
  c.kind = CollectiveKind::Allgather;
  c.counts.assign(c.ranks.size(), 1);
  c.counts.front() = kCount - std::ssize(c.ranks) + 1;
  c.input = private_memory.get();
  if (std::string outcome = ragged.run(); outcome != "done") return outcome;

  Sum same(rank, 2);
  Collective& gather = same.collective();
  gather.kind = CollectiveKind::Allgather;
  gather.counts.assign(gather.ranks.size(), kCount / std::ssize(gather.ranks));
  gather.count = gather.counts.front() * std::ssize(gather.ranks);
  gather.input = private_memory.get();
  if (std::string outcome = same.run(); outcome != "done") return outcome;

  Sum scattered(rank, 3);
  Collective& scatter = scattered.collective();
  scatter.kind = CollectiveKind::Reducescatter;
  scatter.counts = gather.counts;
  scatter.count = gather.count;
  scatter.input = private_memory.get();
  if (std::string outcome = scattered.run(); outcome != "done") return outcome;

  Sum uneven(rank, 4);
  uneven.collective().kind = CollectiveKind::Reducescatter;
  uneven.collective().counts = c.counts;
  uneven.collective().input = private_memory.get();
  if (std::string outcome = uneven.run(); outcome != "done") return outcome;

  Sum exchanged(rank, 5);
  Collective& exchange = exchanged.collective();
  exchange.kind = CollectiveKind::Alltoall;
  exchange.splits = exchange.counts = gather.counts;
  exchange.count = gather.count;
  exchange.input = private_memory.get();
  if (std::string outcome = exchanged.run(); outcome != "done") return outcome;

  Sum broadcast(rank, 6);
  broadcast.collective().kind = CollectiveKind::Broadcast;
  return broadcast.run();
}

struct Attempt {
  std::vector<std::string> outcomes;
  std::int64_t calls = 0;
};

Attempt attempt(std::string_view function, gpus::Options options) {
  constexpr int kRanks = 2;
  Attempt attempt{.outcomes = std::vector<std::string>(kRanks)};
  std::barrier<> meeting(kRanks);
  gpus::run(
      kRanks,
      [&](Rank& rank) {
        attempt.outcomes[static_cast<std::size_t>(rank.rank)] = use_everything(rank);
        if (rank.rank == 1) attempt.calls = doubles::calls(function, 1);
        meeting.arrive_and_wait();
      },
      options);
  return attempt;
}

class FailingCalls : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(
    Functions, FailingCalls,
    ::testing::Values("cudaDeviceGetStreamPriorityRange", "cudaStreamCreateWithPriority",
                      "cudaStreamWaitEvent", "launch_table", "ncclCommInitRankConfig",
                      "ncclCommRegister", "ncclRedOpCreatePreMulSum", "ncclRedOpDestroy",
                      "ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclReduce",
                      "ncclSend", "ncclRecv", "ncclBroadcast", "ncclGroupStart", "ncclGroupEnd",
                      "cudaEventElapsedTime", "cudaEventSynchronize", "cudaEventRecord",
                      "cudaEventCreateWithFlags", "ncclCommGetAsyncError"),
    [](const auto& test) { return std::string(test.param); });

// Each call in turn, on one rank, which names it. The other one fails as well.
TEST_P(FailingCalls, FailTheOperation) {
  const std::string function = GetParam();
  const Attempt whole = attempt(function, {});
  ASSERT_THAT(whole.outcomes, Each("done"));
  ASSERT_GT(whole.calls, 0);
  const bool by_program = function == "cudaEventRecord" || function == "cudaEventCreateWithFlags";
  // The program's own come first and last; the plane asks often how things are.
  constexpr std::int64_t kMost = 12;
  const std::int64_t end = std::min(whole.calls - (by_program ? 1 : 0), kMost);
  for (std::int64_t n = by_program ? 2 : 0; n < end; ++n) {
    gpus::Options options = with_deadlines(1, milliseconds(300), milliseconds(300));
    options.prepare = [&] {
      if (function.starts_with("nccl")) {
        doubles::fail(function, n, ncclSystemError, 1);
      } else {
        doubles::fail(function, n, cudaErrorLaunchFailure, 1);
      }
    };
    const Attempt failed = attempt(function, options);
    const std::string name = function == "launch_table" ? "cudaLaunchKernel" : function;
    EXPECT_THAT(failed.outcomes[1], AnyOf(HasSubstr(name + ": "), HasSubstr(name + " of")))
        << "call " << n;
    EXPECT_NE(failed.outcomes[0], "") << "call " << n;
  }
}

TEST(NcclFailures, WhatCannotEndInPeaceIsAborted) {
  gpus::Options options;
  options.prepare = [] { doubles::fail("ncclCommFinalize", 0, ncclSystemError, 1); };
  EXPECT_THAT(run_sums(2, options), Each("done"));
  EXPECT_EQ(doubles::calls("ncclCommAbort", 1), 1);
  EXPECT_EQ(doubles::calls("ncclCommAbort", 0), 0);
}

// ---- while operations are under way ----

TEST(NcclFailures, NcclReportsAnError) {
  std::barrier<> meeting(2);
  gpus::run(2, [&](Rank& rank) {
    EXPECT_EQ(Sum(rank, 0).run(), "done");
    Sum second(rank, 1);
    Sum third(rank, 2);
    meeting.arrive_and_wait();
    if (rank.rank == 0) {
      second.start();
      doubles::report_async_error(0, ncclRemoteError, "the cable is cut");
    }
    meeting.arrive_and_wait();
    for (Sum* sum : {&second, &third}) {
      EXPECT_THAT(sum->run(), AllOf(HasSubstr("remote process exited"),
                                    HasSubstr("NCCL's last error: the cable is cut")));
    }
    meeting.arrive_and_wait();
  });
}

TEST(NcclFailures, AnOperationHangs) {
  gpus::Options options = with_deadlines(-1, std::chrono::seconds(30), milliseconds(300));
  options.prepare = [] { doubles::hang(0, 1); };
  EXPECT_THAT(run_sums(2, options),
              Each(HasSubstr("allreduce was in the GPU's queue for more than 0.3 s")));
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 2);
}

/// How far an operation is when it is given up.
enum class At { Started, Waiting, Issued, Behind };

// Others find out by what they are told, or by their deadline.
TEST(NcclFailures, AnOperationIsGivenUp) {
  for (const At at : {At::Started, At::Waiting, At::Issued, At::Behind}) {
    std::barrier<> meeting(2);
    gpus::Options options = with_deadlines(1, milliseconds(500), milliseconds(500));
    if (at != At::Started) options.prepare = [] { doubles::hang(1, 0); };
    gpus::run(
        2,
        [&](Rank& rank) {
          // Another channel, which goes on.
          EXPECT_EQ(Sum(rank, 0, 4).run(), "done");
          if (rank.rank == 0) {
            EXPECT_THAT(Sum(rank, 0).run(),
                        AnyOf(HasSubstr("for more than 0.5 s"), HasSubstr("took longer than 0.5 s"),
                              HasSubstr("rank 1 gave up")));
          } else {
            Sum given_up(rank, 0);
            StartedOperation operation = rank.plane.start(given_up.collective());
            ASSERT_TRUE(operation.ok());
            for (int i = 0; at == At::Waiting && i < 20; ++i) {
              ASSERT_TRUE(operation.value()->progress().ok());
              rank.idle();
            }
            while (at >= At::Issued && operation.value()->issued() == nullptr) {
              ASSERT_TRUE(operation.value()->progress().ok());
              rank.idle();
            }
            if (at == At::Behind) {
              // Destroyed while it is queued, perhaps.
              Sum behind(rank, 1);
              behind.start();
            }
            operation = Status::error("over");
            rank.plane.drain();
            EXPECT_EQ(Sum(rank, 2).run(), "allreduce was given up");
          }
          meeting.arrive_and_wait();
          EXPECT_EQ(Sum(rank, 1, 4).run(), "done");
          meeting.arrive_and_wait();
        },
        options);
  }
}

// What was right stays right.
TEST(NcclFailures, NothingHappensToWhatIsDone) {
  gpus::run(1, [](Rank& rank) {
    Sum done(rank, 0);
    const std::shared_ptr<DeviceEvent> finished = done.run_and_keep();
    Sum given_up(rank, 1);
    given_up.start();
    given_up.give_up();
    EXPECT_TRUE(finished->reached().ok());
    EXPECT_TRUE(finished->synchronize().ok());
    EXPECT_EQ(Sum(rank, 2).run(), "allreduce was given up");
  });
}

/// The GPU may get the memory of what is given up only later: until then nobody may free it.
TEST(NcclFailures, DrainsWhatIsGivenUp) {
  gpus::run(1, [](Rank& rank) {
    gpus::UserStream user(rank.device);
    for (ChannelId channel = 0; channel < 5; ++channel) {
      const auto memory = gpus::cuda_memory(rank.device, kCount * sizeof(float));
      user.dawdle(milliseconds(20));
      user.write(memory.get(), oracle::Bytes(kCount * sizeof(float)));
      Sum sum(rank, 0, channel);
      sum.collective().ready = {user.now()};
      sum.collective().pack = {{memory.get(), sum.collective().output, kCount}};
      Operation& operation = sum.start();
      while (operation.issued() == nullptr) EXPECT_TRUE(operation.progress().ok());
      const std::shared_ptr<DeviceEvent> issued = operation.issued();
      sum.give_up();
      EXPECT_THAT(issued->synchronize().message(), HasSubstr("given up"));
    }
  });
}

}  // namespace
}  // namespace kolo::core

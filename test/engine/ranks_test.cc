// Ranks that leave, fail, disagree or are late, with ranks as threads.

#include <array>
#include <limits>
#include <random>

#include "ranks_fixture.h"

namespace kolo::core {
namespace {

class RanksTest : public RanksFixture {};

INSTANTIATE_TEST_SUITE_P(Planes, RanksTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

std::shared_ptr<Work> refuse(Context& context, const std::string& name, const std::string& reason) {
  Submission submission;
  submission.request.name = name;
  submission.request.refusal = reason;
  return context.submit(std::move(submission));
}

// ---- leaving ----

TEST_P(RanksTest, LeavesWhileOthersWait) {
  for (int leaver = 0; leaver < 3; ++leaver) {
    run(3, [leaver](Context& context, int rank, std::barrier<>& meeting) {
      if (rank != leaver) {
        const Call call(context, programs::world(context), {.name = "lonely"});
        meeting.arrive_and_wait();
        EXPECT_THAT(error_of(call.work()),
                    AllOf(HasSubstr("'lonely'"), HasSubstr(fmt::format("rank {}", leaver))));
      } else {
        meeting.arrive_and_wait();
      }
    });
  }
}

TEST_P(RanksTest, SubmitsAfterAnotherHasLeft) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    if (rank == 1) {
      std::jthread leaving([&] { context.leave(); });
      meeting.arrive_and_wait();
      return leaving.join();
    }
    meeting.arrive_and_wait();
    for (int i = 0; i < 3; ++i) {
      const Call call(context, programs::world(context), {.name = fmt::format("late{}", i)});
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'late"), HasSubstr("rank 1")));
    }
  });
}

TEST_P(RanksTest, OthersGoOnWithoutTheOneThatHasLeft) {
  run(3, [](Context& context, int rank, std::barrier<>&) {
    const Set rest = programs::add_set(context, "rest", {1, 2});
    if (rank == 0) return;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      programs::run_in_random_order(context, rest, 5, seed);
    }
  });
}

/// Submits some of five operations, and leaves. Whether each has been completed rather than failed.
std::vector<bool> submit_and_leave(Context& context, const Set& set, std::uint64_t seed) {
  std::mt19937_64 own(seed * 8 + static_cast<unsigned>(context.topology().rank));
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) {
    calls.emplace_back(context, set, Recipe{.name = fmt::format("t{}", i)});
    if (own() % 8 == 0) break;
  }
  context.leave();
  std::vector<bool> completed(5);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    EXPECT_TRUE(calls[i].work().done());
    completed[i] = calls[i].work().wait().ok();
    if (completed[i]) calls[i].check();
  }
  return completed;
}

// What one rank completes, all do.
TEST_P(RanksTest, LeavesWithOperationsPending) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::array<std::vector<bool>, 3> completed;
    run(3, [&](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      completed[static_cast<std::size_t>(rank)] = submit_and_leave(context, all, seed);
    });
    EXPECT_EQ(completed[0], completed[1]) << "seed " << seed;
    EXPECT_EQ(completed[0], completed[2]) << "seed " << seed;
  }
}

// Rank 0, which lets everybody go, knows nothing of what the pair does.
TEST_P(RanksTest, LeavesWithOperationsOfASetPending) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::array<std::vector<bool>, 3> completed;
    run(3, [&](Context& context, int rank, std::barrier<>&) {
      const Set pair = programs::add_set(context, "pair", {1, 2});
      if (rank == 0) return;
      completed[static_cast<std::size_t>(rank)] = submit_and_leave(context, pair, seed);
    });
    EXPECT_EQ(completed[1], completed[2]) << "seed " << seed;
  }
}

TEST_P(RanksTest, LeaveInAnyOrderAndAtAnyTime) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    run(4, [seed](Context& context, int rank, std::barrier<>&) {
      std::mt19937_64 own(seed * 8 + static_cast<unsigned>(rank));
      programs::run_in_random_order(context, programs::world(context), 3, seed);
      std::this_thread::sleep_for(std::chrono::microseconds(own() % 2000));
    });
  }
}

/// Keeps what is sent until it has looked for messages three times, as where a ring is full.
class CrowdedControl final : public job::ForwardingControl {
 public:
  using ForwardingControl::ForwardingControl;

  Status send(int destination, std::span<const std::byte> bytes) override {
    kept_.emplace_back(destination, std::vector<std::byte>(bytes.begin(), bytes.end()));
    looks_ = 0;
    return {};
  }
  Result<std::optional<Envelope>> receive() override {
    if (++looks_ == 3) {
      for (const auto& [destination, bytes] : std::exchange(kept_, {})) {
        if (Status status = ForwardingControl::send(destination, bytes); !status.ok()) return status;
      }
    }
    return ForwardingControl::receive();
  }
  bool sending() const override { return !kept_.empty() || ForwardingControl::sending(); }

 private:
  int looks_ = 0;
  std::vector<std::pair<int, std::vector<std::byte>>> kept_;
};

// Who lets the others go tells them before it goes itself.
TEST_P(RanksTest, LeaveWithMessagesOnTheirWay) {
  Job job(3, GetParam());
  job.wrap_control = [](int, std::unique_ptr<ControlPlane> plane) {
    return std::make_unique<CrowdedControl>(std::move(plane));
  };
  job.run([](Context& context) {
    programs::run_in_random_order(context, programs::world(context), 3, 1);
  });
}

// Agreed on, but perhaps not known everywhere when ranks leave.
TEST_P(RanksTest, LeavesWhileASetIsBeingMade) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    run(3, [seed](Context& context, int rank, std::barrier<>&) {
      const auto made = programs::add_set_async(context, "pair", {1, 2});
      if (seed % 3 == static_cast<unsigned>(rank)) return;
      if (!made->wait().ok() || rank == 0) return;
      // The other member may have left without ever having used the set.
      const Set pair{.channel = made->outcome().new_channel, .ranks = {1, 2}};
      const Call call(context, pair, {.name = "t"});
      job::poll_until_done(call.work());
      if (seed % 3 == 0) return;
      EXPECT_THAT(error_of(call.work()), HasSubstr("has shut down"));
    });
  }
}

TEST_P(RanksTest, SubmitsAfterItsOwnLeave) {
  run(2, [](Context& context, int, std::barrier<>&) {
    context.leave();
    context.leave();
    const Call call(context, programs::world(context), {.name = "t"});
    EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'t'"), HasSubstr("shutdown")));
  });
}

TEST_P(RanksTest, ComesAndGoesManyTimes) {
  for (std::uint64_t i = 0; i < 100; ++i) {
    run(3, [i](Context& context, int, std::barrier<>&) {
      if (i % 2 == 0) programs::run(context, programs::world(context), {.name = "t", .seed = i});
    });
  }
}

// ---- refusals and mismatches ----

TEST_P(RanksTest, OneIsRefusedWhileOthersWait) {
  for (int refused = 0; refused < 3; ++refused) {
    run(3, [refused](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      if (rank != refused) {
        const Call call(context, all, {.name = "t"});
        meeting.arrive_and_wait();
        EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'t'"), HasSubstr("too sparse"),
                                                 HasSubstr(fmt::format("rank {}", refused))));
      } else {
        meeting.arrive_and_wait();
        EXPECT_THAT(error_of(*refuse(context, "t", "too sparse")), HasSubstr("too sparse"));
      }
      // Nothing is broken, and the name is free.
      meeting.arrive_and_wait();
      programs::run(context, all, {.name = "t"});
    });
  }
}

// The leader submits nothing more, but others come late and must hear of it.
TEST_P(RanksTest, LeaderIsRefusedBeforeOthersSubmit) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    if (rank == 0) {
      EXPECT_FALSE(refuse(context, "t", "too sparse")->wait().ok());
    }
    for (int late = 1; late < 3; ++late) {
      meeting.arrive_and_wait();
      if (rank != late) continue;
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      const Call call(context, all, {.name = "t"});
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("too sparse"), HasSubstr("rank 0")));
    }
    meeting.arrive_and_wait();
    programs::run(context, all, {.name = "t"});
  });
}

TEST_P(RanksTest, LeaderFailedBeforeTheLastSubmits) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    if (rank == 2) meeting.arrive_and_wait();
    const Call call(context, all, {.name = "t", .count = rank == 1 ? 2 : 1});
    EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("shape"), HasSubstr("rank 0 has [1]"),
                                             HasSubstr("rank 1 has [2]")));
    if (rank != 2) meeting.arrive_and_wait();
    programs::run(context, all, {.name = "t"});
  });
}

// Until it submits, a leader need not listen; then everybody gets an answer.
TEST_P(RanksTest, LeaderSubmitsLater) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    if (rank == 0) {
      meeting.arrive_and_wait();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    std::vector<Call> calls;
    for (std::uint64_t i = 0; i < 20; ++i) {
      const std::string name = fmt::format("t{}", i);
      calls.emplace_back(context, all, programs::random_recipe(name, i, all));
    }
    if (rank != 0) meeting.arrive_and_wait();
    for (const Call& call : calls) call.check();
  });
}

TEST_P(RanksTest, Mismatches) {
  const std::vector<std::pair<Recipe, std::string>> cases = {
      {{.kind = CollectiveKind::Broadcast}, "operation differs: rank 0 has allreduce, rank 1 has"},
      {{.dtype = DataType::Int32}, "dtype differs: rank 0 has float32, rank 1 has int32"},
      {{.op = ReduceOp::Max}, "reduce op differs: rank 0 has Sum, rank 1 has Max"},
      {{.prescale = 2}, "prescale differs: rank 0 has 1, rank 1 has 2"},
      {{.postscale = 2}, "postscale differs: rank 0 has 1, rank 1 has 2"},
      {{.count = 7}, "shape differs: rank 0 has [1], rank 1 has [7]"}};
  for (const auto& [other, words] : cases) {
    run(2, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      // One after the other, so that rank 0 is the first: before it submits, it does not listen.
      if (rank == 1) meeting.arrive_and_wait();
      Recipe recipe = rank == 1 ? other : Recipe{};
      recipe.name = "layer";
      const Call call(context, all, recipe);
      if (rank == 0) meeting.arrive_and_wait();
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'layer'"), HasSubstr(words)));
      programs::run(context, all, {.name = "layer"});
    });
  }
}

TEST_P(RanksTest, NonsenseIsRefusedOnAllRanks) {
  run(2, [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const auto nan = std::numeric_limits<double>::quiet_NaN();
    const std::vector<Recipe> recipes = {
        {.name = "bool", .dtype = DataType::Bool, .op = ReduceOp::Average},
        {.name = "scaled", .dtype = DataType::Int8, .prescale = 2},
        {.name = "nan", .postscale = nan}};
    for (Recipe recipe : recipes) {
      // The other rank's call is all right.
      if (rank == 0) recipe = {.name = recipe.name, .dtype = recipe.dtype};
      const Call call(context, all, recipe);
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr(recipe.name), HasSubstr("rank 1")));
    }
  });
}

TEST_P(RanksTest, RowsThatCannotBeDealtOutAreRefusedOnAllRanks) {
  struct Case {
    CollectiveKind kind;
    Shape shape;
    std::vector<std::int64_t> splits;
    std::string words;
  };
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  constexpr auto kAlltoall = CollectiveKind::Alltoall;
  const std::vector<Case> cases = {
      {kAlltoall, {}, {}, "an all-to-all needs at least one dimension"},
      {kAlltoall, {3, 2}, {}, "its first dimension 3 cannot be divided by 2 ranks: give splits"},
      {kAlltoall, {3}, {3}, "splits [3] has 1 numbers, but the process set has 2 ranks"},
      {kAlltoall, {3}, {1, 1}, "splits [1, 1] do not add up to the first dimension 3"},
      {kAlltoall, {3}, {-1, 4}, "splits [-1, 4] has a negative number"},
      {kAlltoall, {3}, {kMost, kMost}, "do not add up to the first dimension 3"},
      {CollectiveKind::Reducescatter, {}, {}, "a reduce-scatter needs at least one dimension"}};
  run(2, [&cases](Context& context, int rank, std::barrier<>&) {
    for (const Case& wrong : cases) {
      const std::vector<float> values(8);
      Submission submission;
      submission.request.name = "t";
      submission.request.kind = wrong.kind;
      // The other rank's call is all right.
      submission.request.shape = rank == 1 ? wrong.shape : Shape{2};
      if (rank == 1) submission.request.splits = wrong.splits;
      submission.input = values.data();
      EXPECT_THAT(error_of(*context.submit(std::move(submission))),
                  AllOf(HasSubstr(std::string(to_string(wrong.kind)) + " 't'"),
                        HasSubstr(wrong.words), HasSubstr("rank 1")));
    }
  });
}

// What many ranks refuse, one alone does.
TEST_P(RanksTest, MemoryThatIsNotThereIsRefusedOnAllRanks) {
  for (int size = 1; size <= 3; ++size) {
    run(size, [size](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      for (const CollectiveKind kind :
           {CollectiveKind::Allreduce, CollectiveKind::Broadcast, CollectiveKind::Allgather,
            CollectiveKind::Reducescatter, CollectiveKind::Alltoall}) {
        Submission submission;
        submission.request.name = "t";
        submission.request.kind = kind;
        submission.request.shape = {size};
        std::vector<float> values(3);
        if (rank != size - 1) submission.input = submission.output = values.data();
        EXPECT_THAT(error_of(*context.submit(std::move(submission))),
                    AllOf(HasSubstr(std::string(to_string(kind)) + " 't'"),
                          HasSubstr("its tensor has no memory"),
                          HasSubstr(fmt::format("rank {}", size - 1))));
        programs::run(context, all, {.name = "t"});
      }
    });
  }
}

TEST_P(RanksTest, OneAloneRefusesNonsense) {
  run(1, [](Context& context, int, std::barrier<>&) {
    const auto nan = std::numeric_limits<double>::quiet_NaN();
    using Kind = CollectiveKind;
    const std::vector<std::pair<Request, std::string>> cases = {
        {{.dtype = DataType::Bool, .op = ReduceOp::Average}, "a bool tensor has no average"},
        {{.dtype = DataType::Int8, .prescale = 2}, "need a floating dtype"},
        {{.postscale = nan}, "not nan"},
        {{.kind = Kind::Broadcast, .root_rank = 1}, "root rank 1 is out of range"},
        {{.kind = Kind::Allgather}, "needs at least one dimension"},
        {{.kind = Kind::Reducescatter}, "needs at least one dimension"},
        {{.kind = Kind::Alltoall, .shape = {2}, .splits = {1}}, "do not add up"},
        {{.kind = Kind::Alltoall, .shape = {2}, .splits = {1, 1}}, "has 2 numbers"},
        {{.kind = Kind::AddProcessSet, .shape = {1}}, "rank 1 does not exist"}};
    for (const auto& [request, words] : cases) {
      std::vector<float> values(2);
      Submission submission{.request = request, .input = values.data(), .output = values.data()};
      submission.request.name = "t";
      EXPECT_THAT(error_of(*context.submit(std::move(submission))),
                  AllOf(HasSubstr("'t'"), HasSubstr(words), HasSubstr("(rank 0)")));
    }
  });
}

// ---- process sets ----

TEST_P(RanksTest, NoMoreSetsThanThereAre) {
  run(2, [](Context& context, int, std::barrier<>&) {
    Set last;
    for (int i = 0; i < 511; ++i) last = programs::add_set(context, fmt::format("{}", i), {0, 1});
    EXPECT_THAT(error_of(*programs::add_set_async(context, "one more", {0, 1})),
                AllOf(HasSubstr("add_process_set 'one more': there are 511 process sets already "
                                "besides that of all ranks, which is the most"),
                      HasSubstr("make sets once, and keep them")));
    programs::run(context, last, {.name = "t"});
  });
}

TEST_P(RanksTest, SetOfOthers) {
  run(3, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set pair = programs::add_set(context, "pair", {0, 1});
    if (rank == 2) {
      const Call call(context, pair, {.name = "t"});
      EXPECT_THAT(error_of(call.work()),
                  AllOf(HasSubstr("'t'"), HasSubstr("rank 2 is not a member")));
    }
    meeting.arrive_and_wait();
    if (rank < 2) programs::run(context, pair, {.name = "t"});
  });
}

TEST_P(RanksTest, BadSets) {
  run(3, [](Context& context, int rank, std::barrier<>&) {
    const std::vector<std::pair<std::vector<int>, std::string>> bad = {
        {{}, "at least one"},
        {{1, 0}, "ascending"},
        {{1, 1}, "distinct"},
        {{0, 3}, "3 does not exist"},
        {{-1, 0}, "-1 does not exist"}};
    for (const auto& [ranks, words] : bad) {
      EXPECT_THAT(error_of(*programs::add_set_async(context, "bad", ranks)), HasSubstr(words));
    }
    const auto differing = programs::add_set_async(context, "differing", {0, rank == 2 ? 2 : 1});
    EXPECT_THAT(error_of(*differing),
                AllOf(HasSubstr("list of ranks"), HasSubstr("[0, 1]"), HasSubstr("[0, 2]")));
    // One is bad by itself, the others are not.
    const auto one = programs::add_set_async(context, "one", {0, rank == 1 ? 9 : 1});
    EXPECT_THAT(error_of(*one), AllOf(HasSubstr("9 does not exist"), HasSubstr("rank 1")));

    const Set all = programs::add_set(context, "all", {0, 1, 2});
    Submission nested;
    nested.channel = all.channel;
    nested.request.name = "nested";
    nested.request.kind = CollectiveKind::AddProcessSet;
    nested.request.shape = {0, 1};
    EXPECT_THAT(error_of(*context.submit(std::move(nested))), HasSubstr("within another set"));
    programs::run(context, all, {.name = "t"});
  });
}

}  // namespace
}  // namespace kolo::core

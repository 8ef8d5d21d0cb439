// Names that are submitted again before the first operation is done: refused on that rank, and on
// all ranks the name's n-th operation fails that any rank was refused.

#include "base/names.h"

#include <stdlib.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "ranks_fixture.h"

namespace kolo::core {
namespace {

class NamesTest : public RanksFixture {};

INSTANTIATE_TEST_SUITE_P(Planes, NamesTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

/// A rank's n-th all-reduce of a name, in place: a sum that tells which were paired.
class Nth {
 public:
  Nth(Context& context, int n, bool awaited = false)
      : size_(context.topology().size), n_(n), value_(std::make_shared<float>(value_of(n))) {
    Submission submission;
    submission.request.name = "loss";
    submission.request.shape = {1};
    submission.input = submission.output = value_.get();
    submission.keepalive = value_;
    submission.awaited = awaited;
    work_ = context.submit(std::move(submission));
    if (awaited) (void)work_->wait();
  }

  bool done() const { return work_->done(); }

  /// Empty when it has succeeded: with the right value.
  std::string error() const {
    const Status status = work_->wait();
    if (!status.ok()) return status.message();
    EXPECT_EQ(*value_, static_cast<float>(size_) * value_of(n_)) << "operation " << n_;
    return {};
  }

 private:
  static float value_of(int n) { return static_cast<float>(1 << n); }

  int size_;
  int n_;
  std::shared_ptr<float> value_;
  std::shared_ptr<Work> work_;
};

constexpr const char* kTwice =
    "submitted twice: the name is in use until the first operation is done";

/// Rank 0 submits a second one while the first is under way, the others when that is done, and all
/// a third.
void submit_twice_on_rank_0(Context& context, int rank, std::barrier<>& meeting, int n) {
  if (rank == 0) {
    const Nth first(context, n);
    EXPECT_THAT(Nth(context, n + 1).error(),
                AllOf(HasSubstr("allreduce 'loss': submitted twice"), HasSubstr("(rank 0)")));
    meeting.arrive_and_wait();
    EXPECT_EQ(first.error(), "");
  } else {
    meeting.arrive_and_wait();
    EXPECT_EQ(Nth(context, n).error(), "");
    EXPECT_THAT(Nth(context, n + 1).error(),
                HasSubstr(fmt::format("allreduce 'loss': refused on rank 0: {}", kTwice)));
  }
  EXPECT_EQ(Nth(context, n + 2).error(), "");
}

TEST_P(NamesTest, SubmittedTwiceOnOneRank) {
  for (int size = 2; size <= 3; ++size) {
    run(size, [](Context& context, int rank, std::barrier<>& meeting) {
      submit_twice_on_rank_0(context, rank, meeting, 0);
    });
  }
}

TEST_P(NamesTest, SubmittedTwiceWhereTheNameRecurs) {
  for (int size = 2; size <= 3; ++size) {
    run(size, [](Context& context, int rank, std::barrier<>& meeting) {
      for (int n = 0; n < 4; ++n) EXPECT_EQ(Nth(context, n, /*awaited=*/true).error(), "");
      submit_twice_on_rank_0(context, rank, meeting, 4);
    });
  }
}

// Each may be agreed on before it has left.
TEST_P(NamesTest, LeavesWithARefusedOne) {
  for (int leaver = 0; leaver < 3; ++leaver) {
    std::array<std::array<bool, 2>, 3> failed{};
    run(3, [&](Context& context, int rank, std::barrier<>&) {
      const Nth first(context, 0);
      if (rank != leaver) (void)first.error();
      const Nth second(context, 1);
      if (rank == leaver) context.leave();
      failed[static_cast<std::size_t>(rank)] = {!first.error().empty(), !second.error().empty()};
      const std::string left = fmt::format("rank {} has shut down", leaver);
      if (rank == leaver) return;
      EXPECT_THAT(first.error(), AnyOf("", HasSubstr(left)));
      EXPECT_THAT(second.error(), AnyOf("", HasSubstr(kTwice), HasSubstr(left)));
    });
    EXPECT_EQ(failed[0], failed[1]);
    EXPECT_EQ(failed[0], failed[2]);
  }
}

/// What became of each operation on one rank, which has waited between them as it liked. At times
/// all ranks wait for each, so that the name recurs.
std::vector<std::string> play(Context& context, int operations, std::uint64_t seed) {
  std::mt19937_64 common(seed);
  std::mt19937_64 own(seed * 8 + static_cast<unsigned>(context.topology().rank));
  std::vector<Nth> calls;
  bool calm = true;
  for (int n = 0; n < operations; ++n) {
    if (common() % 4 == 0) calm = !calm;
    calls.emplace_back(context, n, /*awaited=*/calm);
    if (own() % 3 == 0) (void)calls[own() % calls.size()].error();
    if (own() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 200));
  }
  std::vector<std::string> errors;
  for (const Nth& call : calls) errors.push_back(call.error());
  return errors;
}

TEST_P(NamesTest, EachOperationEndsAlikeOnAllRanks) {
  constexpr int kOperations = 20;
  std::size_t refused = 0;
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    const int size = 2 + static_cast<int>(seed % 2);
    std::vector<std::vector<std::string>> errors(static_cast<std::size_t>(size));
    run(size, [&](Context& context, int rank, std::barrier<>&) {
      errors[static_cast<std::size_t>(rank)] = play(context, kOperations, seed);
    });
    for (std::size_t n = 0; n < kOperations; ++n) {
      for (const auto& of_rank : errors) {
        EXPECT_EQ(of_rank[n].empty(), errors[0][n].empty())
            << "seed " << seed << " operation " << n;
        if (of_rank[n].empty()) continue;
        EXPECT_THAT(of_rank[n], AllOf(HasSubstr(kTwice), HasSubstr("rank ")));
        ++refused;
      }
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(refused, 100U);
}

// ---- long ones ----

TEST(ShortenedTest, SaysHowANameBeginsAndHowLongItIs) {
  EXPECT_EQ(shortened(""), "");
  const std::string fits(80, 'a');
  EXPECT_EQ(shortened(fits), fits);
  EXPECT_EQ(shortened(fits + 'b'), fits + "… (81 bytes)");
  // Of two, three and four bytes: whole ones only.
  EXPECT_EQ(shortened(std::string(79, 'a') + "ä" + fits), std::string(79, 'a') + "… (161 bytes)");
  EXPECT_EQ(shortened(std::string(78, 'a') + "ä" + fits), std::string(78, 'a') + "ä… (160 bytes)");
  EXPECT_EQ(shortened(std::string(78, 'a') + "…" + fits), std::string(78, 'a') + "… (161 bytes)");
  EXPECT_EQ(shortened(std::string(77, 'a') + "𝄞" + fits), std::string(77, 'a') + "… (161 bytes)");
  EXPECT_EQ(shortened(std::string(81, '\x80')).size(), 77 + std::string("… (81 bytes)").size());
}

TEST_P(NamesTest, OfAMegabyteInAMessage) {
  run(2, [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const std::string name = std::string(1 << 20, 'x') + "1";
    const Call call(context, all, {.name = name, .count = rank + 1});
    EXPECT_THAT(error_of(call.work()),
                AllOf(HasSubstr("'" + std::string(80, 'x') + "… (1048577 bytes)'"),
                      HasSubstr("rank 0 has [1]"), HasSubstr("rank 1 has [2]")));
    const Call other(context, all, {.name = std::string(1 << 20, 'x') + "2"});
    other.check();
  });
}

TEST(NamesInATimelineTest, OfAMegabyte) {
  std::array<char, 32> folder{"/tmp/kolo-names-XXXXXX"};
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  Job job(2);
  job.config.timeline = std::string(folder.data()) + "/t.json";
  job.run([](Context& context) {
    programs::run(context, programs::world(context), {.name = std::string(1 << 20, 'x')});
  });
  std::ifstream file(job.config.timeline);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(text, HasSubstr("allreduce " + std::string(80, 'x') + "… (1048576 bytes)"));
  EXPECT_LT(text.size(), std::size_t{1} << 16);
  std::filesystem::remove_all(folder.data());
}

}  // namespace
}  // namespace kolo::core

// Every row of the negotiator's table, and then some.

#include "engine/negotiator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "replies.h"

namespace kolo::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Replies = std::vector<std::vector<Response>>;

const Clock::time_point kStart{std::chrono::hours(1)};

Request request(const std::string& name, Shape shape = {4}) {
  Request r;
  r.name = name;
  r.shape = std::move(shape);
  return r;
}

Request refused(const std::string& name, const std::string& reason) {
  Request r = request(name);
  r.refusal = reason;
  return r;
}

/// Names of a member's replies, those that failed with a '!'.
std::vector<std::string> summary(const std::vector<Response>& replies) {
  std::vector<std::string> names;
  for (const Response& reply : replies)
    names.push_back((reply.error.empty() ? "" : "!") + reply.name);
  return names;
}

/// Of the process set 2, 5, 7.
class NegotiatorTest : public ::testing::Test {
 protected:
  void add(int rank, Request r) { add_all(rank, {std::move(r)}); }
  void add_all(int rank, std::vector<Request> requests) {
    negotiator_.add(rank, list_of(std::move(requests)), kStart);
  }
  /// The members' replies, as summaries.
  std::vector<std::vector<std::string>> replies() {
    replies_ = by_member(negotiator_.take_replies());
    std::vector<std::vector<std::string>> all;
    for (const auto& of_member : replies_) all.push_back(summary(of_member));
    return all;
  }

  Negotiator negotiator_{{2, 5, 7}};
  Replies replies_;
};

using Names = std::vector<std::string>;

TEST_F(NegotiatorTest, GoesAheadWhenTheLastHasSubmitted) {
  add(7, request("a"));
  add(2, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty()));
  add(5, request("a"));
  EXPECT_THAT(replies(), ElementsAre(Names{"a"}, Names{"a"}, Names{"a"}));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty()));
}

TEST_F(NegotiatorTest, OrderIsThatOfCompletion) {
  for (const char* name : {"a", "b", "c"}) add(2, request(name));
  for (const char* name : {"b", "c", "a"}) add(5, request(name));
  for (const char* name : {"c", "a", "b"}) add(7, request(name));
  const Names order = {"c", "a", "b"};
  EXPECT_THAT(replies(), ElementsAre(order, order, order));
}

TEST_F(NegotiatorTest, AListGoesAheadInItsOrder) {
  const std::vector<Request> list = {request("b"), request("a", {2}), request("c")};
  add_all(7, list);
  EXPECT_FALSE(negotiator_.expects_members());
  add_all(2, list);
  EXPECT_TRUE(negotiator_.expects_members());
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty()));
  add_all(5, list);
  EXPECT_FALSE(negotiator_.expects_members());
  const Names order = {"b", "a", "c"};
  EXPECT_THAT(replies(), ElementsAre(order, order, order));
}

TEST_F(NegotiatorTest, AnotherListIsComparedNameByName) {
  add_all(7, {request("a"), request("b"), request("c")});
  add_all(2, {request("a"), request("b"), request("c")});
  add_all(5, {request("c"), request("b", {5})});
  EXPECT_THAT(replies(), ElementsAre(Names{"c", "!b"}, Names{"c", "!b"}, Names{"c", "!b"}));
  EXPECT_THAT(replies_[0][1].error,
              AllOf(HasSubstr("rank 7 has [4]"), HasSubstr("rank 5 has [5]")));
  EXPECT_TRUE(negotiator_.expects_members());
  add(5, request("a"));
  EXPECT_THAT(replies(), ElementsAre(Names{"a"}, Names{"a"}, Names{"a"}));
  EXPECT_FALSE(negotiator_.expects_members());
}

TEST_F(NegotiatorTest, OneRankGoesOnWhileItsListWaits) {
  add_all(2, {request("a"), request("b")});
  add(2, request("c"));
  add_all(5, {request("a"), request("b"), request("c")});
  add_all(7, {request("b")});
  EXPECT_THAT(replies(), ElementsAre(Names{"b"}, Names{"b"}, Names{"b"}));
}

TEST_F(NegotiatorTest, LeavingFailsAListThatWaits) {
  add_all(2, {request("a"), request("b")});
  negotiator_.leave(5);
  EXPECT_THAT(replies(),
              ElementsAre(testing::UnorderedElementsAre("!a", "!b"), IsEmpty(), IsEmpty()));
  add_all(7, {request("a"), request("b")});
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!a", "!b"}));
  EXPECT_FALSE(negotiator_.expects_members());
}

TEST_F(NegotiatorTest, AListStallsNameByName) {
  add_all(7, {request("b"), request("a")});
  add_all(2, {request("b"), request("a")});
  const auto stalls =
      negotiator_.stalled(kStart + std::chrono::seconds(3), std::chrono::seconds(3));
  ASSERT_EQ(stalls.size(), 2U);
  EXPECT_EQ(stalls[0].name, "a");
  EXPECT_THAT(stalls[1].missing, ElementsAre(5));
  negotiator_.fail("b", "too late");
  EXPECT_THAT(replies(), ElementsAre(Names{"!b"}, IsEmpty(), Names{"!b"}));
}

TEST_F(NegotiatorTest, MismatchFailsForAllThatHaveSubmittedAndForTheLate) {
  add(5, request("a"));
  add(2, request("a", {3, 1}));
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, Names{"!a"}, IsEmpty()));
  EXPECT_EQ(replies_[0][0].error, replies_[1][0].error);
  const std::string error = replies_[0][0].error;
  EXPECT_THAT(error, AllOf(HasSubstr("allreduce 'a'"), HasSubstr("rank 5 has [4]"),
                           HasSubstr("rank 2 has [3, 1]")));
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!a"}));
  EXPECT_EQ(replies_[2][0].error, error);
}

TEST_F(NegotiatorTest, EveryMismatchIsNamed) {
  const auto with = [](auto&& change) {
    Request r = request("t");
    change(r);
    return r;
  };
  const std::vector<std::pair<Request, std::string>> cases = {
      {with([](Request& r) { r.kind = CollectiveKind::Barrier; }),
       "operation differs: rank 2 has allreduce, rank 5 has barrier"},
      {with([](Request& r) { r.device = DeviceType::Cuda; }),
       "device differs: rank 2 has cpu, rank 5 has cuda"},
      {with([](Request& r) { r.dtype = DataType::BFloat16; }),
       "dtype differs: rank 2 has float32, rank 5 has bfloat16"},
      {with([](Request& r) { r.op = ReduceOp::Product; }),
       "reduce op differs: rank 2 has Sum, rank 5 has Product"},
      {with([](Request& r) { r.root_rank = 7; }), "root rank differs: rank 2 has 0, rank 5 has 7"},
      {with([](Request& r) { r.prescale = 0.5; }),
       "prescale differs: rank 2 has 1, rank 5 has 0.5"},
      {with([](Request& r) { r.postscale = -1; }),
       "postscale differs: rank 2 has 1, rank 5 has -1"},
      {with([](Request& r) {
         r.shape = {2, 2};
       }),
       "shape differs: rank 2 has [4], rank 5 has [2, 2]"},
      {with([](Request& r) { r.shape = {}; }), "shape differs: rank 2 has [4], rank 5 has []"}};
  for (const auto& [other, words] : cases) {
    add(2, request("t"));
    add(5, other);
    add(7, request("t"));
    EXPECT_THAT(replies(), ElementsAre(Names{"!t"}, Names{"!t"}, Names{"!t"}));
    EXPECT_EQ(replies_[0][0].error, "allreduce 't': " + words);
  }
}

TEST_F(NegotiatorTest, AllgatherMayDifferInTheFirstDimensionOnly) {
  const auto gather = [](Shape shape) {
    Request r = request("g", std::move(shape));
    r.kind = CollectiveKind::Allgather;
    return r;
  };
  add(7, gather({0, 3}));
  add(2, gather({5, 3}));
  add(5, gather({1, 3}));
  EXPECT_THAT(replies(), ElementsAre(Names{"g"}, Names{"g"}, Names{"g"}));
  for (const auto& reply : replies_) EXPECT_THAT(reply[0].first_dimensions, ElementsAre(5, 1, 0));

  add(7, gather({4, 3}));
  add(2, gather({4, 2}));
  EXPECT_THAT(replies(), ElementsAre(Names{"!g"}, IsEmpty(), Names{"!g"}));
  EXPECT_THAT(replies_[0][0].error, AllOf(HasSubstr("[4, 3]"), HasSubstr("[4, 2]")));
  add(5, gather({4, 3}));

  add(5, gather({4, 3}));
  add(7, gather({4}));
  EXPECT_THAT(replies_[0][0].error, HasSubstr("shape differs"));
}

// Each member is told what comes to it; equal parts need no splits.
TEST_F(NegotiatorTest, AlltoallTellsEachMemberItsRows) {
  const auto give = [](Shape shape, std::vector<std::int64_t> splits) {
    Request r = request("a", std::move(shape));
    r.kind = CollectiveKind::Alltoall;
    r.splits = std::move(splits);
    return r;
  };
  add(7, give({6, 3}, {}));
  add(2, give({5, 3}, {0, 1, 4}));
  add(5, give({9, 3}, {9, 0, 0}));
  EXPECT_THAT(replies(), ElementsAre(Names{"a"}, Names{"a"}, Names{"a"}));
  EXPECT_THAT(replies_[0][0].first_dimensions, ElementsAre(0, 9, 2));
  EXPECT_THAT(replies_[1][0].first_dimensions, ElementsAre(1, 0, 2));
  EXPECT_THAT(replies_[2][0].first_dimensions, ElementsAre(4, 0, 2));

  add(2, give({3, 3}, {}));
  add(7, give({3, 2}, {}));
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, IsEmpty(), Names{"!a"}));
  EXPECT_EQ(replies_[0][0].error,
            "alltoall 'a': shape differs: rank 2 has [3, 3], rank 7 has [3, 2]");
}

TEST_F(NegotiatorTest, ReducescatterMayNotDifferInAnyDimension) {
  const auto give = [](Shape shape) {
    Request r = request("r", std::move(shape));
    r.kind = CollectiveKind::Reducescatter;
    return r;
  };
  add(2, give({4, 3}));
  add(7, give({5, 3}));
  EXPECT_THAT(replies(), ElementsAre(Names{"!r"}, IsEmpty(), Names{"!r"}));
  EXPECT_EQ(replies_[0][0].error,
            "reducescatter 'r': shape differs: rank 2 has [4, 3], rank 7 has [5, 3]");
}

TEST_F(NegotiatorTest, ProcessSetsGetChannelsInTurn) {
  for (ChannelId channel = 1; channel <= 3; ++channel) {
    for (const int rank : {5, 2, 7}) {
      Request r = request("set", {2, 7});
      r.kind = CollectiveKind::AddProcessSet;
      add(rank, r);
    }
    EXPECT_THAT(replies(), ElementsAre(Names{"set"}, Names{"set"}, Names{"set"}));
    for (const auto& reply : replies_) EXPECT_EQ(reply[0].new_channel, channel);
  }
}

TEST_F(NegotiatorTest, RefusalFailsForTheOthersAndIsNotAnswered) {
  add(2, request("a"));
  add(7, refused("a", "no tensor"));
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, IsEmpty(), IsEmpty()));
  EXPECT_THAT(replies_[0][0].error,
              AllOf(HasSubstr("allreduce 'a'"), HasSubstr("rank 7"), HasSubstr("no tensor")));
  add(5, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), Names{"!a"}, IsEmpty()));

  // Refused first; the first error stays.
  add(5, refused("b", "first"));
  add(2, refused("b", "second"));
  add(7, request("b"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!b"}));
  EXPECT_THAT(replies_[2][0].error, AllOf(HasSubstr("rank 5"), HasSubstr("first")));

  for (const int rank : {2, 5, 7}) add(rank, refused("c", "everywhere"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty()));
  EXPECT_FALSE(negotiator_.expects_members());
}

TEST_F(NegotiatorTest, NthSubmissionBelongsToNthOperation) {
  // Ranks 2 and 5 are two operations ahead when 7 comes.
  add(2, refused("a", "broken"));
  add(5, request("a"));
  add(2, request("a"));
  add(5, request("a", {9}));
  add(2, request("a"));
  add(5, request("a"));
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, Names({"!a", "!a"}), IsEmpty()));
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!a"}));
  EXPECT_THAT(replies_[2][0].error, HasSubstr("broken"));
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!a"}));
  EXPECT_THAT(replies_[2][0].error, HasSubstr("[9]"));
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(Names{"a"}, Names{"a"}, Names{"a"}));
}

TEST_F(NegotiatorTest, LeavingFailsWhatWaits) {
  add(2, request("a"));
  add(5, request("a"));
  add(7, request("b"));
  negotiator_.leave(7);
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, Names{"!a"}, Names{"!b"}));
  EXPECT_THAT(replies_[0][0].error,
              AllOf(HasSubstr("allreduce 'a': rank 7 has shut down"), HasSubstr("without taking part")));
  EXPECT_THAT(replies_[2][0].error,
              HasSubstr("allreduce 'b': rank 7 has shut down Kolo (or ended) after submitting it"));
  // Those that come later.
  add(2, request("b"));
  add(5, request("b"));
  add(5, request("c"));
  EXPECT_THAT(replies(), ElementsAre(Names{"!b"}, Names({"!b", "!c"}), IsEmpty()));
  EXPECT_THAT(replies_[1][1].error, AllOf(HasSubstr("'c'"), HasSubstr("rank 7")));
  negotiator_.leave(7);
  negotiator_.leave(5);
  negotiator_.leave(2);
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty()));
  EXPECT_FALSE(negotiator_.expects_members());
}

TEST_F(NegotiatorTest, WhatWasAgreedOnStays) {
  for (const int rank : {2, 5, 7}) add(rank, request("a"));
  negotiator_.leave(5);
  EXPECT_THAT(replies(), ElementsAre(Names{"a"}, Names{"a"}, Names{"a"}));
}

TEST_F(NegotiatorTest, ExpectsMembersWhileTheLeaderTakesPart) {
  EXPECT_FALSE(negotiator_.expects_members());
  add(5, request("a"));
  EXPECT_FALSE(negotiator_.expects_members());
  add(2, request("a"));
  EXPECT_TRUE(negotiator_.expects_members());
  add(7, request("a"));
  EXPECT_FALSE(negotiator_.expects_members());

  add(2, refused("b", "broken"));
  EXPECT_TRUE(negotiator_.expects_members());
  add(5, request("b"));
  negotiator_.leave(7);
  EXPECT_FALSE(negotiator_.expects_members());
}

TEST_F(NegotiatorTest, Stalls) {
  using std::chrono::seconds;
  negotiator_.add(7, list_of({request("z")}), kStart);
  negotiator_.add(2, list_of({request("a")}), kStart + seconds(1));
  negotiator_.add(5, list_of({request("a")}), kStart + seconds(5));
  EXPECT_THAT(negotiator_.stalled(kStart + seconds(2), seconds(3)), IsEmpty());
  auto stalls = negotiator_.stalled(kStart + seconds(3), seconds(3));
  ASSERT_EQ(stalls.size(), 1U);
  EXPECT_EQ(stalls[0].name, "z");
  EXPECT_THAT(stalls[0].submitted, ElementsAre(7));
  EXPECT_THAT(stalls[0].missing, ElementsAre(2, 5));
  stalls = negotiator_.stalled(kStart + seconds(6), seconds(3));
  ASSERT_EQ(stalls.size(), 2U);
  EXPECT_EQ(stalls[0].name, "a");
  EXPECT_EQ(stalls[0].age, seconds(5));
  EXPECT_THAT(stalls[0].missing, ElementsAre(7));

  negotiator_.fail("a", "given up");
  negotiator_.fail("unknown", "given up");
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, Names{"!a"}, IsEmpty()));
  EXPECT_EQ(replies_[0][0].error, "given up");
  EXPECT_EQ(negotiator_.stalled(kStart + seconds(6), seconds(3)).size(), 1U);
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names{"!a"}));
}

// The second operation of a name stalls as well, while the first, which has failed, waits for its
// last rank.
TEST_F(NegotiatorTest, StallsBehindAFailedOperation) {
  for (int round = 0; round < 2; ++round) {
    add(2, round == 0 ? refused("a", "broken") : request("a"));
    add(5, request("a"));
  }
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), Names{"!a"}, IsEmpty()));
  const auto stalls =
      negotiator_.stalled(kStart + std::chrono::seconds(9), std::chrono::seconds(3));
  ASSERT_EQ(stalls.size(), 1U);
  EXPECT_THAT(stalls[0].submitted, ElementsAre(2, 5));
  EXPECT_THAT(stalls[0].missing, ElementsAre(7));
  negotiator_.fail("a", "given up");
  EXPECT_THAT(replies(), ElementsAre(Names{"!a"}, Names{"!a"}, IsEmpty()));
  add(7, request("a"));
  add(7, request("a"));
  EXPECT_THAT(replies(), ElementsAre(IsEmpty(), IsEmpty(), Names({"!a", "!a"})));
}

}  // namespace
}  // namespace kolo::core

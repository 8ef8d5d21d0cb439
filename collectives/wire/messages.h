#pragma once

/// What ranks say to each other. The engine's process_sets.h and coordinator.h have the protocol.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/types.h"

namespace kolo::core {

/// One rank's wish to take part in an operation.
struct Request {
  std::string name;
  CollectiveKind kind = CollectiveKind::Allreduce;
  DataType dtype = DataType::Float32;
  ReduceOp op = ReduceOp::Sum;
  DeviceType device = DeviceType::Cpu;
  /// Broadcast: the global rank that gives.
  std::int32_t root_rank = 0;
  double prescale = 1.0;
  double postscale = 1.0;
  Shape shape;
  /// Alltoall: rows (along the first dimension) that go to each member. Empty: as many to each.
  std::vector<std::int64_t> splits;
  /// Who submits it waits for it at once.
  bool awaited = false;
  /// Not empty: this rank's call was refused for this reason, so the operation fails on all ranks.
  std::string refusal;

  bool operator==(const Request&) const = default;
};

/// As messages name it: "allreduce 'loss'".
std::string label(const Request& request);
/// As people are told where a rank is: "in all-reduce 'loss'".
std::string spoken(const Request& request);

/// The leader's word on one operation: go ahead, or why not.
struct Response {
  std::string name;
  /// Not empty: the operation failed on every rank.
  std::string error;
  /// Allgather: each member's first dimension, in rank order. Alltoall: rows that come from each to
  /// the member that gets this.
  std::vector<std::int64_t> first_dimensions;
  /// AddProcessSet: the new set's channel.
  ChannelId new_channel = 0;
  /// Not 0: when this is submitted again, it belongs to this plan of the set.
  PlanId plan = 0;

  bool operator==(const Response&) const = default;
};

/// Member to leader.
struct RequestList {
  ChannelId channel = kWorldChannel;
  std::vector<Request> requests;

  bool operator==(const RequestList&) const = default;
};

/// Leader to member: executed in the order given, on every member.
struct ResponseList {
  ChannelId channel = kWorldChannel;
  std::vector<Response> responses;

  bool operator==(const ResponseList&) const = default;
};

/// How many operations of a plan a rank has submitted.
struct PlanProgress {
  ChannelId channel = 0;
  std::uint64_t operations = 0;

  bool operator==(const PlanProgress&) const = default;
};

/// "I have called shutdown": sent to the leader of each set that the rank belongs to.
struct Leave {
  std::vector<PlanProgress> plans;

  bool operator==(const Leave&) const = default;
};

/// Leader to member: this rank has called shutdown, so that plans of the set end where it ended them.
struct MemberLeft {
  ChannelId channel = kWorldChannel;
  std::int32_t rank = 0;
  std::vector<PlanProgress> plans;

  bool operator==(const MemberLeft&) const = default;
};

/// "I have ended this plan": member to leader, which tells every member, the first one, too.
struct PlanEnd {
  std::int32_t rank = 0;
  /// What it has submitted of the plan: all that it will.
  PlanProgress plan;

  bool operator==(const PlanEnd&) const = default;
};

/// Leader to member: every member of the set has left, and nothing more will come.
struct AllLeft {
  ChannelId channel = kWorldChannel;

  bool operator==(const AllLeft&) const = default;
};

/// "Planes are broken": whoever hears it fails everything with this reason, which names the rank.
struct Failure {
  std::string reason;

  bool operator==(const Failure&) const = default;
};

/// Leader to the members that wait: the stall of these operations has been reported.
struct StallNotice {
  ChannelId channel = kWorldChannel;

  bool operator==(const StallNotice&) const = default;
};

/// Every rank to rank 0 when it starts: what must be the same everywhere.
struct Hello {
  /// Not empty: why this rank cannot start.
  std::string refusal;
  std::int64_t fusion_threshold = 0;
  bool timeline = false;
  bool gpu_over_mpi = false;
  /// On rank 0's host: the timeline's file, whatever its name is relative to. Elsewhere empty.
  std::string timeline_file;
  /// Config::nccl.
  std::string nccl;

  bool operator==(const Hello&) const = default;
};

/// Rank 0 to all: its clock at this moment, or why the ranks cannot work together.
struct Welcome {
  std::string error;
  std::int64_t clock_ns = 0;
  std::int64_t timeline_origin_ns = 0;

  bool operator==(const Welcome&) const = default;
};

/// A rank on another host to rank 0, which keeps the timeline's file.
struct TraceLines {
  std::string lines;

  bool operator==(const TraceLines&) const = default;
};

/// An operation that a rank waits for, so that every member can say whether it has submitted it
/// (engine/circle.h).
struct AwaitedOperation {
  /// Of its process set, or of its plan.
  ChannelId channel = kWorldChannel;
  /// Empty: of a plan.
  std::string name;
  /// In a plan: its number there. Else: how often the rank has heard "go ahead" in the process set.
  std::uint64_t number = 0;
  /// How many operations of this name have failed on the rank.
  std::uint64_t failures = 0;
  /// Global ranks of its members, ascending.
  std::vector<std::int32_t> ranks;
  /// For people: "in barrier 'b' after step 3".
  std::string words;

  bool operator==(const AwaitedOperation&) const = default;
};

/// "All threads here wait": to each lower rank.
struct Blocked {
  /// As long as it stays the same, so does what the rank waits for.
  std::uint64_t epoch = 0;
  /// One for each thread.
  std::vector<AwaitedOperation> operations;

  bool operator==(const Blocked&) const = default;
};

/// "Do you still wait, since you have said so with this epoch? Which of these have you not submitted?"
struct CircleQuestion {
  std::uint64_t number = 0;
  std::uint64_t epoch = 0;
  std::vector<AwaitedOperation> operations;

  bool operator==(const CircleQuestion&) const = default;
};

struct CircleAnswer {
  /// The question's.
  std::uint64_t number = 0;
  bool waits = false;
  /// By operation: 1 where this rank has not submitted it.
  std::vector<std::uint8_t> lacks;

  bool operator==(const CircleAnswer&) const = default;
};

using Message =
    std::variant<RequestList, ResponseList, Leave, AllLeft, Failure, StallNotice, Hello, Welcome,
                 TraceLines, MemberLeft, PlanEnd, Blocked, CircleQuestion, CircleAnswer>;

}  // namespace kolo::core

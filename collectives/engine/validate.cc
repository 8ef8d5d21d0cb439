#include "engine/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

namespace kolo::core {
namespace {

bool is_scaled(const Request& request) {
  return request.prescale != 1.0 || request.postscale != 1.0;
}

std::string check_reduction(const Request& request) {
  if (request.dtype == DataType::Bool && request.op == ReduceOp::Average) {
    return "a bool tensor has no average; use Sum (or), Product (and), or convert it";
  }
  if (request.device == DeviceType::Cuda && request.dtype == DataType::Int16) {
    return "NCCL cannot reduce int16 tensors; convert it to int32";
  }
  if (std::isnan(request.prescale) || std::isnan(request.postscale)) {
    return "prescale and postscale must be numbers, not nan";
  }
  if (is_scaled(request) && !is_floating(request.dtype)) {
    return fmt::format("prescale and postscale need a floating dtype, not {}",
                       to_string(request.dtype));
  }
  return {};
}

std::string check_broadcast(const Request& request, std::span<const int> ranks) {
  if (std::ranges::find(ranks, request.root_rank) == ranks.end()) {
    return fmt::format("root rank {} is out of range: the process set has ranks {}",
                       request.root_rank, fmt::join(ranks, ", "));
  }
  return {};
}

std::string check_process_set(const Request& request, std::span<const int> ranks) {
  const Shape& members = request.shape;
  const bool ascending = std::ranges::adjacent_find(members, std::greater_equal<>()) == members.end();
  if (members.empty() || !ascending) {
    return fmt::format("its ranks must be distinct and ascending, at least one; got {}",
                       to_string(members));
  }
  for (const std::int64_t member : members) {
    if (std::ranges::find(ranks, member) == ranks.end()) {
      return fmt::format("rank {} does not exist: there are {} ranks", member, ranks.size());
    }
  }
  return {};
}

std::string check_reducescatter(const Request& request) {
  if (request.shape.empty()) return "a reduce-scatter needs at least one dimension";
  return check_reduction(request);
}

std::string check_alltoall(const Request& request, std::size_t members) {
  if (request.shape.empty()) return "an all-to-all needs at least one dimension";
  const std::int64_t rows = request.shape.front();
  const std::vector<std::int64_t>& splits = request.splits;
  if (splits.empty()) {
    if (rows % static_cast<std::int64_t>(members) == 0) return {};
    return fmt::format("its first dimension {} cannot be divided by {} ranks: give splits", rows,
                       members);
  }
  if (splits.size() != members) {
    return fmt::format("splits {} has {} numbers, but the process set has {} ranks",
                       to_string(splits), splits.size(), members);
  }
  std::int64_t left = rows;
  for (const std::int64_t split : splits) {
    if (split < 0) return fmt::format("splits {} has a negative number", to_string(splits));
    // Never below -split, so it does not overflow.
    if (left >= 0) left -= split;
  }
  if (left != 0) {
    return fmt::format("splits {} do not add up to the first dimension {}", to_string(splits),
                       rows);
  }
  return {};
}

/// The dimensions on which all ranks must agree.
std::span<const std::int64_t> common_dimensions(const Request& request) {
  const std::span<const std::int64_t> shape(request.shape);
  const bool ragged =
      request.kind == CollectiveKind::Allgather || request.kind == CollectiveKind::Alltoall;
  return ragged && !shape.empty() ? shape.subspan(1) : shape;
}

}  // namespace

std::string departure_error(int rank) {
  return fmt::format(
      "rank {} has shut down Kolo (or ended) without taking part. Every rank of the process set must "
      "run the same operations.",
      rank);
}

std::string withdrawal_error(int rank) {
  return fmt::format(
      "rank {} has shut down Kolo (or ended) after submitting it, before all ranks had. Wait for what was "
      "submitted before shutdown().",
      rank);
}

std::string plan_end_error(int rank) {
  return fmt::format(
      "rank {} has destroyed its optimizer without taking part, or an exception there has: its training has "
      "ended while this rank goes on. If it had fewer batches, give all ranks as many (equal shards, or "
      "drop_last), or let a rank that has none left call synchronize() and step() as often as the "
      "others do.",
      rank);
}

std::string check_request(const Request& request, std::span<const int> ranks) {
  switch (request.kind) {
    case CollectiveKind::Allreduce:
      return check_reduction(request);
    case CollectiveKind::Broadcast:
      return check_broadcast(request, ranks);
    case CollectiveKind::Allgather:
      return request.shape.empty() ? "an all-gather needs at least one dimension" : "";
    case CollectiveKind::Reducescatter:
      return check_reducescatter(request);
    case CollectiveKind::Alltoall:
      return check_alltoall(request, ranks.size());
    case CollectiveKind::AddProcessSet:
      return check_process_set(request, ranks);
    case CollectiveKind::Barrier:
      return {};
  }
  std::abort();
}

std::string find_mismatch(const Request& first, int first_rank, const Request& other,
                          int other_rank) {
  const auto differ = [&](std::string_view what, const auto& value, const auto& other_value) {
    return fmt::format("{}: {} differs: rank {} has {}, rank {} has {}", label(first), what,
                       first_rank, value, other_rank, other_value);
  };
  if (first.kind != other.kind) {
    return differ("operation", to_string(first.kind), to_string(other.kind));
  }
  if (first.device != other.device) {
    return differ("device", to_string(first.device), to_string(other.device));
  }
  if (first.dtype != other.dtype) {
    return differ("dtype", to_string(first.dtype), to_string(other.dtype));
  }
  if (first.op != other.op) return differ("reduce op", to_string(first.op), to_string(other.op));
  if (first.root_rank != other.root_rank) {
    return differ("root rank", first.root_rank, other.root_rank);
  }
  if (first.prescale != other.prescale) {
    return differ("prescale", first.prescale, other.prescale);
  }
  if (first.postscale != other.postscale) {
    return differ("postscale", first.postscale, other.postscale);
  }
  if (first.shape.size() != other.shape.size() ||
      !std::ranges::equal(common_dimensions(first), common_dimensions(other))) {
    const bool set = first.kind == CollectiveKind::AddProcessSet;
    return differ(set ? "list of ranks" : "shape", to_string(first.shape), to_string(other.shape));
  }
  return {};
}

}  // namespace kolo::core

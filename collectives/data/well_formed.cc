#include "data/well_formed.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string_view>

namespace kolo::core {
namespace {

Status invalid(const Collective& collective, std::string_view what) {
  return Status::error(
      fmt::format("operation {} of channel {} {}", collective.sequence, collective.channel, what));
}

/// One for each member, none negative.
bool are_counts(const std::vector<std::int64_t>& counts, const Collective& c) {
  return counts.size() == c.ranks.size() &&
         std::ranges::none_of(counts, [](std::int64_t count) { return count < 0; });
}

/// Of the kinds that have counts.
Status fitting_counts(const Collective& c) {
  if (!are_counts(c.counts, c) || elements_before(c.counts, c.ranks.size()) != c.count) {
    return invalid(c, "has counts that do not fit its elements");
  }
  const bool splits = c.kind == CollectiveKind::Alltoall;
  const auto own = static_cast<std::size_t>(c.member);
  if (splits && (!are_counts(c.splits, c) || c.splits[own] != c.counts[own])) {
    return invalid(c, "has splits that do not fit its counts");
  }
  if (input_count(c) > 0 && c.input == nullptr) return invalid(c, "has no memory to read from");
  return {};
}

}  // namespace

int rank_of(const Collective& collective) {
  return collective.ranks[static_cast<std::size_t>(collective.member)];
}

Status well_formed(const Collective& c, int rank, int size) {
  const auto members = static_cast<std::int64_t>(c.ranks.size());
  if (c.member < 0 || c.member >= members || rank_of(c) != rank) {
    return invalid(c, fmt::format("does not have rank {} as its member", rank));
  }
  if (!std::ranges::is_sorted(c.ranks, std::ranges::less_equal()) || c.ranks.front() < 0 ||
      c.ranks.back() >= size) {
    return invalid(c, "has ranks that are out of order or do not exist");
  }
  if (c.count < 0) return invalid(c, "has a negative number of elements");
  switch (c.kind) {
    case CollectiveKind::Allreduce:
      break;
    case CollectiveKind::Broadcast:
      if (c.root_member < 0 || c.root_member >= members) return invalid(c, "has no such root");
      break;
    case CollectiveKind::Allgather:
    case CollectiveKind::Reducescatter:
    case CollectiveKind::Alltoall:
      if (Status status = fitting_counts(c); !status.ok()) return status;
      break;
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      return invalid(c, fmt::format("is not for a data plane: {}", to_string(c.kind)));
  }
  if (output_count(c) > 0 && c.output == nullptr && !c.declined) {
    return invalid(c, "has no memory to write to");
  }
  return {};
}

}  // namespace kolo::core

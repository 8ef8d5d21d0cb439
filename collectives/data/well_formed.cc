#include "data/well_formed.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>

namespace kolo::core {
namespace {

Status invalid(const Collective& collective, std::string_view what) {
  return Status::error(
      fmt::format("operation {} of channel {} {}", collective.sequence, collective.channel, what));
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
  if (c.count < 0 || (c.count > 0 && c.output == nullptr && !c.declined)) {
    return invalid(c, "has no output");
  }
  switch (c.kind) {
    case CollectiveKind::Allreduce:
      return {};
    case CollectiveKind::Broadcast:
      if (c.root_member < 0 || c.root_member >= members) return invalid(c, "has no such root");
      return {};
    case CollectiveKind::Allgather: {
      const bool negative = std::ranges::any_of(c.counts, [](std::int64_t n) { return n < 0; });
      if (negative || std::ssize(c.counts) != members ||
          std::accumulate(c.counts.begin(), c.counts.end(), std::int64_t{0}) != c.count) {
        return invalid(c, "has counts that do not fit its output");
      }
      if (c.counts[static_cast<std::size_t>(c.member)] > 0 && c.input == nullptr) {
        return invalid(c, "has no input");
      }
      return {};
    }
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return invalid(c, fmt::format("is not for a data plane: {}", to_string(c.kind)));
}

}  // namespace kolo::core

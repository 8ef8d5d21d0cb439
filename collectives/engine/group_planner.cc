#include "engine/group_planner.h"

#include <algorithm>
#include <limits>

namespace kolo::core {
namespace {

/// What ends within it ends at the same time, in seconds.
constexpr double kTie = 1e-9;
constexpr double kNever = std::numeric_limits<double>::infinity();

std::size_t bytes_of(const PlannedTensor& tensor) {
  const std::size_t bytes = static_cast<std::size_t>(tensor.elements) * size_of(tensor.dtype);
  return (bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
}

bool can_share_a_group(const PlannedTensor& a, const PlannedTensor& b) {
  return a.dtype == b.dtype && a.device == b.device;
}

/// Cuts a sequence of tensors into groups. Position p is between tensor p - 1 and tensor p.
class Cutting {
 public:
  /// By position: when groups that end there are done at the earliest, and where the last of them begins.
  struct Row {
    std::vector<double> end;
    std::vector<std::size_t> begin;
  };

  Cutting(std::span<const PlannedTensor> tensors, std::span<const std::size_t> order,
          std::span<const double> ready, const TransferCost& cost, std::size_t limit)
      : cost_(cost) {
    for (std::size_t i = 0; i < order.size(); ++i) {
      const PlannedTensor& tensor = tensors[order[i]];
      bytes_.push_back(bytes_.back() + bytes_of(tensor));
      // No group starts before those ahead of it.
      ready_.push_back(std::max(ready_.back(), ready[order[i]]));
      const bool changes = i > 0 && !can_share_a_group(tensors[order[i - 1]], tensor);
      std::size_t first = changes ? i : first_.back();
      while (first < i && bytes_.back() - bytes_[first] > limit) ++first;
      first_.push_back(first);
    }
  }

  std::size_t positions() const { return bytes_.size(); }

  /// Adds a group to what `row` has, which may be the row under way: any number of groups.
  void extend(const Row& row, Row& longer) const {
    for (std::size_t to = 1; to < positions(); ++to) {
      for (std::size_t from = first_[to]; from < to; ++from) {
        const double end =
            std::max(ready_[to], row.end[from]) + cost_.of(bytes_[to] - bytes_[from]);
        if (end >= longer.end[to]) continue;
        longer.end[to] = end;
        longer.begin[to] = from;
      }
    }
  }

  Row empty_row() const {
    return {std::vector<double>(positions(), kNever), std::vector<std::size_t>(positions())};
  }

 private:
  const TransferCost cost_;
  /// By position: bytes of all tensors before it; when the last of those is ready; the first position where a
  /// group that ends here may begin.
  std::vector<std::size_t> bytes_ = {0};
  std::vector<double> ready_ = {0};
  std::vector<std::size_t> first_ = {0};
};

}  // namespace

std::size_t bytes_of(std::span<const PlannedTensor> tensors, std::span<const std::size_t> group) {
  std::size_t bytes = 0;
  for (const std::size_t index : group) bytes += bytes_of(tensors[index]);
  return bytes;
}

Grouping group_by_size(std::span<const PlannedTensor> tensors, std::span<const std::size_t> order,
                       const GroupLimits& limits) {
  Grouping groups;
  std::size_t bytes = 0;
  for (const std::size_t index : order) {
    const PlannedTensor& tensor = tensors[index];
    const std::size_t limit = groups.size() <= 1 ? limits.first : limits.each;
    const bool joins = !groups.empty() &&
                       can_share_a_group(tensors[groups.back().front()], tensor) &&
                       bytes + bytes_of(tensor) <= limit;
    if (!joins) {
      groups.emplace_back();
      bytes = 0;
    }
    groups.back().push_back(index);
    bytes += bytes_of(tensor);
  }
  return groups;
}

double predict_end(const Grouping& groups, std::span<const PlannedTensor> tensors,
                   std::span<const double> ready, const TransferCost& cost) {
  double end = 0;
  for (const std::vector<std::size_t>& group : groups) {
    for (const std::size_t index : group) end = std::max(end, ready[index]);
    end += cost.of(bytes_of(tensors, group));
  }
  return end;
}

Grouping group_by_time(std::span<const PlannedTensor> tensors, std::span<const std::size_t> order,
                       std::span<const double> ready, const TransferCost& cost, std::size_t limit) {
  const Cutting cutting(tensors, order, ready, cost, limit);
  Cutting::Row any = cutting.empty_row();
  any.end[0] = 0;
  cutting.extend(any, any);

  // Then the same with 0, 1, 2, … groups, until that is as fast. The fewest cannot be found along with the
  // earliest: what is ahead of a group may end later at no cost, if the group waits for its tensors anyway.
  std::vector<Cutting::Row> rows = {cutting.empty_row()};
  rows[0].end[0] = 0;
  while (rows.back().end.back() > any.end.back() + kTie) {
    Cutting::Row longer = cutting.empty_row();
    cutting.extend(rows.back(), longer);
    rows.push_back(std::move(longer));
  }

  Grouping groups(rows.size() - 1);
  auto to = static_cast<std::ptrdiff_t>(order.size());
  for (std::size_t group = groups.size(); group > 0; --group) {
    const auto from = static_cast<std::ptrdiff_t>(rows[group].begin[static_cast<std::size_t>(to)]);
    groups[group - 1].assign(order.begin() + from, order.begin() + to);
    to = from;
  }
  return groups;
}

PlanGroup lay_out(std::span<const PlannedTensor> tensors, std::span<const std::size_t> group) {
  const PlannedTensor& first = tensors[group.front()];
  PlanGroup result{.dtype = first.dtype, .device = first.device};
  const auto element = static_cast<std::int64_t>(size_of(result.dtype));
  for (const std::size_t index : group) {
    result.slots.push_back({.tensor = index, .offset = result.elements});
    result.elements += static_cast<std::int64_t>(bytes_of(tensors[index])) / element;
  }
  return result;
}

}  // namespace kolo::core

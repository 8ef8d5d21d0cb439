#include "engine/group_planner.h"

#include <algorithm>

namespace kolo::core {
namespace {

/// What ends within it ends at the same time, in seconds.
constexpr double kTie = 1e-9;

std::size_t bytes_of(const PlannedTensor& tensor) {
  const std::size_t bytes = static_cast<std::size_t>(tensor.elements) * size_of(tensor.dtype);
  return (bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
}

bool can_share_a_group(const PlannedTensor& a, const PlannedTensor& b) {
  return a.dtype == b.dtype && a.device == b.device;
}

/// Cuts a sequence of tensors into groups. Position p is between tensor p - 1 and tensor p; E(p) is when groups
/// that end there are done at the earliest, B(p) the bytes before it.
///
/// A group that loses its last tensors is ready no later, and is through earlier by what they cost, and so are
/// the groups of a sequence that loses its end: so E and E - cost * B grow with p. That makes both
/// searches here nearly linear, and exact.
class Cutting {
 public:
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
    find_earliest();
  }

  /// The positions where groups end: of the fewest groups that end earliest, or within kTie of it.
  std::vector<std::size_t> fewest() const {
    std::vector<std::size_t> ends;
    double deadline = end_.back() + kTie;
    for (std::size_t to = end_.size() - 1; to > 0;) {
      ends.push_back(to);
      // The largest last group is best: what is ahead of it is less by what the group has more. It is too large
      // if it cannot be through in time; what is ahead of it is done in time if that of a smaller one is.
      std::size_t begin = first_[to];
      for (std::size_t end = begin_[to]; begin < end;) {
        const std::size_t middle = begin + (end - begin) / 2;
        if (ready_[to] + cost_of(middle, to) > deadline) {
          begin = middle + 1;
        } else {
          end = middle;
        }
      }
      deadline -= cost_of(begin, to);
      to = begin;
    }
    std::ranges::reverse(ends);
    return ends;
  }

 private:
  double cost_of(std::size_t from, std::size_t to) const {
    return cost_.of(bytes_[to] - bytes_[from]);
  }
  double end_of(std::size_t from, std::size_t to) const {
    return std::max(ready_[to], end_[from]) + cost_of(from, to);
  }

  void find_earliest() {
    std::size_t from = 0;
    for (std::size_t to = 1; to < bytes_.size(); ++to) {
      from = std::max(from, first_[to]);
      // Up to where a group would have to wait for those ahead of it, a smaller one is better, and from there a
      // larger one.
      while (from + 1 < to && end_[from + 1] <= ready_[to]) ++from;
      const bool next = from + 1 < to && end_of(from + 1, to) < end_of(from, to);
      begin_.push_back(next ? from + 1 : from);
      end_.push_back(end_of(begin_.back(), to));
    }
  }

  const TransferCost cost_;
  /// By position: bytes of all tensors before it; when the last of those is ready; the first position where a
  /// group that ends here may begin.
  std::vector<std::size_t> bytes_ = {0};
  std::vector<double> ready_ = {0};
  std::vector<std::size_t> first_ = {0};
  /// By position: E, and where the last group of those begins.
  std::vector<double> end_ = {0};
  std::vector<std::size_t> begin_ = {0};
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
  Grouping groups;
  std::size_t from = 0;
  for (const std::size_t to : cutting.fewest()) {
    const std::span<const std::size_t> group = order.subspan(from, to - from);
    groups.emplace_back(group.begin(), group.end());
    from = to;
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

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "data/hierarchical_operations.h"

namespace kolo::core {
namespace {

// Slices begin at multiples of a cache line's size.
constexpr std::int64_t kSliceBytes = 64;

/// The members that reduce slice i between hosts: each host's i-th, as long as there is one, and
/// they come in the order of the hosts, so that all slices are summed in the same order.
std::vector<std::vector<int>> slices(const HostLayout& layout) {
  std::vector<std::vector<int>> slices;
  while (true) {
    std::vector<int> members;
    for (const std::vector<int>& host : layout.hosts) {
      if (slices.size() < host.size()) members.push_back(host[slices.size()]);
    }
    if (members.size() < layout.hosts.size() || !std::ranges::is_sorted(members)) return slices;
    slices.push_back(std::move(members));
  }
}

/// Of the results of the steps within hosts and between them.
struct Scales {
  double near = 1.0;
  double far = 1.0;
};

/// What a host stores in between must not overflow where the result does not. So it divides its part
/// of a mean by the members of the largest host, and applies what makes a sum smaller itself.
Scales scales(const HostLayout& layout, const Collective& collective) {
  if (collective.op == ReduceOp::Average) {
    const std::size_t largest = std::ranges::max(layout.hosts, {}, &std::vector<int>::size).size();
    return {.near = static_cast<double>(layout.own().size()) / static_cast<double>(largest),
            .far = collective.postscale * (static_cast<double>(largest * layout.hosts.size()) /
                                           static_cast<double>(layout.host_of.size()))};
  }
  const bool shrinks = collective.op == ReduceOp::Sum && std::abs(collective.postscale) < 1;
  if (shrinks) return {.near = collective.postscale};
  return {.far = collective.postscale};
}

class AllreduceSteps final : public HierarchicalSteps {
 public:
  AllreduceSteps(const HierarchicalSetup& setup, const Collective& collective)
      : HierarchicalSteps(setup, collective),
        slices_(slices(setup.layout)),
        scales_(scales(setup.layout, collective)) {}

  std::size_t near_turns() const override { return is_alone_on_host() ? 1 : 2; }

 private:
  std::vector<Step> make(std::int64_t chunk) const override {
    const Elements elements = elements_of(chunk);
    std::vector<Step> steps = {reduce_near(elements, chunk)};
    const std::size_t own = own_slice();
    if (own < slices_.size() && slice(elements, own).count > 0) {
      steps.push_back(reduce_far(slice(elements, own), chunk));
    }
    if (!is_alone_on_host()) steps.push_back(gather_near(elements, chunk));
    return steps;
  }

  /// The index of this member on its host; beyond the slices for some.
  std::size_t own_slice() const {
    const std::vector<int>& own = setup().layout.own();
    return static_cast<std::size_t>(std::ranges::find(own, collective().member) - own.begin());
  }

  Elements slice(Elements chunk, std::size_t index) const {
    const std::int64_t unit = kSliceBytes / element_bytes();
    const std::int64_t units = (chunk.count + unit - 1) / unit;
    const auto border = [&](std::size_t i) {
      const auto slices = static_cast<std::int64_t>(slices_.size());
      return std::min(units * static_cast<std::int64_t>(i) / slices * unit, chunk.count);
    };
    return {chunk.begin + border(index) * element_bytes(), border(index + 1) - border(index)};
  }

  Step reduce_near(Elements elements, std::int64_t chunk) const {
    Step step = near_step(CollectiveKind::Allreduce, elements, chunk, 0);
    step.collective.op = collective().op;
    step.collective.prescale = collective().prescale;
    step.collective.postscale = scales_.near;
    step.collective.input = input_of(elements);
    return step;
  }

  Step reduce_far(Elements elements, std::int64_t chunk) const {
    const std::size_t own = own_slice();
    Step step = far_step(CollectiveKind::Allreduce, elements, chunk, slices_[own], own);
    step.collective.op = collective().op;
    step.collective.postscale = scales_.far;
    return step;
  }

  Step gather_near(Elements elements, std::int64_t chunk) const {
    Step step = near_step(CollectiveKind::Allgather, elements, chunk, 1);
    for (std::size_t i = 0; i < setup().layout.own().size(); ++i) {
      const bool has_slice = i < slices_.size();
      step.collective.counts.push_back(has_slice ? slice(elements, i).count : 0);
    }
    if (own_slice() < slices_.size()) step.collective.input = slice(elements, own_slice()).begin;
    return step;
  }

  const std::vector<std::vector<int>> slices_;
  const Scales scales_;
};

}  // namespace

StartedOperation start_hierarchical_allreduce(const HierarchicalSetup& setup,
                                              const Collective& collective) {
  return HierarchicalOperation::begin(std::make_unique<const AllreduceSteps>(setup, collective));
}

}  // namespace kolo::core

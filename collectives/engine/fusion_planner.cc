#include "engine/fusion_planner.h"

#include <map>
#include <tuple>

namespace kolo::core {
namespace {

auto fusion_key(const Request& request) {
  return std::make_tuple(request.dtype, request.op, request.device, request.prescale,
                         request.postscale);
}

std::size_t align(std::size_t bytes) {
  return (bytes + kFusionAlignment - 1) / kFusionAlignment * kFusionAlignment;
}

}  // namespace

std::vector<FusionGroup> plan_fusion(std::span<const Request* const> requests,
                                     std::size_t threshold) {
  std::vector<FusionGroup> groups;
  std::map<decltype(fusion_key(Request{})), std::size_t> open_groups;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Request& request = *requests[i];
    const std::size_t bytes =
        static_cast<std::size_t>(element_count(request.shape)) * size_of(request.dtype);
    const bool fusible = request.kind == CollectiveKind::Allreduce && threshold > 0 &&
                         bytes < kLargestFused && align(bytes) <= threshold;
    if (!fusible) {
      groups.push_back({.slices = {{.request = i, .offset = 0, .bytes = bytes}}, .bytes = bytes});
      continue;
    }
    const auto [open, is_new] = open_groups.try_emplace(fusion_key(request), groups.size());
    if (!is_new && groups[open->second].bytes + align(bytes) > threshold) {
      open->second = groups.size();
    }
    if (open->second == groups.size()) groups.emplace_back();
    FusionGroup& group = groups[open->second];
    group.slices.push_back({.request = i, .offset = group.bytes, .bytes = bytes});
    group.bytes += align(bytes);
  }
  return groups;
}

}  // namespace kolo::core

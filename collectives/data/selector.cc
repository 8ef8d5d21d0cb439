#include "data/selector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace kolo::core {
namespace {

std::string_view to_string(Reach reach) {
  switch (reach) {
    case Reach::Host:
      return "within a host";
    case Reach::Cluster:
      return "between hosts";
  }
  std::abort();
}

}  // namespace

SelectingDataPlane::SelectingDataPlane(std::vector<Choice> planes, std::vector<Route> routes,
                                       std::vector<int> host_ranks, bool rings)
    : planes_(std::move(planes)),
      routes_(std::move(routes)),
      host_ranks_(std::move(host_ranks)),
      rings_(rings) {}

Reach SelectingDataPlane::reach_of(const std::vector<int>& ranks) const {
  const bool near = std::ranges::all_of(ranks, [this](int rank) {
    return std::ranges::find(host_ranks_, rank) != host_ranks_.end();
  });
  return near ? Reach::Host : Reach::Cluster;
}

StartedOperation SelectingDataPlane::start(const Collective& collective) {
  const Reach reach = reach_of(collective.ranks);
  const auto route = std::ranges::find_if(routes_, [&](const Route& row) {
    return row.kind == collective.kind && row.device == collective.device && row.reach == reach;
  });
  if (route == routes_.end()) {
    return Status::error(fmt::format("no data plane carries {} on {} {}",
                                     core::to_string(collective.kind),
                                     core::to_string(collective.device), to_string(reach)));
  }
  return planes_[route->plane].plane->start(collective);
}

void SelectingDataPlane::end_channel(ChannelId channel) {
  for (const Choice& choice : planes_) choice.plane->end_channel(channel);
}

Result<std::shared_ptr<std::byte>> SelectingDataPlane::allocate(DeviceType device,
                                                                std::size_t bytes) {
  const auto route = std::ranges::find(routes_, device, &Route::device);
  if (route == routes_.end()) return DataPlane::allocate(device, bytes);
  return planes_[route->plane].plane->allocate(device, bytes);
}

bool SelectingDataPlane::carries_declines(const std::vector<int>& ranks) const {
  const Reach reach = reach_of(ranks);
  return std::ranges::all_of(routes_, [&](const Route& route) {
    return route.kind != CollectiveKind::Allreduce || route.device != DeviceType::Cpu ||
           route.reach != reach || planes_[route.plane].plane->carries_declines(ranks);
  });
}

bool SelectingDataPlane::rings() const {
  return rings_ && std::ranges::all_of(routes_, [this](const Route& route) {
           return route.device == DeviceType::Cpu || planes_[route.plane].plane->rings();
         });
}

void SelectingDataPlane::drain() {
  for (const Choice& choice : planes_) choice.plane->drain();
}

std::string SelectingDataPlane::describe() const {
  std::string text;
  for (const Route& route : routes_) {
    text += fmt::format("{} on {} {}: {}\n", core::to_string(route.kind),
                        core::to_string(route.device), to_string(route.reach),
                        planes_[route.plane].name);
  }
  return text;
}

}  // namespace kolo::core

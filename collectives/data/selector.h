#pragma once

/// Which data plane carries what.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/data_plane.h"

namespace kolo::core {

/// How far the members of an operation are from each other.
enum class Reach : std::uint8_t { Host, Cluster };

/// A row of the table: operations of this kind, device and reach.
struct Route {
  CollectiveKind kind = CollectiveKind::Allreduce;
  DeviceType device = DeviceType::Cpu;
  Reach reach = Reach::Cluster;
  /// Index of the plane.
  std::size_t plane = 0;
};

/// A data plane made of several. What a collective says of itself decides, and that is the same on
/// all members; numbers are unique in a channel, and so in each plane.
class SelectingDataPlane final : public DataPlane {
 public:
  struct Choice {
    std::string name;
    std::shared_ptr<DataPlane> plane;
  };

  /// A device's memory comes from the plane of the first route for it. `host_ranks`: all ranks on
  /// this host; `rings`: whether all planes for the host's memory that are in use ring.
  SelectingDataPlane(std::vector<Choice> planes, std::vector<Route> routes,
                     std::vector<int> host_ranks, bool rings);

  StartedOperation start(const Collective& collective) override;
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override;
  bool carries_declines(const std::vector<int>& ranks) const override;
  void end_channel(ChannelId channel) override;
  bool rings() const override;
  void drain() override;

  /// The table, a row a line.
  std::string describe() const;

 private:
  Reach reach_of(const std::vector<int>& ranks) const;

  const std::vector<Choice> planes_;
  const std::vector<Route> routes_;
  const std::vector<int> host_ranks_;
  const bool rings_;
};

}  // namespace kolo::core

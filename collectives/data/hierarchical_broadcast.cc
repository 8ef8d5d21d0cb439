#include <algorithm>
#include <vector>

#include "data/hierarchical_operations.h"

namespace kolo::core {
namespace {

/// The root speaks for its host, the first member for each other one.
class BroadcastSteps final : public HierarchicalSteps {
 public:
  BroadcastSteps(const HierarchicalSetup& setup, const Collective& collective)
      : HierarchicalSteps(setup, collective) {
    const int root = collective.root_member;
    const HostLayout& layout = setup.layout;
    for (const std::vector<int>& host : layout.hosts) speakers_.push_back(host.front());
    speakers_[layout.host_of[static_cast<std::size_t>(root)]] = root;
    own_speaker_ = speakers_[layout.own_host];
    std::ranges::sort(speakers_);
  }

  std::size_t near_turns() const override { return is_alone_on_host() ? 0 : 1; }

 private:
  std::vector<Step> make(std::int64_t chunk) const override {
    const Elements elements = elements_of(chunk);
    std::vector<Step> steps;
    if (collective().member == own_speaker_) {
      steps.push_back(far_step(CollectiveKind::Broadcast, elements, chunk, speakers_, 0));
      steps.back().collective.root_member = index_of(collective().root_member, speakers_);
    }
    if (is_alone_on_host()) return steps;
    steps.push_back(near_step(CollectiveKind::Broadcast, elements, chunk, 0));
    steps.back().collective.root_member = index_of(own_speaker_, setup().layout.own());
    return steps;
  }

  static int index_of(int member, const std::vector<int>& members) {
    return static_cast<int>(std::ranges::find(members, member) - members.begin());
  }

  /// In ascending order.
  std::vector<int> speakers_;
  int own_speaker_ = 0;
};

}  // namespace

StartedOperation start_hierarchical_broadcast(const HierarchicalSetup& setup,
                                              const Collective& collective) {
  return HierarchicalOperation::begin(std::make_unique<const BroadcastSteps>(setup, collective));
}

}  // namespace kolo::core

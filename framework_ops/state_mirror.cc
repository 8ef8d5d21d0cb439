#include "state_mirror.h"

#include <functional>
#include <vector>

namespace kolo::detail {
namespace {

/// `states` has `entry` under `key`, or none where that is null. It destroys what it had if that is
/// its own.
template <typename States, typename Entry>
void put(States& states, const typename States::key_type& key, Entry* entry, bool destroys) {
  const auto found = states.find(key);
  if (found != states.end()) {
    if (!destroys) (void)found->second.release();
    states.erase(found);
  }
  if (entry != nullptr) states[key].reset(entry);
}

}  // namespace

StateMirror::StateMirror(torch::optim::Optimizer& wrapper, torch::optim::Optimizer& inner)
    : wrapper_(wrapper.state()), inner_(inner.state()) {
  digest_ = digest(wrapper_);
  reconcile();
}

StateMirror::~StateMirror() {
  // A program may have destroyed the inner optimizer too early. What counts is that the inner one
  // keeps no entry that the wrapper's map has destroyed.
  if (digest(wrapper_) != digest_) reconcile();
  for (auto& [key, entry] : wrapper_) (void)entry.release();
  wrapper_.clear();
}

void StateMirror::reconcile() {
  // Nearly always nothing has changed.
  const std::size_t now = digest(inner_);
  if (now == digest_ && digest(wrapper_) == digest_) return;
  for (const auto& [key, last] : last_) carry_over(key, last);
  std::vector<typename States::key_type> keys;
  for (const auto& [key, entry] : wrapper_) keys.push_back(key);
  for (const auto& [key, entry] : inner_) keys.push_back(key);
  for (const auto& key : keys) {
    if (!last_.contains(key)) carry_over(key, nullptr);
  }
  last_.clear();
  for (const auto& [key, entry] : inner_) last_.emplace(key, entry.get());
  digest_ = digest(inner_);
}

/// Both had `last` under this key. Where both have something else, it is the wrapper's that counts.
void StateMirror::carry_over(const States::key_type& key, Entry* last) {
  Entry* const wrappers = find(wrapper_, key);
  Entry* const inners = find(inner_, key);
  if (wrappers == inners) return;
  if (wrappers != last) {
    put(inner_, key, wrappers, /*destroys=*/inners != last);
  } else {
    put(wrapper_, key, inners, /*destroys=*/false);
  }
}

StateMirror::Entry* StateMirror::find(const States& states, const States::key_type& key) {
  const auto found = states.find(key);
  return found == states.end() ? nullptr : found->second.get();
}

/// Of which entry stands under which key.
std::size_t StateMirror::digest(const States& states) {
  std::size_t sum = states.size();
  for (const auto& [key, entry] : states) {
    std::size_t mixed = std::hash<typename States::key_type>()(key);
    mixed = (mixed ^ (mixed >> 29)) * 0x9e3779b97f4a7c15U;
    mixed = (mixed ^ std::hash<const Entry*>()(entry.get())) * 0xbf58476d1ce4e5b9U;
    sum += mixed ^ (mixed >> 32);
  }
  return sum;
}

}  // namespace kolo::detail

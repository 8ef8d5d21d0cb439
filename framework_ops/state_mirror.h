#pragma once

/// Two optimizers' states as one.

#include <torch/optim/optimizer.h>

#include <cstddef>
#include <type_traits>
#include <unordered_map>

namespace kolo::detail {

/// Has the state() of a wrapper show the inner optimizer's, and what a program does to either done
/// to both. LibTorch gives an Optimizer no way to say that its state lives in another one: so the
/// entries of both maps are the same objects, of which the mirror sees to it that only one map
/// destroys them.
///
///   since the last reconcile()            what follows
///   ------------------------------------  ----------------------------------------------------
///   numbers in an entry have changed      nothing: it is one entry
///   the wrapper has lost an entry, has    the same in the inner optimizer's map, which lets go
///   another one in its place, or one      of the old entry: the wrapper's map has destroyed it
///   more
///   the inner optimizer has, and the      the same the other way round
///   wrapper has not
///
/// In between an entry that one of them has lost must not be used through the other.
class StateMirror {
 public:
  /// The inner optimizer must outlive the mirror; the wrapper's map must not be destroyed before
  /// it.
  StateMirror(torch::optim::Optimizer& wrapper, torch::optim::Optimizer& inner);
  /// The wrapper has no state any more.
  ~StateMirror();
  StateMirror(const StateMirror&) = delete;
  StateMirror& operator=(const StateMirror&) = delete;

  void reconcile();

 private:
  using Entry = torch::optim::OptimizerParamState;
  /// LibTorch 1.13 has text as keys, later ones addresses.
  using States = std::decay_t<decltype(std::declval<torch::optim::Optimizer&>().state())>;

  static Entry* find(const States& states, const States::key_type& key);
  static std::size_t digest(const States& states);
  void carry_over(const States::key_type& key, Entry* last);

  States& wrapper_;
  States& inner_;
  /// As of the last call, when both had them.
  std::unordered_map<States::key_type, Entry*> last_;
  std::size_t digest_ = 0;
};

}  // namespace kolo::detail

#include "base/forked.h"

#include <pthread.h>

namespace kolo::core {

void tell_children_apart() {
  // Where there is no memory for it, there is none to run in either.
  [[maybe_unused]] static const int registered = pthread_atfork(
      nullptr, nullptr, [] { detail::forked.store(true, std::memory_order_relaxed); });
}

Status refused_in_child() {
  return Status::error(
      "this process is a child, by fork(), of one that has called kolo::init(). It has a copy of "
      "its parent's "
      "memory, but no place among the ranks, so nothing of Kolo can be called here: let the child "
      "end, or start "
      "another program (exec, posix_spawn, std::system), and make Kolo's calls in the parent");
}

}  // namespace kolo::core

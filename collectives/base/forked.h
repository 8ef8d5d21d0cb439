#pragma once

/// Children by fork() without exec. A child has a copy of all that Kolo is in its parent, but not
/// its threads, and no place among the ranks. So nothing of Kolo runs there: calls are errors, what
/// is destroyed tells nobody, and memory that is freed stays with the parent.
///
/// Who may meet a child asks is_forked_child() before it locks a mutex: another thread of the
/// parent may have held that at the moment of fork(), and then it stays locked here for ever.

#include <atomic>

#include "base/status.h"

namespace kolo::core {

namespace detail {
/// Written in the child's only thread, before fork() returns there.
inline std::atomic<bool> forked{false};
}  // namespace detail

/// From now on children know that they are. Idempotent, thread-safe.
void tell_children_apart();

/// Whether this process is a child of one that has called tell_children_apart(), or a child of
/// such.
inline bool is_forked_child() noexcept { return detail::forked.load(std::memory_order_relaxed); }

/// What a call of Kolo says there.
Status refused_in_child();

}  // namespace kolo::core

#pragma once

#include <cstddef>

namespace kolo::core {

/// memcpy past the caches, for memory that another core has read last and will read next: an
/// ordinary store would first have to fetch the line from that core's cache. Whatever the caller
/// stores afterwards (a flag, say) is seen after the copy.
void stream_copy(void* target, const void* source, std::size_t bytes);

}  // namespace kolo::core

#include "data/stream_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "data/stream_copy.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kolo::core::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// Returns how many bytes it has copied: whole vectors, to an address that is a multiple of theirs.
std::size_t stream_vectors(std::uint8_t* target, const std::uint8_t* source, std::size_t bytes) {
  const hn::ScalableTag<std::uint8_t> d;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= bytes; i += hn::Lanes(d)) {
    hn::Stream(hn::LoadU(d, source + i), d, target + i);
  }
  return i;
}

}  // namespace
}  // namespace kolo::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kolo::core {

constexpr std::size_t kCacheLine = 64;

HWY_EXPORT(stream_vectors);

void stream_copy(void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;  // perhaps without addresses
  auto* to = static_cast<std::uint8_t*>(target);
  const auto* from = static_cast<const std::uint8_t*>(source);
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(to) % kCacheLine;
  const std::size_t head = std::min(bytes, (kCacheLine - misaligned) % kCacheLine);
  std::memcpy(to, from, head);
  const std::size_t streamed =
      HWY_DYNAMIC_DISPATCH(stream_vectors)(to + head, from + head, bytes - head);
  const std::size_t done = head + streamed;
  std::memcpy(to + done, from + done, bytes - done);
  hwy::FlushStream();
}

}  // namespace kolo::core
#endif

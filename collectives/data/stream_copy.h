#pragma once

/// Copies past the cache.

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace kolo::core {

/// As memcpy, but the bytes do not stay in this core's cache. For memory that another core has read
/// last and will read next: ordinary stores to it must first fetch each line from there, and reach
/// a tenth of the speed across core complexes.
///
/// What is written is ordered before later stores, as with ordinary ones.
inline void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
#ifdef __SSE2__
  constexpr std::size_t kLine = 64;
  const std::size_t before = (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine;
  if (bytes >= before + kLine) {
    std::memcpy(to, from, before);
    std::size_t done = before;
    for (; done + kLine <= bytes; done += kLine) {
      const auto* const source = reinterpret_cast<const __m128i*>(from + done);
      auto* const target = reinterpret_cast<__m128i*>(to + done);
      const __m128i a = _mm_loadu_si128(source);
      const __m128i b = _mm_loadu_si128(source + 1);
      const __m128i c = _mm_loadu_si128(source + 2);
      const __m128i d = _mm_loadu_si128(source + 3);
      _mm_stream_si128(target, a);
      _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c);
      _mm_stream_si128(target + 3, d);
    }
    _mm_sfence();
    to += done;
    from += done;
    bytes -= done;
  }
#endif
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace kolo::core

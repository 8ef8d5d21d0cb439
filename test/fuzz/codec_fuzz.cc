// libFuzzer's entry: decode() refuses the bytes, or gives a message that is written as the same
// bytes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "wire/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kolo::core;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const Result<Message> message = decode(bytes);
  if (message.ok() && !std::ranges::equal(encode(message.value()), bytes)) {
    std::fprintf(stderr, "%zu bytes were read as a message that is written differently\n", size);
    std::abort();
  }
  return 0;
}

#pragma once

/// What NCCL computes, in the order of ranks.

#include <nccl.h>

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace kolo::doubles {

/// One of NCCL's, or a sum of what was multiplied by a scalar of the operation's dtype first.
struct Reduction {
  ncclRedOp_t op = ncclSum;
  bool is_premultiplied = false;
  std::array<std::byte, 8> scalar = {};

  bool operator==(const Reduction&) const = default;
};

/// Bytes of one element; 0 for a dtype that the doubles do not know.
std::size_t size_of(ncclDataType_t dtype);
std::string_view to_string(ncclDataType_t dtype);
std::string to_string(const Reduction& reduction);

/// 16-bit elements are accumulated in float32, and rounded once.
void reduce(ncclDataType_t dtype, const Reduction& reduction,
            std::span<const std::byte* const> inputs, std::byte* output, std::size_t count);

}  // namespace kolo::doubles

#include "doubles/nccl_arithmetic.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "data/half.h"

namespace kolo::doubles {
namespace {

/// What elements are accumulated in, how they get there, and back.
template <typename Element>
struct Format {
  using Accumulator = Element;
  static Accumulator load(Element element) { return element; }
  static Element store(Accumulator value) { return value; }
};

template <>
struct Format<core::Half> {
  using Accumulator = float;
  static float load(core::Half element) { return core::to_float(element); }
  static core::Half store(float value) { return core::to_half(value); }
};

template <>
struct Format<core::BFloat16> {
  using Accumulator = float;
  static float load(core::BFloat16 element) { return core::to_float(element); }
  static core::BFloat16 store(float value) { return core::to_bfloat16(value); }
};

template <typename Element>
Element read(const std::byte* bytes, std::size_t index) {
  Element element;
  std::memcpy(&element, bytes + index * sizeof(Element), sizeof(Element));
  return element;
}

/// Integers wrap, also those that would be promoted to int.
template <typename Number, typename Operation>
Number wrapping(Number a, Number b, Operation operation) {
  if constexpr (std::is_floating_point_v<Number>) {
    return operation(a, b);
  } else {
    return static_cast<Number>(
        operation(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b)));
  }
}

template <typename Number>
Number combine(ncclRedOp_t op, Number a, Number b) {
  const auto smaller = [](Number x, Number y) {
    if constexpr (std::is_floating_point_v<Number>) return std::fmin(x, y);
    return std::min(x, y);
  };
  const auto greater = [](Number x, Number y) {
    if constexpr (std::is_floating_point_v<Number>) return std::fmax(x, y);
    return std::max(x, y);
  };
  if (op == ncclProd) return wrapping(a, b, std::multiplies());
  if (op == ncclMin) return smaller(a, b);
  if (op == ncclMax) return greater(a, b);
  return wrapping(a, b, std::plus());
}

template <typename Element>
void reduce_as(const Reduction& reduction, std::span<const std::byte* const> inputs,
               std::byte* output, std::size_t count) {
  using Format = Format<Element>;
  using Number = typename Format::Accumulator;
  constexpr bool kIsFloating = std::is_floating_point_v<Number>;
  const auto ranks = static_cast<Number>(inputs.size());
  const bool averages = reduction.op == ncclAvg;
  const bool multiplies = reduction.is_premultiplied || (averages && kIsFloating);
  Number factor = 1;
  if (reduction.is_premultiplied) {
    factor = Format::load(read<Element>(reduction.scalar.data(), 0));
  } else if (multiplies) {
    factor = static_cast<Number>(1) / ranks;
  }
  for (std::size_t i = 0; i < count; ++i) {
    Number result = 0;
    for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
      Number value = Format::load(read<Element>(inputs[rank], i));
      if (multiplies) value = wrapping(factor, value, std::multiplies());
      result = rank == 0 ? value : combine(reduction.op, result, value);
    }
    if constexpr (!kIsFloating) {
      if (averages) result = static_cast<Number>(result / ranks);
    }
    const Element element = Format::store(result);
    std::memcpy(output + i * sizeof(Element), &element, sizeof(Element));
  }
}

}  // namespace

std::size_t size_of(ncclDataType_t dtype) {
  switch (dtype) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
    case ncclNumTypes:
      break;
  }
  return 0;
}

std::string_view to_string(ncclDataType_t dtype) {
  constexpr std::array<std::string_view, ncclNumTypes> kNames = {
      "ncclInt8",    "ncclUint8",    "ncclInt32",      "ncclUint32",
      "ncclInt64",   "ncclUint64",   "ncclFloat16",    "ncclFloat32",
      "ncclFloat64", "ncclBfloat16", "ncclFloat8e4m3", "ncclFloat8e5m2"};
  return kNames.at(static_cast<std::size_t>(dtype));
}

std::string to_string(const Reduction& reduction) {
  constexpr std::array<std::string_view, ncclNumOps> kNames = {"ncclSum", "ncclProd", "ncclMax",
                                                               "ncclMin", "ncclAvg"};
  if (!reduction.is_premultiplied) return std::string(kNames.at(reduction.op));
  std::uint64_t bits = 0;
  std::memcpy(&bits, reduction.scalar.data(), sizeof bits);
  return fmt::format("a sum multiplied by the scalar of bits {:#x}", bits);
}

void reduce(ncclDataType_t dtype, const Reduction& reduction,
            std::span<const std::byte* const> inputs, std::byte* output, std::size_t count) {
  switch (dtype) {
    case ncclInt8:
      return reduce_as<std::int8_t>(reduction, inputs, output, count);
    case ncclUint8:
      return reduce_as<std::uint8_t>(reduction, inputs, output, count);
    case ncclInt32:
      return reduce_as<std::int32_t>(reduction, inputs, output, count);
    case ncclUint32:
      return reduce_as<std::uint32_t>(reduction, inputs, output, count);
    case ncclInt64:
      return reduce_as<std::int64_t>(reduction, inputs, output, count);
    case ncclUint64:
      return reduce_as<std::uint64_t>(reduction, inputs, output, count);
    case ncclFloat16:
      return reduce_as<core::Half>(reduction, inputs, output, count);
    case ncclFloat32:
      return reduce_as<float>(reduction, inputs, output, count);
    case ncclFloat64:
      return reduce_as<double>(reduction, inputs, output, count);
    case ncclBfloat16:
      return reduce_as<core::BFloat16>(reduction, inputs, output, count);
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
    case ncclNumTypes:
      return;
  }
}

}  // namespace kolo::doubles

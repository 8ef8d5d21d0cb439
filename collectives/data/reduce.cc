#include "data/reduce.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <functional>
#include <type_traits>

#include "data/reduce_floats.h"

// Integers: in blocks that fit into the first cache, each with an array of sums: local, so that the
// compiler knows it apart from the inputs and the outputs, and vectorises all loops.

namespace kolo::core {
namespace {

constexpr std::size_t kBlock = 1024;

/// A byte that is false if 0.
struct Boolean {
  std::uint8_t byte;
};

/// What elements are accumulated in, how they get there, and back.
template <typename Element>
struct Format {
  using Accumulator = Element;
  static Accumulator load(Element element) { return element; }
  static Element store(Accumulator value) { return value; }
};

template <>
struct Format<Boolean> {
  using Accumulator = std::uint8_t;
  static std::uint8_t load(Boolean element) { return element.byte != 0 ? 1 : 0; }
  static Boolean store(std::uint8_t value) { return {value}; }
};

__extension__ using Int128 = __int128;

/// What is to be averaged is summed up in so many bits that it does not wrap.
template <typename Element>
struct AverageFormat {
  using Accumulator = std::conditional_t<sizeof(Element) < 8, std::int64_t, Int128>;
  static Accumulator load(Element element) { return element; }
  static Element store(Accumulator value) { return static_cast<Element>(value); }
};

/// Integers wrap, also those that would be promoted to int.
template <typename Integer, typename Operation>
Integer wrapping(Integer a, Integer b, Operation operation) {
  using Wrapping = std::common_type_t<unsigned, std::make_unsigned_t<Integer>>;
  return static_cast<Integer>(operation(static_cast<Wrapping>(a), static_cast<Wrapping>(b)));
}

template <ReduceOp op, typename Integer>
Integer combine(Integer a, Integer b) {
  if constexpr (op == ReduceOp::Average) {
    return a + b;
  } else if constexpr (op == ReduceOp::Sum) {
    return wrapping(a, b, std::plus());
  } else if constexpr (op == ReduceOp::Product) {
    return wrapping(a, b, std::multiplies());
  } else if constexpr (op == ReduceOp::Min) {
    return std::min(a, b);
  } else {
    static_assert(op == ReduceOp::Max);
    return std::max(a, b);
  }
}

struct Arguments {
  ReduceOp op;
  std::span<const void* const> inputs;
  std::span<void* const> outputs;
  std::size_t count;
};

template <typename Element, ReduceOp op>
[[gnu::flatten]] void reduce_block(const Arguments& arguments, std::size_t begin,
                                   std::size_t count) {
  using Format =
      std::conditional_t<op == ReduceOp::Average, AverageFormat<Element>, Format<Element>>;
  using Accumulator = typename Format::Accumulator;
  const auto input = [&](std::size_t member) {
    return static_cast<const Element*>(arguments.inputs[member]) + begin;
  };
  const std::size_t members = arguments.inputs.size();
  std::array<Accumulator, kBlock> sum;
  const Element* const first = input(0);
  if (members == 1) {
    for (std::size_t i = 0; i < count; ++i) sum[i] = Format::load(first[i]);
  } else {
    const Element* const second = input(1);
    for (std::size_t i = 0; i < count; ++i) {
      sum[i] = combine<op>(Format::load(first[i]), Format::load(second[i]));
    }
  }
  for (std::size_t member = 2; member < members; ++member) {
    const Element* const next = input(member);
    for (std::size_t i = 0; i < count; ++i) sum[i] = combine<op>(sum[i], Format::load(next[i]));
  }
  if constexpr (op == ReduceOp::Average) {
    const auto divisor = static_cast<Accumulator>(members);
    for (std::size_t i = 0; i < count; ++i) sum[i] /= divisor;
  }
  for (void* const output : arguments.outputs) {
    Element* const result = static_cast<Element*>(output) + begin;
    for (std::size_t i = 0; i < count; ++i) result[i] = Format::store(sum[i]);
  }
}

template <typename Element, ReduceOp op>
void reduce_with(const Arguments& arguments) {
  for (std::size_t begin = 0; begin < arguments.count; begin += kBlock) {
    reduce_block<Element, op>(arguments, begin, std::min(kBlock, arguments.count - begin));
  }
}

template <typename Element>
void reduce_as(const Arguments& arguments) {
  switch (arguments.op) {
    case ReduceOp::Sum:
      return reduce_with<Element, ReduceOp::Sum>(arguments);
    case ReduceOp::Average:
      return reduce_with<Element, ReduceOp::Average>(arguments);
    case ReduceOp::Min:
      return reduce_with<Element, ReduceOp::Min>(arguments);
    case ReduceOp::Max:
      return reduce_with<Element, ReduceOp::Max>(arguments);
    case ReduceOp::Product:
      return reduce_with<Element, ReduceOp::Product>(arguments);
  }
}

/// "Or" is the greater one, and "and" the smaller.
void reduce_booleans(const Arguments& arguments) {
  switch (arguments.op) {
    case ReduceOp::Average:
      assert(false && "Bool has no average");
      [[fallthrough]];
    case ReduceOp::Sum:
    case ReduceOp::Max:
      return reduce_with<Boolean, ReduceOp::Max>(arguments);
    case ReduceOp::Product:
    case ReduceOp::Min:
      return reduce_with<Boolean, ReduceOp::Min>(arguments);
  }
}

}  // namespace

void reduce(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
            std::span<void* const> outputs, std::int64_t count, double prescale, double postscale) {
  assert(!inputs.empty() && count >= 0);
  assert(is_floating(dtype) || (prescale == 1.0 && postscale == 1.0));
  const Arguments arguments{op, inputs, outputs, static_cast<std::size_t>(count)};
  switch (dtype) {
    case DataType::UInt8:
      return reduce_as<std::uint8_t>(arguments);
    case DataType::Int8:
      return reduce_as<std::int8_t>(arguments);
    case DataType::Int16:
      return reduce_as<std::int16_t>(arguments);
    case DataType::Int32:
      return reduce_as<std::int32_t>(arguments);
    case DataType::Int64:
      return reduce_as<std::int64_t>(arguments);
    case DataType::Bool:
      return reduce_booleans(arguments);
    case DataType::Float16:
    case DataType::BFloat16:
    case DataType::Float32:
    case DataType::Float64:
      return reduce_floats(dtype, op, inputs, outputs, count, prescale, postscale);
  }
}

}  // namespace kolo::core

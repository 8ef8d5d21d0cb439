#include "data/reduce.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include "data/half.h"

// All loops are such that compilers vectorise them. Two inputs are one loop. More are taken in
// blocks that fit into the first cache, each with an array of sums: local, so that the compiler
// knows it apart from the inputs and the output.

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
  static_assert(std::is_arithmetic_v<Element>);
  using Accumulator = Element;
  static Accumulator load(Element element) { return element; }
  static Element store(Accumulator value) { return value; }
};

template <>
struct Format<Half> {
  using Accumulator = float;
  static float load(Half element) { return to_float(element); }
  static Half store(float value) { return to_half(value); }
};

template <>
struct Format<BFloat16> {
  using Accumulator = float;
  static float load(BFloat16 element) { return to_float(element); }
  static BFloat16 store(float value) { return to_bfloat16(value); }
};

template <>
struct Format<Boolean> {
  using Accumulator = std::uint8_t;
  static std::uint8_t load(Boolean element) { return element.byte != 0 ? 1 : 0; }
  static Boolean store(std::uint8_t value) { return {value}; }
};

/// Averages of integers are summed up in 64 bits, so that those of small ones do not wrap.
template <typename Element>
struct AverageFormat : Format<Element> {};

template <typename Element>
requires std::is_integral_v<Element>
struct AverageFormat<Element> {
  using Accumulator = std::int64_t;
  static Accumulator load(Element element) { return element; }
  static Element store(Accumulator value) { return static_cast<Element>(value); }
};

/// Integers wrap, also those that would be promoted to int.
template <typename Number, typename Operation>
Number arithmetic(Number a, Number b, Operation operation) {
  if constexpr (std::is_integral_v<Number>) {
    using Wrapping = std::common_type_t<unsigned, std::make_unsigned_t<Number>>;
    return static_cast<Number>(operation(static_cast<Wrapping>(a), static_cast<Wrapping>(b)));
  } else {
    return operation(a, b);
  }
}

template <ReduceOp op, typename Number>
Number combine(Number a, Number b) {
  if constexpr (op == ReduceOp::Sum || op == ReduceOp::Average) {
    return arithmetic(a, b, [](auto x, auto y) { return x + y; });
  } else if constexpr (op == ReduceOp::Product) {
    return arithmetic(a, b, [](auto x, auto y) { return x * y; });
  } else if constexpr (op == ReduceOp::Min) {
    return b < a || b != b ? b : a;  // NaN wins, from either side
  } else {
    static_assert(op == ReduceOp::Max);
    return b > a || b != b ? b : a;
  }
}

template <typename Element, ReduceOp op>
class Reduction {
 public:
  Reduction(std::span<const void* const> inputs, double prescale, double postscale)
      : inputs_(inputs) {
    if constexpr (kScales) {
      prescale_ = static_cast<Accumulator>(prescale);
      postscale_ = static_cast<Accumulator>(postscale);
    } else {
      assert(prescale == 1.0 && postscale == 1.0);
    }
  }

  void write(Element* output, std::size_t count) const {
    if (inputs_.size() == 2) return write_pair(output, count);
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
      write_block(output + begin, begin, std::min(kBlock, count - begin));
    }
  }

 private:
  using ElementFormat =
      std::conditional_t<op == ReduceOp::Average, AverageFormat<Element>, Format<Element>>;
  using Accumulator = typename ElementFormat::Accumulator;
  static constexpr bool kScales = std::is_floating_point_v<Accumulator>;

  const Element* input(std::size_t member) const {
    return static_cast<const Element*>(inputs_[member]);
  }

  static Accumulator load(Element element, Accumulator scale) {
    const Accumulator value = ElementFormat::load(element);
    if constexpr (kScales) {
      return scale * value;
    } else {
      return value;
    }
  }

  static Element finish(Accumulator value, Accumulator members, Accumulator scale) {
    if constexpr (op == ReduceOp::Average) value = static_cast<Accumulator>(value / members);
    if constexpr (kScales) value = scale * value;
    return ElementFormat::store(value);
  }

  [[gnu::flatten]] void write_pair(Element* output, std::size_t count) const {
    const Element* const first = input(0);
    const Element* const second = input(1);
    const auto reduced = [pre = prescale_, post = postscale_](Element a, Element b) {
      return finish(combine<op>(load(a, pre), load(b, pre)), 2, post);
    };
    // Where the compiler sees only that both may be the same it expects the worst.
    if (first == output) {
      for (std::size_t i = 0; i < count; ++i) output[i] = reduced(output[i], second[i]);
    } else if (second == output) {
      for (std::size_t i = 0; i < count; ++i) output[i] = reduced(first[i], output[i]);
    } else {
      for (std::size_t i = 0; i < count; ++i) output[i] = reduced(first[i], second[i]);
    }
  }

  [[gnu::flatten]] void write_block(Element* output, std::size_t begin, std::size_t count) const {
    const Accumulator prescale = prescale_;
    std::array<Accumulator, kBlock> sum;
    const Element* const first = input(0) + begin;
    for (std::size_t i = 0; i < count; ++i) sum[i] = load(first[i], prescale);
    for (std::size_t member = 1; member < inputs_.size(); ++member) {
      const Element* const next = input(member) + begin;
      for (std::size_t i = 0; i < count; ++i) {
        sum[i] = combine<op>(sum[i], load(next[i], prescale));
      }
    }
    const Accumulator members = static_cast<Accumulator>(inputs_.size());
    const Accumulator postscale = postscale_;
    for (std::size_t i = 0; i < count; ++i) output[i] = finish(sum[i], members, postscale);
  }

  std::span<const void* const> inputs_;
  Accumulator prescale_{1};
  Accumulator postscale_{1};
};

struct Arguments {
  ReduceOp op;
  std::span<const void* const> inputs;
  void* output;
  std::size_t count;
  double prescale;
  double postscale;
};

template <typename Element, ReduceOp op>
void reduce_with(const Arguments& arguments) {
  const Reduction<Element, op> reduction(arguments.inputs, arguments.prescale, arguments.postscale);
  reduction.write(static_cast<Element*>(arguments.output), arguments.count);
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

void reduce_once(DataType dtype, const Arguments& arguments) {
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
    case DataType::Float16:
      return reduce_as<Half>(arguments);
    case DataType::BFloat16:
      return reduce_as<BFloat16>(arguments);
    case DataType::Float32:
      return reduce_as<float>(arguments);
    case DataType::Float64:
      return reduce_as<double>(arguments);
    case DataType::Bool:
      return reduce_booleans(arguments);
  }
}

// Bytes that are still in the cache when they are copied to further outputs.
constexpr std::int64_t kCopied = 16 << 10;

}  // namespace

void reduce(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
            std::span<void* const> outputs, std::int64_t count, double prescale, double postscale) {
  assert(!inputs.empty() && !outputs.empty() && count >= 0);
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t block = outputs.size() == 1 ? count : kCopied / element;
  std::vector<const void*> sources(inputs.begin(), inputs.end());
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t size = std::min(block, count - begin);
    const auto at = [offset = begin * element](auto* memory) {
      return static_cast<
                 std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(memory)>>,
                                    const std::byte*, std::byte*>>(memory) +
             offset;
    };
    std::ranges::transform(inputs, sources.begin(), at);
    reduce_once(dtype, {op, sources, at(outputs.front()), static_cast<std::size_t>(size), prescale,
                        postscale});
    for (void* const copy : outputs.subspan(1)) {
      std::memcpy(at(copy), at(outputs.front()), static_cast<std::size_t>(size * element));
    }
  }
}

}  // namespace kolo::core

#include "data/reduce_floats.h"

#include <array>
#include <bit>
#include <cassert>
#include <cstddef>

#include "data/half.h"

// Highway includes this file once for each target (a set of instructions that processors have or
// have not), and picks the best target at run time. Each computes the same: all are IEEE 754's
// operations on single elements, in the same order, and none is fused.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "data/reduce_floats.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kolo::core::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// What elements are accumulated in, how a vector of them gets there, and back.
template <typename Element>
struct Format {
  using Accumulator = Element;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Element* from) {
    return hn::LoadU(d, from);
  }

  template <class D>
  static HWY_INLINE void store(hn::Vec<D> values, D d, Element* to) {
    hn::StoreU(values, d, to);
  }
};

template <class D>
using Bits16 = hn::Rebind<std::uint16_t, D>;

/// By integer arithmetic: Highway's DemoteTo truncates, or may flush subnormal numbers to zero.
template <>
struct Format<BFloat16> {
  using Accumulator = float;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const BFloat16* from) {
    const hn::RebindToUnsigned<D> d32;
    const auto bits = hn::LoadU(Bits16<D>(), &from->bits);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
  }

  template <class D>
  static HWY_INLINE void store(hn::Vec<D> values, D, BFloat16* to) {
    const hn::RebindToUnsigned<D> d32;
    const auto bits = hn::BitCast(d32, values);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(d32, 0x7fff)), odd);
    const auto quiet_nan = hn::Or(bits, hn::Set(d32, 0x400000));
    const auto is_nan = hn::RebindMask(d32, hn::IsNaN(values));
    const auto upper = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet_nan, rounded));
    hn::StoreU(hn::TruncateTo(Bits16<D>(), upper), Bits16<D>(), &to->bits);
  }
};

/// By instructions where there are some: Highway's own code for the other targets does not round.
template <>
struct Format<Half> {
  using Accumulator = float;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)
  template <class D>
  using Halves = hn::Rebind<hwy::float16_t, D>;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Half* from) {
    return hn::PromoteTo(d, hn::BitCast(Halves<D>(), hn::LoadU(Bits16<D>(), &from->bits)));
  }

  template <class D>
  static HWY_INLINE void store(hn::Vec<D> values, D, Half* to) {
    const auto halves = hn::DemoteTo(Halves<D>(), values);
    hn::StoreU(hn::BitCast(Bits16<D>(), halves), Bits16<D>(), &to->bits);
  }
#else
  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Half* from) {
    HWY_ALIGN std::array<float, hn::MaxLanes(D())> lanes;
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = to_float(from[i]);
    return hn::Load(d, lanes.data());
  }

  template <class D>
  static HWY_INLINE void store(hn::Vec<D> values, D d, Half* to) {
    HWY_ALIGN std::array<float, hn::MaxLanes(D())> lanes;
    hn::Store(values, d, lanes.data());
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) to[i] = to_half(lanes[i]);
  }
#endif
};

template <ReduceOp op, class V>
HWY_INLINE V combine(V a, V b) {
  if constexpr (op == ReduceOp::Sum) {
    return hn::Add(a, b);
  } else if constexpr (op == ReduceOp::Product) {
    return hn::Mul(a, b);
  } else if constexpr (op == ReduceOp::Min) {
    return hn::IfThenElse(hn::Or(hn::Lt(b, a), hn::IsNaN(b)), b, a);  // NaN wins, from either side
  } else {
    static_assert(op == ReduceOp::Max);
    return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
  }
}

struct Arguments {
  std::span<const void* const> inputs;
  std::span<void* const> outputs;
  std::size_t count;
  double prescale;
  std::size_t divisor;
  double postscale;
};

/// One pass over all inputs and outputs. Without kPrescales the prescale is 1.
template <typename Element, ReduceOp op, bool kPrescales, class Inputs, class Outputs>
class Kernel {
 public:
  HWY_INLINE Kernel(const Inputs& inputs, const Outputs& outputs, const Arguments& arguments)
      : inputs_(inputs),
        outputs_(outputs),
        prescale_(static_cast<Accumulator>(arguments.prescale)),
        divisor_(static_cast<Accumulator>(arguments.divisor)),
        divisor_has_inverse_(std::has_single_bit(arguments.divisor)),
        postscale_(static_cast<Accumulator>(arguments.postscale)),
        divides_or_scales_(arguments.divisor != 1 || arguments.postscale != 1) {}

  HWY_INLINE void run(std::size_t count) const {
    const hn::ScalableTag<Accumulator> all;
    const hn::CappedTag<Accumulator, 1> one;
    std::size_t i = 0;
    for (; i + hn::Lanes(all) <= count; i += hn::Lanes(all)) reduce_at(i, all);
    for (; i < count; ++i) reduce_at(i, one);
  }

 private:
  using Accumulator = typename Format<Element>::Accumulator;

  template <class D>
  HWY_INLINE void reduce_at(std::size_t i, D d) const {
    auto result = scaled_input(0, i, d);
    for (std::size_t member = 1; member < inputs_.size(); ++member) {
      result = combine<op>(result, scaled_input(member, i, d));
    }
    if (divides_or_scales_) result = hn::Mul(hn::Set(d, postscale_), divided(result, d));
    for (void* const output : outputs_) {
      Format<Element>::store(result, d, static_cast<Element*>(output) + i);
    }
  }

  template <class D>
  HWY_INLINE hn::Vec<D> scaled_input(std::size_t member, std::size_t i, D d) const {
    const auto* const input = static_cast<const Element*>(inputs_[member]);
    const auto values = Format<Element>::load(d, input + i);
    return kPrescales ? hn::Mul(hn::Set(d, prescale_), values) : values;
  }

  /// The inverse of a power of two is exact, and multiplication faster.
  template <class D>
  HWY_INLINE hn::Vec<D> divided(hn::Vec<D> value, D d) const {
    if (divisor_has_inverse_) return hn::Mul(value, hn::Set(d, 1 / divisor_));
    return hn::Div(value, hn::Set(d, divisor_));
  }

  const Inputs inputs_;
  const Outputs outputs_;
  const Accumulator prescale_;
  const Accumulator divisor_;
  const bool divisor_has_inverse_;
  const Accumulator postscale_;
  const bool divides_or_scales_;
};

template <typename Element, ReduceOp op, bool kPrescales, class Inputs, class Outputs>
void run_kernel(const Inputs& inputs, const Outputs& outputs, const Arguments& arguments) {
  const Kernel<Element, op, kPrescales, Inputs, Outputs> kernel(inputs, outputs, arguments);
  kernel.run(arguments.count);
}

template <typename Element, ReduceOp op>
void reduce_with(const Arguments& arguments) {
  run_kernel<Element, op, true>(arguments.inputs, arguments.outputs, arguments);
}

/// What most reductions are. The addresses stay in registers.
template <typename Element, class Outputs>
void sum_up_pair(const Outputs& outputs, const Arguments& arguments) {
  const std::array inputs = {arguments.inputs[0], arguments.inputs[1]};
  run_kernel<Element, ReduceOp::Sum, false>(inputs, outputs, arguments);
}

template <typename Element>
void sum_up(const Arguments& arguments) {
  const bool pair = arguments.inputs.size() == 2 && arguments.prescale == 1;
  const std::span out = arguments.outputs;
  if (pair && out.size() == 1) return sum_up_pair<Element>(std::array{out[0]}, arguments);
  if (pair && out.size() == 2) return sum_up_pair<Element>(std::array{out[0], out[1]}, arguments);
  reduce_with<Element, ReduceOp::Sum>(arguments);
}

template <typename Element>
void reduce_as(ReduceOp op, const Arguments& arguments) {
  switch (op) {
    case ReduceOp::Sum:
    case ReduceOp::Average:
      return sum_up<Element>(arguments);
    case ReduceOp::Min:
      return reduce_with<Element, ReduceOp::Min>(arguments);
    case ReduceOp::Max:
      return reduce_with<Element, ReduceOp::Max>(arguments);
    case ReduceOp::Product:
      return reduce_with<Element, ReduceOp::Product>(arguments);
  }
}

void reduce_on_target(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
                      std::span<void* const> outputs, std::int64_t count, double prescale,
                      double postscale) {
  const Arguments arguments{.inputs = inputs,
                            .outputs = outputs,
                            .count = static_cast<std::size_t>(count),
                            .prescale = prescale,
                            .divisor = op == ReduceOp::Average ? inputs.size() : 1,
                            .postscale = postscale};
  switch (dtype) {
    case DataType::Float16:
      return reduce_as<Half>(op, arguments);
    case DataType::BFloat16:
      return reduce_as<BFloat16>(op, arguments);
    case DataType::Float32:
      return reduce_as<float>(op, arguments);
    case DataType::Float64:
      return reduce_as<double>(op, arguments);
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Int16:
    case DataType::Int32:
    case DataType::Int64:
    case DataType::Bool:
      assert(false && "not floating");
  }
}

}  // namespace
}  // namespace kolo::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kolo::core {

HWY_EXPORT(reduce_on_target);

void reduce_floats(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
                   std::span<void* const> outputs, std::int64_t count, double prescale,
                   double postscale) {
  const auto reduce_on_best = HWY_DYNAMIC_DISPATCH(reduce_on_target);
  reduce_on_best(dtype, op, inputs, outputs, count, prescale, postscale);
}

}  // namespace kolo::core
#endif

#include "reduce_oracle.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "half_oracle.h"

namespace kolo::core::oracle {
namespace {

__extension__ using Wide = __int128;

template <typename T>
T get(const Bytes& bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void put(Bytes& bytes, std::size_t index, T value) {
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
}

Wide integer_at(DataType dtype, const Bytes& bytes, std::size_t index) {
  switch (dtype) {
    case DataType::UInt8:
      return get<std::uint8_t>(bytes, index);
    case DataType::Int8:
      return get<std::int8_t>(bytes, index);
    case DataType::Int16:
      return get<std::int16_t>(bytes, index);
    case DataType::Int32:
      return get<std::int32_t>(bytes, index);
    case DataType::Int64:
      return get<std::int64_t>(bytes, index);
    case DataType::Bool:
      return get<std::uint8_t>(bytes, index) != 0 ? 1 : 0;
    case DataType::Float16:
    case DataType::BFloat16:
    case DataType::Float32:
    case DataType::Float64:
      break;
  }
  std::abort();
}

/// Modulo 2^bits, into the type's range.
Wide wrap(DataType dtype, Wide value) {
  const Wide modulus = Wide{1} << (8 * size_of(dtype));
  const Wide lowest = dtype == DataType::UInt8 ? 0 : -modulus / 2;
  Wide offset = (value - lowest) % modulus;
  if (offset < 0) offset += modulus;
  return lowest + offset;
}

Wide combine_integers(ReduceOp op, Wide a, Wide b) {
  switch (op) {
    case ReduceOp::Sum:
    case ReduceOp::Average:
      return a + b;
    case ReduceOp::Product:
      return a * b;
    case ReduceOp::Min:
      return a < b ? a : b;
    case ReduceOp::Max:
      return a < b ? b : a;
  }
  std::abort();
}

void put_integer(DataType dtype, Bytes& bytes, std::size_t index, Wide value) {
  const auto bits = static_cast<std::uint64_t>(value);
  switch (size_of(dtype)) {
    case 1:
      return put(bytes, index, static_cast<std::uint8_t>(bits));
    case 2:
      return put(bytes, index, static_cast<std::uint16_t>(bits));
    case 4:
      return put(bytes, index, static_cast<std::uint32_t>(bits));
    default:
      return put(bytes, index, bits);
  }
}

/// Averages are exact.
Wide reduce_integers(const Reduction& r, std::span<const Bytes> inputs, std::size_t index) {
  const bool exact = r.op == ReduceOp::Average;
  Wide result = integer_at(r.dtype, inputs.front(), index);
  for (const Bytes& input : inputs.subspan(1)) {
    result = combine_integers(r.op, result, integer_at(r.dtype, input, index));
    if (!exact) result = wrap(r.dtype, result);
  }
  return r.op == ReduceOp::Average ? result / static_cast<Wide>(inputs.size()) : result;
}

Wide reduce_booleans(const Reduction& r, std::span<const Bytes> inputs, std::size_t index) {
  std::size_t yes = 0;
  for (const Bytes& input : inputs) yes += integer_at(r.dtype, input, index) != 0 ? 1 : 0;
  const bool any = r.op == ReduceOp::Sum || r.op == ReduceOp::Max;
  return any ? yes > 0 : yes == inputs.size();
}

template <typename Number>
Number combine(ReduceOp op, Number a, Number b) {
  constexpr Number kNan = std::numeric_limits<Number>::quiet_NaN();
  switch (op) {
    case ReduceOp::Sum:
    case ReduceOp::Average:
      return a + b;
    case ReduceOp::Product:
      return a * b;
    case ReduceOp::Min:
      return std::isnan(a) || std::isnan(b) ? kNan : std::fmin(a, b);
    case ReduceOp::Max:
      return std::isnan(a) || std::isnan(b) ? kNan : std::fmax(a, b);
  }
  std::abort();
}

/// Computes in `Wider`, and rounds to `Accumulator` after each step.
template <typename Accumulator, typename Wider>
Accumulator reduce_floats(const Reduction& r, std::span<const Bytes> inputs, std::size_t index) {
  const Wider prescale = static_cast<Accumulator>(r.prescale);
  const Wider postscale = static_cast<Accumulator>(r.postscale);
  Accumulator result = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto element = static_cast<Wider>(value_at(r.dtype, inputs[i], index));
    const auto scaled = static_cast<Accumulator>(prescale * element);
    result = i == 0 ? scaled : static_cast<Accumulator>(combine<Wider>(r.op, result, scaled));
  }
  if (r.op == ReduceOp::Average) {
    result = static_cast<Accumulator>(result / static_cast<Wider>(inputs.size()));
  }
  return static_cast<Accumulator>(postscale * result);
}

void put_float(DataType dtype, Bytes& bytes, std::size_t index, long double value) {
  if (dtype == DataType::Float16) {
    put(bytes, index, encode<Float16Format>(value));
  } else if (dtype == DataType::BFloat16) {
    put(bytes, index, encode<BFloat16Format>(value));
  } else if (dtype == DataType::Float32) {
    put(bytes, index, static_cast<float>(value));
  } else {
    put(bytes, index, static_cast<double>(value));
  }
}

/// SplitMix64.
std::uint64_t scrambled(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

}  // namespace

long double value_at(DataType dtype, const Bytes& bytes, std::size_t index) {
  if (dtype == DataType::Float16) return decode<Float16Format>(get<std::uint16_t>(bytes, index));
  if (dtype == DataType::BFloat16) return decode<BFloat16Format>(get<std::uint16_t>(bytes, index));
  if (dtype == DataType::Float32) return get<float>(bytes, index);
  if (dtype == DataType::Float64) return get<double>(bytes, index);
  return static_cast<long double>(integer_at(dtype, bytes, index));
}

Bytes reduce(const Reduction& reduction, std::span<const Bytes> inputs) {
  const DataType dtype = reduction.dtype;
  Bytes output(inputs.front().size());
  const std::size_t count = output.size() / size_of(dtype);
  for (std::size_t i = 0; i < count; ++i) {
    if (is_floating(dtype)) {
      // No type is so wide that rounding twice is always rounding once to double.
      put_float(dtype, output, i,
                dtype == DataType::Float64
                    ? static_cast<long double>(reduce_floats<double, double>(reduction, inputs, i))
                    : reduce_floats<float, long double>(reduction, inputs, i));
    } else if (dtype == DataType::Bool) {
      put_integer(dtype, output, i, reduce_booleans(reduction, inputs, i));
    } else {
      put_integer(dtype, output, i, reduce_integers(reduction, inputs, i));
    }
  }
  return output;
}

Bytes reduce_by_host(const Reduction& reduction, std::span<const Bytes> inputs,
                     std::span<const int> host_of) {
  std::vector<std::pair<int, std::vector<Bytes>>> hosts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    auto host = std::ranges::find(hosts, host_of[i], &decltype(hosts)::value_type::first);
    if (host == hosts.end()) host = hosts.insert(host, {host_of[i], {}});
    host->second.push_back(inputs[i]);
  }
  const bool mean = reduction.op == ReduceOp::Average;
  if (hosts.size() == 1 || hosts.size() == inputs.size() ||
      (mean && !is_floating(reduction.dtype))) {
    return reduce(reduction, inputs);
  }
  std::size_t largest = 0;
  for (const auto& [host, own] : hosts) largest = std::max(largest, own.size());
  const bool shrinks = reduction.op == ReduceOp::Sum && std::abs(reduction.postscale) < 1;
  std::vector<Bytes> results;
  for (const auto& [host, own] : hosts) {
    Reduction within = reduction;
    within.postscale = shrinks ? reduction.postscale : 1.0;
    if (mean) within.postscale = static_cast<double>(own.size()) / static_cast<double>(largest);
    results.push_back(reduce(within, own));
  }
  Reduction between = reduction;
  between.prescale = 1.0;
  if (shrinks) between.postscale = 1.0;
  if (mean) {
    between.postscale *=
        static_cast<double>(largest * hosts.size()) / static_cast<double>(inputs.size());
  }
  return reduce(between, results);
}

bool same_values(DataType dtype, const Bytes& a, const Bytes& b) {
  if (a.size() != b.size()) return false;
  if (a == b) return true;
  if (!is_floating(dtype)) return false;
  const std::size_t size = size_of(dtype);
  for (std::size_t i = 0; i < a.size() / size; ++i) {
    if (std::memcmp(a.data() + i * size, b.data() + i * size, size) == 0) continue;
    if (!std::isnan(value_at(dtype, a, i)) || !std::isnan(value_at(dtype, b, i))) return false;
  }
  return true;
}

Bytes random_values(DataType dtype, std::int64_t count, std::uint64_t seed) {
  Bytes bytes(static_cast<std::size_t>(count) * size_of(dtype));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const std::uint64_t bits = scrambled(scrambled(seed) + i);
    if (is_floating(dtype)) {
      const int fraction = static_cast<int>(bits % 4096) - 2048;
      const int exponent = static_cast<int>(bits >> 60);
      put_float(dtype, bytes, i, static_cast<long double>(fraction * (1 << exponent)) / (1 << 18));
    } else if (dtype == DataType::Bool) {
      put_integer(dtype, bytes, i, static_cast<Wide>(bits % 2));
    } else {
      put_integer(dtype, bytes, i, static_cast<Wide>(bits));
    }
  }
  return bytes;
}

Bytes random_bits(DataType dtype, std::int64_t count, std::uint64_t seed) {
  Bytes bytes(static_cast<std::size_t>(count) * size_of(dtype));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    put_integer(dtype, bytes, i, static_cast<Wide>(scrambled(scrambled(seed) + i)));
  }
  return bytes;
}

Bytes filled(DataType dtype, std::int64_t count, long double value) {
  Bytes bytes(static_cast<std::size_t>(count) * size_of(dtype));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    if (is_floating(dtype)) {
      put_float(dtype, bytes, i, value);
    } else {
      put_integer(dtype, bytes, i, static_cast<Wide>(value));
    }
  }
  return bytes;
}

}  // namespace kolo::core::oracle

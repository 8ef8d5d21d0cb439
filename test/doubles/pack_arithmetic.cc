#include "doubles/pack_arithmetic.h"

#include <cstring>

#include "data/half.h"
#include "doubles/bytes.h"

namespace kolo::doubles {
namespace {

using core::DataType;

template <typename Element>
Element read(const void* from, std::int64_t index) {
  Element element;
  std::memcpy(&element, static_cast<const Element*>(from) + index, sizeof element);
  return element;
}

template <typename Element>
void write(void* to, std::int64_t index, Element element) {
  std::memcpy(static_cast<Element*>(to) + index, &element, sizeof element);
}

float load(const void* from, DataType dtype, std::int64_t index) {
  if (dtype == DataType::Float16) return core::to_float(read<core::Half>(from, index));
  if (dtype == DataType::BFloat16) return core::to_float(read<core::BFloat16>(from, index));
  return read<float>(from, index);
}

void store(void* to, DataType dtype, std::int64_t index, float value) {
  if (dtype == DataType::Float16) return write(to, index, core::to_half(value));
  if (dtype == DataType::BFloat16) return write(to, index, core::to_bfloat16(value));
  write(to, index, value);
}

}  // namespace

void copy_elements(const core::cuda::Copy& copy, const core::cuda::PackFormat& format) {
  if (format.from == format.to && format.scale == 1.0) {
    copy_bytes(copy.to, copy.from,
               static_cast<std::size_t>(copy.count) * core::size_of(format.from));
    return;
  }
  for (std::int64_t i = 0; i < copy.count; ++i) {
    if (format.from == DataType::Float64) {
      write(copy.to, i, format.scale * read<double>(copy.from, i));
    } else {
      const auto factor = static_cast<float>(format.scale);
      store(copy.to, format.to, i, factor * load(copy.from, format.from, i));
    }
  }
}

}  // namespace kolo::doubles

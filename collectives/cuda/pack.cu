#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/copy_table.h"

namespace kolo::core::cuda {
namespace {

/// What elements are multiplied in, how they get there, and back.
template <typename Element>
struct Format {
  using Factor = Element;
  static __device__ Factor load(Element element) { return element; }
  static __device__ Element store(Factor value) { return value; }
};

template <>
struct Format<__half> {
  using Factor = float;
  static __device__ float load(__half element) { return __half2float(element); }
  static __device__ __half store(float value) { return __float2half_rn(value); }
};

template <>
struct Format<__nv_bfloat16> {
  using Factor = float;
  static __device__ float load(__nv_bfloat16 element) { return __bfloat162float(element); }
  static __device__ __nv_bfloat16 store(float value) { return __float2bfloat16_rn(value); }
};

/// Bytes as they are.
template <typename Element>
struct Identity {
  using From = Element;
  using To = Element;
  __device__ Element operator()(Element element) const { return element; }
};

template <typename Source, typename Target>
struct Scale {
  using From = Source;
  using To = Target;
  typename Format<Source>::Factor factor;
  __device__ Target operator()(Source element) const {
    return Format<Target>::store(factor * Format<Source>::load(element));
  }
};

template <typename Function>
constexpr std::size_t kLargerSize = sizeof(typename Function::From) > sizeof(typename Function::To)
                                        ? sizeof(typename Function::From)
                                        : sizeof(typename Function::To);
template <typename Function>
constexpr std::int64_t kBlockElements = block_elements(kLargerSize<Function>);

/// Read and written by one instruction.
template <typename Element, int length>
struct alignas(sizeof(Element) * length) Vector {
  Element elements[length];
};

/// How many elements lie before the first vector.
template <typename Element, int length>
__device__ int elements_before_vector(const Element* address) {
  const auto number = reinterpret_cast<unsigned long long>(address) / sizeof(Element);
  return static_cast<int>((length - number % length) % length);
}

template <typename Element, typename Function>
__device__ void copy_each(const Element* from, typename Function::To* to, int count,
                          Function function) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreadsPerBlock) {
    to[i] = function(from[i]);
  }
}

/// All of a thread's vectors are read before any is written, so that the reads are under way
/// together.
template <int length, typename Function>
__device__ void copy_vectors(const typename Function::From* from, typename Function::To* to,
                             int count, Function function) {
  using Source = Vector<typename Function::From, length>;
  using Target = Vector<typename Function::To, length>;
  const Source* const sources = reinterpret_cast<const Source*>(from);
  Target* const targets = reinterpret_cast<Target*>(to);
  Source read[kVectorsPerThread];
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * kThreadsPerBlock;
    if (i < count) read[k] = sources[i];
  }
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * kThreadsPerBlock;
    if (i >= count) continue;
    Target written;
#pragma unroll
    for (int j = 0; j < length; ++j) written.elements[j] = function(read[k].elements[j]);
    targets[i] = written;
  }
}

/// One block's part of a copy.
template <typename Function>
__device__ void copy_block(const typename Function::From* from, typename Function::To* to,
                           int count, Function function) {
  using From = typename Function::From;
  using To = typename Function::To;
  constexpr int kLength = kVectorBytes / static_cast<int>(kLargerSize<Function>);
  const int head = elements_before_vector<To, kLength>(to);
  if (head > count || head != elements_before_vector<From, kLength>(from)) {
    copy_each(from, to, count, function);
    return;
  }
  const int vectors = (count - head) / kLength;
  const int tail = head + vectors * kLength;
  copy_each(from, to, head, function);
  copy_vectors<kLength>(from + head, to + head, vectors, function);
  copy_each(from + tail, to + tail, count - tail, function);
}

template <typename Function>
__global__ void __launch_bounds__(kThreadsPerBlock)
    copy_table(const __grid_constant__ CopyTable table, Function function) {
  using From = typename Function::From;
  using To = typename Function::To;
  constexpr std::int64_t kElements = kBlockElements<Function>;
  int copy = 0;
  for (int end = table.size; end - copy > 1;) {
    const int middle = (copy + end) / 2;
    (table.first_block[middle] <= blockIdx.x ? copy : end) = middle;
  }
  const Copy& chosen = table.copies[copy];
  const std::int64_t begin = (blockIdx.x - table.first_block[copy]) * kElements;
  const std::int64_t left = chosen.count - begin;
  copy_block(static_cast<const From*>(chosen.from) + begin, static_cast<To*>(chosen.to) + begin,
             static_cast<int>(left < kElements ? left : kElements), function);
}

template <typename Function>
cudaError_t launch(const CopyTable& table, Function function, cudaStream_t stream) {
  void* arguments[] = {const_cast<CopyTable*>(&table), &function};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&copy_table<Function>),
                          dim3(table.first_block[table.size]), dim3(kThreadsPerBlock), arguments, 0,
                          stream);
}

template <typename From, typename To>
cudaError_t launch_scaled(const CopyTable& table, double scale, cudaStream_t stream) {
  const auto factor = static_cast<typename Format<From>::Factor>(scale);
  return launch(table, Scale<From, To>{factor}, stream);
}

template <typename From>
cudaError_t launch_from(const CopyTable& table, const PackFormat& format, cudaStream_t stream) {
  switch (format.to) {
    case DataType::Float32:
      return launch_scaled<From, float>(table, format.scale, stream);
    case DataType::Float16:
      return launch_scaled<From, __half>(table, format.scale, stream);
    case DataType::BFloat16:
      return launch_scaled<From, __nv_bfloat16>(table, format.scale, stream);
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Int16:
    case DataType::Int32:
    case DataType::Int64:
    case DataType::Float64:
    case DataType::Bool:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_unchanged(const CopyTable& table, DataType dtype, cudaStream_t stream) {
  switch (dtype) {
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Bool:
      return launch(table, Identity<std::uint8_t>(), stream);
    case DataType::Int16:
    case DataType::Float16:
    case DataType::BFloat16:
      return launch(table, Identity<std::uint16_t>(), stream);
    case DataType::Int32:
    case DataType::Float32:
      return launch(table, Identity<std::uint32_t>(), stream);
    case DataType::Int64:
    case DataType::Float64:
      return launch(table, Identity<std::uint64_t>(), stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_table(const CopyTable& table, const PackFormat& format, cudaStream_t stream) {
  if (format.from == format.to && format.scale == 1.0) {
    return launch_unchanged(table, format.from, stream);
  }
  switch (format.from) {
    case DataType::Float32:
      return launch_from<float>(table, format, stream);
    case DataType::Float16:
      return launch_from<__half>(table, format, stream);
    case DataType::BFloat16:
      return launch_from<__nv_bfloat16>(table, format, stream);
    case DataType::Float64:
      return launch_scaled<double, double>(table, format.scale, stream);
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Int16:
    case DataType::Int32:
    case DataType::Int64:
    case DataType::Bool:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace kolo::core::cuda

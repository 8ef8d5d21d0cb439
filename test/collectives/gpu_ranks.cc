#include "gpu_ranks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <thread>
#include <utility>

#include "base/doorbell.h"
#include "cuda/event.h"
#include "cuda/stream.h"
#include "data/inproc_data.h"
#include "support/threads.h"

namespace kolo::core::gpus {
namespace {

using oracle::Bytes;

void expect_ok(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

bool is_average_of_integers(const Collective& c) {
  return reduces(c.kind) && c.op == ReduceOp::Average && !is_floating(c.dtype);
}

/// NCCL's means of integers are those of sums that wrap: here they do not.
void make_small(DataType dtype, Bytes& values) {
  const std::size_t size = size_of(dtype);
  for (std::size_t i = 0; i < values.size(); i += size) {
    values[i + size - 1] &= static_cast<std::byte>(size == 1 ? 0x0F : 0x00);
  }
}

struct Precision {
  long double epsilon;
  /// The smallest number, and the largest.
  long double quantum;
  long double largest;
};

Precision precision_of(DataType dtype) {
  if (dtype == DataType::Float16) return {std::ldexp(1.0L, -10), std::ldexp(1.0L, -24), 65504};
  const long double huge = std::ldexp(1.0L, 127);
  if (dtype == DataType::BFloat16) return {std::ldexp(1.0L, -7), std::ldexp(1.0L, -133), huge};
  if (dtype == DataType::Float32) return {std::ldexp(1.0L, -23), std::ldexp(1.0L, -149), huge};
  return {std::ldexp(1.0L, -52), std::ldexp(1.0L, -1074), std::ldexp(1.0L, 1023)};
}

/// How far an element may be off: each member's number and partial sum, the factor and the result
/// are rounded by half of the last place.
long double tolerance(const Collective& c, const std::vector<Bytes>& inputs, std::size_t index) {
  const auto members = static_cast<long double>(inputs.size());
  const Precision precision = precision_of(c.dtype);
  long double sum = 0;
  long double product = 1;
  long double others = 1;
  for (const Bytes& input : inputs) {
    const long double value = std::abs(c.prescale * oracle::value_at(c.dtype, input, index));
    sum += value;
    product *= value;
    others *= std::max(1.0L, value);
  }
  const long double scale = std::abs(c.postscale) / (c.op == ReduceOp::Average ? members : 1);
  const bool multiplies = c.op == ReduceOp::Product;
  // The product of some may overflow.
  if (multiplies && others > precision.largest) return INFINITY;
  const long double size = scale * (multiplies ? product : sum);
  // A product of some that is rounded to the smallest numbers is off by more than a fraction of
  // itself, and then multiplied by the others.
  const long double quanta = std::max(1.0L, scale) * (multiplies ? others : 1);
  return (members + 3) / 2 * (precision.epsilon * size + precision.quantum * quanta);
}

Bytes expected_of(const Collective& c, const std::vector<Bytes>& shares) {
  if (!reduces(c.kind)) return jobs::moved(c, shares);
  return oracle::reduce(
      {.dtype = c.dtype, .op = c.op, .prescale = c.prescale, .postscale = c.postscale}, shares);
}

}  // namespace

void Rank::idle() const { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

Options with_patience() {
  Options options;
  options.change_settings = [](int /*rank*/, NcclDataPlane::Settings settings) {
    settings.end_within = kPatience;
    return settings;
  };
  return options;
}

void run(int size, const std::function<void(Rank&)>& body, const Options& options) {
  doubles::reset(options.doubles);
  if (options.prepare) options.prepare();
  const auto hub = InprocDataHub::create(size);
  testing::run_ranks(size, [&](int rank) {
    Doorbell doorbell;
    std::shared_ptr<DataPlane> host = hub->connect(rank, doorbell);
    if (options.wrap_host) host = options.wrap_host(rank, std::move(host));
    NcclDataPlane::Settings settings{.device = rank, .rank = rank};
    if (options.change_settings) settings = options.change_settings(rank, settings);
    expect_ok(cudaSetDevice((settings.device + 1) % options.doubles.devices));
    std::shared_ptr<DataPlane> plane =
        std::make_shared<NcclDataPlane>(std::move(host), settings);
    if (options.wrap_plane) plane = options.wrap_plane(rank, std::move(plane));
    Rank own{.rank = rank, .size = size, .device = settings.device, .plane = *plane};
    body(own);
  });
  EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
  const doubles::Live left = doubles::live();
  EXPECT_EQ(left, doubles::Live())
      << left.streams << " streams, " << left.events << " events, " << left.allocations
      << " allocations, " << left.communicators << " communicators, " << left.registrations
      << " registrations, " << left.reduction_operators << " reduction operators are left";
}

std::shared_ptr<std::byte> cuda_memory(int device, std::size_t bytes) {
  const cuda::DeviceGuard guard(device);
  void* memory = nullptr;
  expect_ok(cudaMalloc(&memory, std::max(bytes, std::size_t{1})));
  return {static_cast<std::byte*>(memory), [](std::byte* begin) { expect_ok(cudaFree(begin)); }};
}

UserStream::UserStream(int device) : device_(device) {
  const cuda::DeviceGuard guard(device_);
  expect_ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

UserStream::~UserStream() {
  finish();
  const cuda::DeviceGuard guard(device_);
  expect_ok(cudaStreamDestroy(stream_));
}

void UserStream::call(std::function<void()> work) {
  const cuda::DeviceGuard guard(device_);
  const auto run = [](void* given) { (*static_cast<std::function<void()>*>(given))(); };
  expect_ok(cudaLaunchHostFunc(stream_, run, &calls_.emplace_back(std::move(work))));
}

void UserStream::dawdle(std::chrono::microseconds time) {
  call([time] { std::this_thread::sleep_for(time); });
}

void UserStream::write(void* to, Bytes values) {
  const cuda::DeviceGuard guard(device_);
  const Bytes& source = sources_.emplace_back(std::move(values));
  expect_ok(cudaMemcpyAsync(to, source.data(), source.size(), cudaMemcpyHostToDevice, stream_));
}

void UserStream::read(const void* from, std::span<std::byte> into) {
  const cuda::DeviceGuard guard(device_);
  expect_ok(cudaMemcpyAsync(into.data(), from, into.size(), cudaMemcpyDeviceToHost, stream_));
}

void UserStream::wait_for(const DeviceEvent& event) {
  const cuda::DeviceGuard guard(device_);
  const Status status = cuda::make_stream_wait(stream_, event);
  ASSERT_TRUE(status.ok()) << status.message();
}

std::shared_ptr<DeviceEvent> UserStream::now() {
  const cuda::DeviceGuard guard(device_);
  const auto event = cuda::Event::record(stream_);
  EXPECT_TRUE(event.ok()) << event.status().message();
  return event.ok() ? event.value() : nullptr;
}

void UserStream::finish() {
  const std::shared_ptr<DeviceEvent> end = now();
  while (!end->reached().value()) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

std::vector<Bytes> inputs_of(const jobs::Job& job) {
  const Collective& c = job.collective;
  std::vector<Bytes> inputs;
  for (int member = 0; member < std::ssize(c.ranks); ++member) {
    inputs.push_back(jobs::input_of(job, member));
    if (is_average_of_integers(c)) make_small(c.dtype, inputs.back());
  }
  return inputs;
}

Collective collective_on(const Rank& rank, std::uint64_t sequence, std::int64_t count) {
  Collective c;
  for (int member = 0; member < rank.size; ++member) c.ranks.push_back(member);
  c.member = rank.rank;
  c.sequence = sequence;
  c.device = DeviceType::Cuda;
  c.count = count;
  return c;
}

std::vector<Bytes> inputs_of(const Collective& c, std::uint64_t seed) {
  return inputs_of(jobs::Job{.collective = c, .seed = seed});
}

std::string find_error(const Collective& c, const std::vector<Bytes>& shares, const Bytes& result) {
  const Bytes expected = expected_of(c, shares);
  if (oracle::same_values(c.dtype, result, expected)) return {};
  const bool rounds = reduces(c.kind) && is_floating(c.dtype);
  for (std::size_t i = 0; i < expected.size() / size_of(c.dtype); ++i) {
    const long double got = oracle::value_at(c.dtype, result, i);
    const long double right = oracle::value_at(c.dtype, expected, i);
    if (got == right) continue;
    if (rounds && std::abs(got - right) <= tolerance(c, shares, i)) continue;
    return fmt::format(
        "{} {} of {} {} among {} members, scales {} and {}: element {} is {}, not {}",
        to_string(c.kind), to_string(c.op), c.count, to_string(c.dtype), c.ranks.size(), c.prescale,
        c.postscale, i, static_cast<double>(got), static_cast<double>(right));
  }
  return {};
}

}  // namespace kolo::core::gpus

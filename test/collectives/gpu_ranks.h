#pragma once

/// Ranks as threads, each with a GPU and a plane for it, on doubles of CUDA and NCCL.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "data/nccl_data.h"
#include "doubles/doubles.h"
#include "jobs.h"
#include "reduce_oracle.h"

namespace kolo::core::gpus {

struct Rank {
  int rank = 0;
  int size = 1;
  int device = 0;
  DataPlane& plane;
  /// Nothing moves: others have to come first.
  void idle() const;
};

struct Options {
  doubles::Settings doubles;
  std::function<NcclDataPlane::Settings(int rank, NcclDataPlane::Settings)> change_settings;
  std::function<std::shared_ptr<DataPlane>(int rank, std::shared_ptr<DataPlane>)> wrap_host;
  /// What ranks use, made of NCCL's plane.
  std::function<std::shared_ptr<DataPlane>(int rank, std::shared_ptr<DataPlane> nccl)> wrap_plane;
  /// After the doubles were reset, and before ranks start.
  std::function<void()> prepare;
};

/// How long communicators may take to end where tests count how they do: none is aborted because
/// the machine was busy.
constexpr auto kPatience = std::chrono::hours(1);
Options with_patience();

/// `body` on each rank, in a thread to which another GPU than the rank's is current. Nothing may be
/// left in the end, nor anything have been misused.
void run(int size, const std::function<void(Rank&)>& body, const Options& options = {});

/// Memory of cudaMalloc.
std::shared_ptr<std::byte> cuda_memory(int device, std::size_t bytes);

/// A stream as a program has it.
class UserStream {
 public:
  explicit UserStream(int device);
  /// When it has done all its work.
  ~UserStream();
  UserStream(const UserStream&) = delete;
  UserStream& operator=(const UserStream&) = delete;

  void call(std::function<void()> work);
  /// Work that takes a while.
  void dawdle(std::chrono::microseconds time);
  void write(void* to, oracle::Bytes values);
  void read(const void* from, std::span<std::byte> into);
  void wait_for(const DeviceEvent& event);
  std::shared_ptr<DeviceEvent> now();

  /// Asks, rather than to wait inside CUDA, until it has done its work.
  void finish();

 private:
  const int device_;
  cudaStream_t stream_ = nullptr;
  std::deque<oracle::Bytes> sources_;
  std::deque<std::function<void()>> calls_;
};

/// An all-reduce of all ranks on their GPUs, as this one starts it; without addresses.
Collective collective_on(const Rank& rank, std::uint64_t sequence, std::int64_t count);

/// The members' inputs.
std::vector<oracle::Bytes> inputs_of(const jobs::Job& job);
/// Of a collective without its addresses, which is the same for all members.
std::vector<oracle::Bytes> inputs_of(const Collective& collective, std::uint64_t seed);

/// What is wrong with the result that follows from these shares of the members' inputs (see
/// jobs::shares_for); empty if nothing is. Exact but for sums, means and products of
/// floating dtypes, and factors: these may be off by what rounding explains.
std::string find_error(const Collective& collective, const std::vector<oracle::Bytes>& shares,
                       const oracle::Bytes& result);

}  // namespace kolo::core::gpus

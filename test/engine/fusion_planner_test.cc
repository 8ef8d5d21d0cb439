#include "engine/fusion_planner.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "data/inproc_data.h"
#include "engine/fusion_buffer.h"

namespace kolo::core {
namespace {

using Groups = std::vector<FusionGroup>;

Groups plan(const std::vector<Request>& requests, std::size_t threshold) {
  std::vector<const Request*> pointers;
  for (const Request& request : requests) pointers.push_back(&request);
  return plan_fusion(pointers, threshold);
}

std::size_t bytes_of(const Request& request) {
  return static_cast<std::size_t>(element_count(request.shape)) * size_of(request.dtype);
}

bool fit_together(const Request& a, const Request& b) {
  return a.kind == CollectiveKind::Allreduce && b.kind == CollectiveKind::Allreduce &&
         a.dtype == b.dtype && a.op == b.op && a.device == b.device && a.prescale == b.prescale &&
         a.postscale == b.postscale;
}

Request any_request() {
  Request request;
  // Mostly all-reduces, of few types, so that many fit together.
  const int kind = *rc::gen::inRange(0, 12);
  if (kind < kCollectiveKindCount) request.kind = static_cast<CollectiveKind>(kind);
  request.dtype =
      *rc::gen::element(DataType::Float32, DataType::Float32, DataType::BFloat16, DataType::Bool);
  request.op = *rc::gen::element(ReduceOp::Sum, ReduceOp::Sum, ReduceOp::Max);
  request.device = *rc::gen::element(DeviceType::Cpu, DeviceType::Cpu, DeviceType::Cuda);
  request.prescale = *rc::gen::element(1.0, 1.0, 1.0, 0.5);
  request.postscale = *rc::gen::element(1.0, 1.0, 1.0, 0.25);
  const auto count =
      *rc::gen::element<std::int64_t>(0, 1, 15, 16, 17, 100, 1000, 262'143, 262'144, 600'000);
  if (request.kind != CollectiveKind::Barrier) request.shape = {count};
  return request;
}

std::vector<Request> any_requests() {
  std::vector<Request> requests(static_cast<std::size_t>(*rc::gen::inRange(0, 60)));
  for (Request& request : requests) request = any_request();
  return requests;
}

std::size_t any_threshold() {
  return *rc::gen::element<std::size_t>(0, 1, 63, 64, 128, 1000, 4096, 1 << 20, 64 << 20);
}

TEST(FusionPlanner, EachRequestIsInOneGroup) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    std::vector<int> seen(requests.size());
    for (const FusionGroup& group : plan(requests, any_threshold())) {
      RC_ASSERT(!group.slices.empty());
      for (const auto& slice : group.slices) ++seen.at(slice.request);
    }
    RC_ASSERT(std::ranges::count(seen, 1) == std::ssize(requests));
  }));
}

TEST(FusionPlanner, SlicesAreAlignedApartAndInside) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    for (const FusionGroup& group : plan(requests, any_threshold())) {
      std::size_t end = 0;
      for (const auto& slice : group.slices) {
        RC_ASSERT(slice.bytes == bytes_of(requests[slice.request]));
        RC_ASSERT(slice.offset % kFusionAlignment == 0U);
        RC_ASSERT(slice.offset >= end);
        end = slice.offset + slice.bytes;
      }
      RC_ASSERT(end <= group.bytes);
      RC_ASSERT(group.bytes % size_of(requests[group.slices.front().request].dtype) == 0U);
    }
  }));
}

TEST(FusionPlanner, OnlyWhatFitsSharesAGroup) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    const std::size_t threshold = any_threshold();
    for (const FusionGroup& group : plan(requests, threshold)) {
      if (!group.fused()) continue;
      RC_ASSERT(group.bytes <= threshold);
      for (const auto& slice : group.slices) {
        RC_ASSERT(fit_together(requests[group.slices.front().request], requests[slice.request]));
        RC_ASSERT(slice.bytes < kLargestFused);
      }
    }
  }));
}

TEST(FusionPlanner, OrderIsThatOfTheRequests) {
  EXPECT_TRUE(rc::check([] {
    const Groups groups = plan(any_requests(), any_threshold());
    std::size_t previous = 0;
    for (const FusionGroup& group : groups) {
      const std::size_t first = group.slices.front().request;
      RC_ASSERT(&group == &groups.front() || first > previous);
      previous = first;
      RC_ASSERT(std::ranges::is_sorted(group.slices, {}, &FusionGroup::Slice::request));
    }
  }));
}

/// Two groups that fit together could not have been one.
TEST(FusionPlanner, FusesWhatItCan) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    const std::size_t threshold = *rc::gen::element<std::size_t>(4096, 1 << 20, 64 << 20);
    const Groups groups = plan(requests, threshold);
    const auto extent = [&](const FusionGroup& group) {
      return (group.bytes + kFusionAlignment - 1) / kFusionAlignment * kFusionAlignment;
    };
    for (std::size_t later = 0; later < groups.size(); ++later) {
      const auto& next = groups[later].slices.front();
      const std::size_t size =
          (next.bytes + kFusionAlignment - 1) / kFusionAlignment * kFusionAlignment;
      if (next.bytes >= kLargestFused || size > threshold) continue;
      // The last group before it that it fits to was too full.
      for (std::size_t i = later; i-- > 0;) {
        const auto& first = groups[i].slices.front();
        if (!fit_together(requests[first.request], requests[next.request])) continue;
        if (first.bytes >= kLargestFused || extent(groups[i]) > threshold) continue;
        RC_ASSERT(extent(groups[i]) + size > threshold);
        break;
      }
    }
  }));
}

TEST(FusionPlanner, SameInputSameOutput) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    const std::size_t threshold = any_threshold();
    const Groups once = plan(requests, threshold);
    const Groups again = plan(std::vector<Request>(requests), threshold);
    RC_ASSERT(once.size() == again.size());
    for (std::size_t i = 0; i < once.size(); ++i) {
      RC_ASSERT(once[i].bytes == again[i].bytes);
      RC_ASSERT(
          std::ranges::equal(once[i].slices, again[i].slices, [](const auto& a, const auto& b) {
            return a.request == b.request && a.offset == b.offset && a.bytes == b.bytes;
          }));
    }
  }));
}

TEST(FusionPlanner, Threshold0FusesNothing) {
  EXPECT_TRUE(rc::check([] {
    const auto requests = any_requests();
    RC_ASSERT(plan(requests, 0).size() == requests.size());
  }));
}

TEST(FusionPlanner, LargeTensorsRunAlone) {
  Request small;
  small.shape = {16};
  Request largest_fused;
  largest_fused.shape = {static_cast<std::int64_t>(kLargestFused / 4) - 1};
  Request large;
  large.shape = {static_cast<std::int64_t>(kLargestFused / 4)};
  const Groups groups = plan({small, large, largest_fused, large, small}, std::size_t{64} << 20);
  ASSERT_EQ(groups.size(), 3U);
  EXPECT_EQ(groups[0].slices.size(), 3U);
  EXPECT_EQ(groups[1].slices.front().request, 1U);
  EXPECT_EQ(groups[2].slices.front().request, 3U);
}

TEST(FusionPlanner, NothingMakesNothing) { EXPECT_TRUE(plan({}, 4096).empty()); }

// ---- the buffers that groups travel in ----

TEST(FusionBufferPool, ReusesTheSmallestThatIsLargeEnough) {
  Doorbell doorbell;
  const auto plane = InprocDataHub::create(1)->connect(0, doorbell);
  FusionBufferPool pool(*plane, DeviceType::Cpu);
  FusionBuffer small = pool.take(5000).value();
  FusionBuffer large = pool.take(100'000).value();
  EXPECT_GE(small.capacity, 5000U);
  EXPECT_GE(large.capacity, 100'000U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(small.memory.get()) % kFusionAlignment, 0U);
  const std::byte* const at_small = small.memory.get();
  const std::byte* const at_large = large.memory.get();
  pool.give_back(std::move(large));
  pool.give_back(std::move(small));
  EXPECT_EQ(pool.take(6000).value().memory.get(), at_small);
  const FusionBuffer again = pool.take(6000).value();
  EXPECT_EQ(again.memory.get(), at_large);
}

TEST(FusionBufferPool, NoBytesAreMemoryToo) {
  Doorbell doorbell;
  const auto plane = InprocDataHub::create(1)->connect(0, doorbell);
  FusionBufferPool pool(*plane, DeviceType::Cpu);
  EXPECT_NE(pool.take(0).value().memory, nullptr);
}

}  // namespace
}  // namespace kolo::core

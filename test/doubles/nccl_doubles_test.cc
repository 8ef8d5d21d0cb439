// NCCL's double: collectives of ranks in threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "collectives/half_oracle.h"
#include "doubles/support.h"

namespace kolo::doubles {
namespace {

using ::testing::Each;
using ::testing::ElementsAreArray;

void end(ncclComm_t communicator) {
  EXPECT_EQ(launched(communicator, ncclCommFinalize(communicator)), ncclSuccess);
  EXPECT_EQ(ncclCommDestroy(communicator), ncclSuccess);
}

template <typename Element>
constexpr ncclDataType_t kDtype = ncclNumTypes;
template <>
constexpr ncclDataType_t kDtype<std::int8_t> = ncclInt8;
template <>
constexpr ncclDataType_t kDtype<std::uint8_t> = ncclUint8;
template <>
constexpr ncclDataType_t kDtype<std::int32_t> = ncclInt32;
template <>
constexpr ncclDataType_t kDtype<std::uint32_t> = ncclUint32;
template <>
constexpr ncclDataType_t kDtype<std::int64_t> = ncclInt64;
template <>
constexpr ncclDataType_t kDtype<std::uint64_t> = ncclUint64;
template <>
constexpr ncclDataType_t kDtype<float> = ncclFloat32;
template <>
constexpr ncclDataType_t kDtype<double> = ncclFloat64;

/// Each rank's small whole number, whose sums and products are exact.
int number_of(int rank, std::size_t i) { return static_cast<int>((i + 1) % 5) + rank; }

long double expected(ncclRedOp_t op, int ranks, std::size_t i) {
  long double result = number_of(0, i);
  for (int rank = 1; rank < ranks; ++rank) {
    const long double value = number_of(rank, i);
    if (op == ncclProd) {
      result *= value;
    } else if (op == ncclMin) {
      result = std::min(result, value);
    } else if (op == ncclMax) {
      result = std::max(result, value);
    } else {
      result += value;
    }
  }
  return op == ncclAvg ? result / ranks : result;
}

template <typename Element>
void all_reduce_of_ranks(int ranks) {
  constexpr std::size_t kCount = 37;
  const ncclUniqueId id = new_id();
  as_ranks(ranks, [&](int rank) {
    const ncclComm_t communicator = join(rank, ranks, id);
    const cudaStream_t stream = new_stream();
    for (const ncclRedOp_t op : {ncclSum, ncclProd, ncclMin, ncclMax, ncclAvg}) {
      // In place for one half of the ops.
      const std::span<Element> send = device_memory<Element>(kCount);
      const std::span<Element> receive = op < ncclMax ? device_memory<Element>(kCount) : send;
      for (std::size_t i = 0; i < kCount; ++i) send[i] = static_cast<Element>(number_of(rank, i));
      const ncclResult_t result = ncclAllReduce(send.data(), receive.data(), kCount,
                                                kDtype<Element>, op, communicator, stream);
      ASSERT_EQ(launched(communicator, result), ncclSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      for (std::size_t i = 0; i < kCount; ++i) {
        const long double value = expected(op, ranks, i);
        if constexpr (std::is_floating_point_v<Element>) {
          const auto difference = static_cast<double>(value - static_cast<long double>(receive[i]));
          ASSERT_LE(std::fabs(difference), op == ncclAvg ? 2e-6 : 0) << op << ", element " << i;
        } else {
          const auto wrapped = static_cast<Element>(static_cast<std::int64_t>(value));
          ASSERT_EQ(receive[i], wrapped) << op << ", element " << i;
        }
      }
    }
    end(communicator);
  });
}

TEST_F(Nccl, AllReducesOfAllOpsAndDtypes) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    all_reduce_of_ranks<std::int8_t>(ranks);
    all_reduce_of_ranks<std::uint8_t>(ranks);
    all_reduce_of_ranks<std::int32_t>(ranks);
    all_reduce_of_ranks<std::uint32_t>(ranks);
    all_reduce_of_ranks<std::int64_t>(ranks);
    all_reduce_of_ranks<std::uint64_t>(ranks);
    all_reduce_of_ranks<float>(ranks);
    all_reduce_of_ranks<double>(ranks);
  }
  EXPECT_EQ(live().communicators, 0);
  expect_no_misuses();
}

template <typename Format>
void all_reduce_of_halves(ncclDataType_t dtype) {
  constexpr int kRanks = 3;
  constexpr std::size_t kCount = 500;
  const auto bits_of = [](int rank, std::size_t i) {
    const auto value = std::sin(static_cast<double>(i * 3 + static_cast<std::size_t>(rank)));
    return core::oracle::encode<Format>(value);
  };
  const ncclUniqueId id = new_id();
  as_ranks(kRanks, [&](int rank) {
    const ncclComm_t communicator = join(rank, kRanks, id);
    const cudaStream_t stream = new_stream();
    const std::span<std::uint16_t> values = device_memory<std::uint16_t>(kCount);
    for (std::size_t i = 0; i < kCount; ++i) values[i] = bits_of(rank, i);
    const ncclResult_t result =
        ncclAllReduce(values.data(), values.data(), kCount, dtype, ncclSum, communicator, stream);
    ASSERT_EQ(launched(communicator, result), ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    for (std::size_t i = 0; i < kCount; ++i) {
      float sum = 0;
      for (int other = 0; other < kRanks; ++other) {
        sum += static_cast<float>(core::oracle::decode<Format>(bits_of(other, i)));
      }
      ASSERT_EQ(values[i], core::oracle::encode<Format>(sum)) << i;
    }
  });
}

TEST_F(Nccl, HalvesAreRoundedOnce) {
  all_reduce_of_halves<core::oracle::Float16Format>(ncclFloat16);
  all_reduce_of_halves<core::oracle::BFloat16Format>(ncclBfloat16);
  expect_no_misuses();
}

TEST_F(Nccl, PremultipliedSums) {
  const ncclUniqueId id = new_id();
  as_ranks(2, [&](int rank) {
    const ncclComm_t communicator = join(rank, 2, id);
    const cudaStream_t stream = new_stream();
    const std::span<float> values = device_memory<float>(4);
    std::ranges::fill(values, static_cast<float>(rank + 1));
    float scalar = 0.25F;
    ncclRedOp_t op = ncclSum;
    ASSERT_EQ(
        ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat32, ncclScalarHostImmediate, communicator),
        ncclSuccess);
    scalar = 0;
    EXPECT_EQ(ncclAllReduce(values.data(), values.data(), 4, ncclFloat64, op, communicator, stream),
              ncclInvalidArgument);
    const ncclResult_t result =
        ncclAllReduce(values.data(), values.data(), 4, ncclFloat32, op, communicator, stream);
    EXPECT_EQ(ncclRedOpDestroy(op, communicator), result == ncclInProgress ? ncclSuccess : result);
    ASSERT_EQ(launched(communicator, result), ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_THAT(values, Each(0.75F));
  });
  EXPECT_EQ(live().reduction_operators, 0);
}

TEST_F(Nccl, BroadcastGatherAndScatter) {
  constexpr int kRanks = 3;
  const ncclUniqueId id = new_id();
  as_ranks(kRanks, [&](int rank) {
    const ncclComm_t communicator = join(rank, kRanks, id);
    const cudaStream_t stream = new_stream();
    const auto own = static_cast<std::size_t>(rank);
    const std::span<int> word = device_memory<int>(2);
    const std::span<int> gathered = device_memory<int>(2 * kRanks);
    const std::span<int> scattered = device_memory<int>(2);
    word[0] = 10 * rank;
    word[1] = 10 * rank + 1;
    gathered[2 * own] = word[0];
    gathered[2 * own + 1] = word[1];
    const auto run = [&](ncclResult_t result) {
      ASSERT_EQ(launched(communicator, result), ncclSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    };
    run(ncclAllGather(&gathered[2 * own], gathered.data(), 2, ncclInt32, communicator, stream));
    EXPECT_THAT(gathered, ElementsAreArray({0, 1, 10, 11, 20, 21}));
    run(ncclReduceScatter(gathered.data(), scattered.data(), 2, ncclInt32, ncclSum, communicator,
                          stream));
    EXPECT_THAT(scattered, ElementsAreArray({3 * 10 * rank, 3 * (10 * rank + 1)}));
    run(ncclReduce(gathered.data(), rank == 1 ? scattered.data() : nullptr, 2, ncclInt32, ncclMax,
                   1, communicator, stream));
    EXPECT_THAT(scattered, ElementsAreArray(rank == 1 ? std::array{0, 1}
                                                      : std::array{30 * rank, 30 * rank + 3}));
    run(ncclBroadcast(rank == 2 ? word.data() : nullptr, word.data(), 2, ncclInt32, 2, communicator,
                      stream));
    EXPECT_THAT(word, ElementsAreArray({20, 21}));
  });
  expect_no_misuses();
}

/// Parts of different lengths, rank r's of r + 1 elements, two ways.
void ragged_all_gather(bool by_broadcasts) {
  constexpr int kRanks = 4;
  constexpr std::size_t kTotal = 10;
  const auto begin_of = [](int rank) { return static_cast<std::size_t>(rank * (rank + 1) / 2); };
  const ncclUniqueId id = new_id();
  as_ranks(kRanks, [&](int rank) {
    const ncclComm_t communicator = join(rank, kRanks, id);
    const cudaStream_t stream = new_stream();
    const auto length = [](int of) { return static_cast<std::size_t>(of + 1); };
    const std::span<int> own = device_memory<int>(length(rank));
    const std::span<int> all = device_memory<int>(kTotal);
    std::ranges::fill(own, rank);
    ASSERT_EQ(ncclGroupStart(), ncclSuccess);
    for (int peer = 0; peer < kRanks; ++peer) {
      int* const place = all.data() + begin_of(peer);
      if (by_broadcasts) {
        ASSERT_EQ(
            ncclBroadcast(own.data(), place, length(peer), ncclInt32, peer, communicator, stream),
            ncclSuccess);
      } else {
        ASSERT_EQ(ncclSend(own.data(), length(rank), ncclInt32, peer, communicator, stream),
                  ncclSuccess);
        ASSERT_EQ(ncclRecv(place, length(peer), ncclInt32, peer, communicator, stream),
                  ncclSuccess);
      }
    }
    ASSERT_EQ(launched(communicator, ncclGroupEnd()), ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_THAT(all, ElementsAreArray({0, 1, 1, 2, 2, 2, 3, 3, 3, 3}));
    end(communicator);
  });
  expect_no_misuses();
}

TEST_F(Nccl, RaggedAllGatherBySends) { ragged_all_gather(false); }
TEST_F(Nccl, RaggedAllGatherByBroadcasts) { ragged_all_gather(true); }

TEST_F(Nccl, OneThreadMayBeAllRanks) {
  const ncclUniqueId id = new_id();
  ncclComm_t communicators[2];
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(cudaSetDevice(rank), cudaSuccess);
    ASSERT_EQ(ncclCommInitRankConfig(&communicators[rank], 2, id, rank, nullptr), ncclSuccess);
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);  // they block
  std::span<int> values[2];
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(cudaSetDevice(rank), cudaSuccess);
    values[rank] = device_memory<int>(1);
    values[rank][0] = rank + 1;
    ASSERT_EQ(ncclAllReduce(values[rank].data(), values[rank].data(), 1, ncclInt32, ncclSum,
                            communicators[rank], nullptr),
              ncclSuccess);
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(values[0][0], 3);
}

}  // namespace
}  // namespace kolo::doubles

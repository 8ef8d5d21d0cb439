// The NCCL data plane on doubles of CUDA and NCCL: values.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gpu_hosts.h"
#include "gpu_ranks.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using gpus::UserStream;
using oracle::Bytes;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostInFlight = 8;
constexpr std::int64_t kLarge = 10'000;
/// Of which the times are asked for.
constexpr ChannelId kTimedChannel = 5;
constexpr std::uint64_t kFirstSequence = 3;

/// Where an all-reduce reads and writes.
enum class Form { InPlace, OutOfPlace, Packed };

/// One rank's part in a collective: its memory, and what the program does before and after it.
class Part {
 public:
  Part(Collective collective, std::uint64_t seed)
      : collective_(std::move(collective)),
        seed_(seed),
        inputs_(gpus::inputs_of(collective_, seed)) {
    if (collective_.kind == CollectiveKind::Allreduce) form_ = static_cast<Form>(seed_ % 3);
  }

  void start(Rank& rank, UserStream& producer) {
    const Bytes& own = inputs_[static_cast<std::size_t>(collective_.member)];
    result_.resize(static_cast<std::size_t>(collective_.count) * element());
    output_ = store(rank, result_.size());
    collective_.output = output_.get();
    if (form_ == Form::Packed) {
      pack(rank, producer, own);
    } else {
      const bool apart = form_ == Form::OutOfPlace || collective_.kind == CollectiveKind::Allgather;
      input_ = apart ? store(rank, own.size()) : output_;
      producer.write(input_.get(), own);
      collective_.input = input_.get();
    }
    collective_.ready.push_back(producer.now());
    started_ = Clock::now();
    StartedOperation operation = rank.plane.start(collective_);
    ASSERT_TRUE(operation.ok()) << operation.status().message();
    operation_ = std::move(operation).value();
  }

  /// Whether anything has happened.
  bool progress(UserStream& consumer) {
    const Result<Operation::Progress> progress = operation_->progress();
    EXPECT_TRUE(progress.ok()) << progress.status().message();
    done_ = !progress.ok() || progress.value() == Operation::Progress::Done;
    if (!read_ && progress.ok() && operation_->issued() != nullptr) read(consumer);
    return done_ || progress.value() == Operation::Progress::Moved;
  }

  bool done() const { return done_; }

  /// Whether the GPU has done everything, also what the program has asked it for afterwards.
  bool over() const { return done_ && (read_ == nullptr || read_->reached().value()); }

  void check(Clock::time_point began) const {
    EXPECT_EQ(gpus::find_error(collective_, inputs_, result_), "")
        << "number " << collective_.sequence << " of channel " << collective_.channel << ", form "
        << static_cast<int>(form_);
    const std::optional<DeviceTimes> times = operation_->device_times();
    ASSERT_EQ(times.has_value(), collective_.timed);
    if (!times) return;
    // The GPU's clock is read late rather than early, by no more than the test has taken.
    const Clock::time_point now = Clock::now();
    constexpr auto kRounding = std::chrono::milliseconds(1);
    EXPECT_GE(times->started + kRounding, started_);
    EXPECT_LE(times->started, times->packed);
    EXPECT_LE(times->packed, times->reduced);
    EXPECT_LE(times->reduced, times->unpacked);
    EXPECT_LE(times->unpacked, now + (now - began));
  }

 private:
  std::size_t element() const { return size_of(collective_.dtype); }

  /// Memory of the plane, or of the program, not always at the beginning.
  std::shared_ptr<std::byte> store(Rank& rank, std::size_t bytes) {
    const std::size_t before = seed_ % 3 * element();
    const bool in_plane = (seed_++ * 7 + static_cast<unsigned>(rank.rank)) % 3 != 0;
    const auto memory = in_plane ? rank.plane.allocate(DeviceType::Cuda, bytes + before)
                                 : gpus::cuda_memory(rank.device, bytes + before);
    return {memory, memory.get() + before};
  }

  /// Into three places, of which the first one may be empty.
  void pack(Rank& rank, UserStream& producer, const Bytes& own) {
    collective_.input = collective_.output;
    std::int64_t begin = 0;
    for (const std::int64_t share : {3, 2, 1}) {
      const std::int64_t count = (collective_.count - begin) / share;
      const auto offset = begin * static_cast<std::ptrdiff_t>(element());
      const auto bytes = count * static_cast<std::ptrdiff_t>(element());
      pieces_.push_back(store(rank, static_cast<std::size_t>(bytes)));
      producer.write(pieces_.back().get(), {own.begin() + offset, own.begin() + offset + bytes});
      std::byte* const place = output_.get() + offset;
      collective_.pack.push_back({pieces_.back().get(), place, count});
      collective_.unpack.push_back({place, pieces_.back().get(), count});
      begin += count;
    }
  }

  void read(UserStream& consumer) {
    consumer.wait_for(*operation_->issued());
    if (form_ == Form::Packed) {
      std::span<std::byte> rest(result_);
      for (const DeviceCopy& copy : collective_.unpack) {
        const std::size_t bytes = static_cast<std::size_t>(copy.count) * element();
        consumer.read(copy.to, rest.first(bytes));
        rest = rest.subspan(bytes);
      }
    } else {
      consumer.read(output_.get(), result_);
    }
    read_ = consumer.now();
  }

  Collective collective_;
  std::uint64_t seed_;
  std::vector<Bytes> inputs_;
  Form form_ = Form::InPlace;
  std::shared_ptr<std::byte> input_, output_;
  std::vector<std::shared_ptr<std::byte>> pieces_;
  Bytes result_;
  std::unique_ptr<Operation> operation_;
  bool done_ = false;
  std::shared_ptr<DeviceEvent> read_;
  Clock::time_point started_;
};

Collective collective(CollectiveKind kind, DataType dtype, std::int64_t count) {
  Collective c;
  c.kind = kind;
  c.dtype = dtype;
  c.count = count;
  c.device = DeviceType::Cuda;
  return c;
}

/// Of large vectors only one of each kind.
std::vector<Collective> allreduces(DataType dtype, std::int64_t count) {
  std::vector<Collective> all;
  // Int16 is refused before it comes to a plane.
  if (dtype == DataType::Int16) return all;
  for (int op = 0; op < (count < kLarge ? kReduceOpCount : 1); ++op) {
    Collective c = collective(CollectiveKind::Allreduce, dtype, count);
    c.op = static_cast<ReduceOp>(op);
    if (dtype == DataType::Bool && c.op == ReduceOp::Average) continue;
    all.push_back(c);
    if (!is_floating(dtype)) continue;
    c.prescale = 0.3;
    c.postscale = 1.7;
    all.push_back(c);
    // Where float16 has few bits left. A product would have overflowed before.
    if (c.op == ReduceOp::Product) continue;
    c.prescale = 1.0;
    c.postscale = 1.0 / 65536;
    all.push_back(c);
  }
  return all;
}

std::vector<Collective> collectives(DataType dtype, std::int64_t count, int members) {
  std::vector<Collective> all = allreduces(dtype, count);
  for (int root = count < kLarge ? 0 : members - 1; root < members; ++root) {
    Collective c = collective(CollectiveKind::Broadcast, dtype, count);
    c.root_member = root;
    all.push_back(c);
  }
  // The first member gives much, nothing, or as much as all.
  for (const std::int64_t first : {2 * count, std::int64_t{0}, count}) {
    Collective c = collective(CollectiveKind::Allgather, dtype, 0);
    for (int m = 0; m < members; ++m) {
      c.counts.push_back(m == 0 ? first : first == count ? count : count / (m + 1));
    }
    c.count = std::accumulate(c.counts.begin(), c.counts.end(), std::int64_t{0});
    all.push_back(c);
    if (count >= kLarge) break;
  }
  return all;
}

/// Channels 0 and 5 have all ranks, 3 every other.
std::map<ChannelId, std::vector<int>> channels(int size) {
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  std::map<ChannelId, std::vector<int>> channels = {{kWorldChannel, all}, {kTimedChannel, all}};
  for (int rank = 0; rank < size; rank += 2) channels[3].push_back(rank);
  return channels;
}

using Queue = std::deque<std::unique_ptr<Part>>;

std::map<ChannelId, Queue> parts(const Rank& rank, DataType dtype,
                                 const std::vector<std::int64_t>& counts) {
  std::map<ChannelId, Queue> parts;
  for (const auto& [channel, ranks] : channels(rank.size)) {
    const auto own = std::ranges::find(ranks, rank.rank);
    if (own == ranks.end()) continue;
    std::uint64_t sequence = kFirstSequence;
    for (const std::int64_t count : counts) {
      if (count >= kLarge && channel != kWorldChannel) continue;
      for (Collective& c : collectives(dtype, count, static_cast<int>(ranks.size()))) {
        c.ranks = ranks;
        c.member = static_cast<int>(own - ranks.begin());
        c.channel = channel;
        c.sequence = sequence++;
        c.timed = channel == kTimedChannel;
        parts[channel].push_back(std::make_unique<Part>(std::move(c), channel * 1000 + sequence));
      }
    }
  }
  return parts;
}

/// What one rank has in flight.
class Flights {
 public:
  explicit Flights(Rank& rank)
      : rank_(rank), random_(static_cast<unsigned>(rank.rank) + 1), producer_(rank.device) {}

  void run(std::map<ChannelId, Queue> waiting) {
    const auto none = [](const auto& entry) { return entry.second.empty(); };
    while (!flights_.empty() || !std::ranges::all_of(waiting, none)) {
      const bool started = start_any(waiting);
      if (::testing::Test::HasFatalFailure()) return;
      if (!progress_all() && !started) rank_.idle();
    }
  }

 private:
  struct Flight {
    ChannelId channel;
    std::unique_ptr<Part> part;
    bool done = false;
  };

  bool start_any(std::map<ChannelId, Queue>& waiting) {
    std::vector<ChannelId> ready;
    for (const auto& [channel, queue] : waiting) {
      const auto in_flight = std::ranges::count(flights_, channel, &Flight::channel);
      if (!queue.empty() && static_cast<std::size_t>(in_flight) < kMostInFlight) {
        ready.push_back(channel);
      }
    }
    if (ready.empty()) return false;
    const ChannelId channel = ready[random_() % ready.size()];
    Flight flight{channel, std::move(waiting[channel].front())};
    waiting[channel].pop_front();
    flight.part->start(rank_, producer_);
    flights_.push_back(std::move(flight));
    return true;
  }

  /// Each in turn, in random order; those that are over are freed while others go on.
  bool progress_all() {
    bool moved = false;
    std::ranges::shuffle(flights_, random_);
    for (Flight& flight : flights_) {
      if (!flight.part->done()) moved = flight.part->progress(consumer_of(flight.channel)) || moved;
    }
    const auto left = std::erase_if(flights_, [this](const Flight& flight) {
      if (!flight.part->over()) return false;
      flight.part->check(began_);
      return true;
    });
    return moved || left > 0;
  }

  /// Where one stream waited for several channels in an order of its own, ranks would wait for each
  /// other.
  UserStream& consumer_of(ChannelId channel) {
    return consumers_.try_emplace(channel, rank_.device).first->second;
  }

  Rank& rank_;
  std::mt19937 random_;
  UserStream producer_;
  std::map<ChannelId, UserStream> consumers_;
  std::vector<Flight> flights_;
  const Clock::time_point began_ = Clock::now();
};

class NcclPlanesTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, NcclPlanesTest, ::testing::Values(1, 2, 3, 4),
                         ::testing::PrintToStringParamName());

TEST_P(NcclPlanesTest, Collectives) {
  for (int d = 0; d < kDataTypeCount; ++d) {
    const auto dtype = static_cast<DataType>(d);
    gpus::Options options;
    options.doubles.seed = static_cast<std::uint64_t>(d) + 1;
    options.doubles.longest_delay = std::chrono::microseconds(50);
    gpus::run(
        GetParam(),
        [&](Rank& rank) {
          Flights(rank).run(parts(rank, dtype, {0, 1, 3, 1023, 20'000}));
        },
        options);
    EXPECT_EQ(doubles::calls("cudaStreamSynchronize"), 0);
    // Only to compare clocks, once for each rank, where times are asked for.
    EXPECT_EQ(doubles::calls("cudaEventSynchronize"), GetParam());
  }
}

// ---- between hosts by another plane ----

using Layout = std::vector<int>;

class GpuHostsTest : public ::testing::TestWithParam<Layout> {};
// In the order of hosts, one by one, and neither; hosts with as many ranks, and not.
INSTANTIATE_TEST_SUITE_P(Layouts, GpuHostsTest,
                         ::testing::Values(Layout{0, 0, 2, 2}, Layout{0, 1}, Layout{0, 1, 2},
                                           Layout{0, 1, 1, 3}, Layout{0, 0, 0, 3},
                                           Layout{0, 1, 0, 1}, Layout{0, 0, 2, 2, 4, 4}),
                         [](const auto& test) { return fmt::format("{}", fmt::join(test.param, "")); });

void run_between_hosts(const Layout& layout, DataType dtype, std::int64_t chunk_bytes,
                       const std::vector<std::int64_t>& counts) {
  gpus::GpuHosts hosts(layout, {.chunk_bytes = chunk_bytes});
  gpus::Options options;
  options.doubles.seed = static_cast<std::uint64_t>(dtype) + 1;
  options.doubles.longest_delay = std::chrono::microseconds(50);
  options.doubles.devices = hosts.size();
  options.wrap_plane = [&](int rank, const std::shared_ptr<DataPlane>& nccl) {
    return hosts.connect(rank, nccl);
  };
  gpus::run(
      hosts.size(), [&](Rank& rank) { Flights(rank).run(parts(rank, dtype, counts)); }, options);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
}

TEST_P(GpuHostsTest, Collectives) {
  for (const DataType dtype : {DataType::Int16, DataType::Int32, DataType::Bool, DataType::Float16,
                               DataType::Float64}) {
    run_between_hosts(GetParam(), dtype, 1 << 20, {0, 1, 3, 1023});
  }
}

TEST_P(GpuHostsTest, ManyChunks) {
  for (const DataType dtype : {DataType::Int8, DataType::BFloat16, DataType::Float32}) {
    run_between_hosts(GetParam(), dtype, 1000, {0, 1, 1023, 10'000});
  }
}

TEST(NcclPlane, GivesMemoryOfItsGpuOnly) {
  std::shared_ptr<std::byte> outlives;
  gpus::Options options;
  options.prepare = [] { doubles::fail("ncclMemAlloc", 1, ncclUnhandledCudaError); };
  gpus::run(
      1,
      [&](Rank& rank) {
        EXPECT_EQ(rank.plane.allocate(DeviceType::Cpu, 8), nullptr);
        const auto first = rank.plane.allocate(DeviceType::Cuda, 0);
        EXPECT_NE(first, nullptr);
        EXPECT_EQ(rank.plane.allocate(DeviceType::Cuda, 8), nullptr);
        EXPECT_TRUE(rank.plane.rings());
      },
      options);
}

/// Who lets go of memory may be another thread, and later than the plane.
TEST(NcclPlane, ItsMemoryMayOutliveIt) {
  std::shared_ptr<std::byte> memory;
  doubles::reset();
  {
    NcclDataPlane plane(nullptr, {.device = 1});
    memory = plane.allocate(DeviceType::Cuda, 100);
  }
  EXPECT_EQ(doubles::live().allocations, 1);
  std::jthread([&] { memory.reset(); }).join();
  EXPECT_EQ(doubles::live(), doubles::Live());
  EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
}

/// An all-reduce on the rank's memory.
std::unique_ptr<Operation> start(Rank& rank, std::byte* memory, std::uint64_t sequence,
                                 ChannelId channel = kWorldChannel) {
  Collective c = collective(CollectiveKind::Allreduce, DataType::Float32, 4);
  for (int member = 0; member < rank.size; ++member) c.ranks.push_back(member);
  c.member = rank.rank;
  c.channel = channel;
  c.sequence = sequence;
  c.input = c.output = memory;
  StartedOperation started = rank.plane.start(c);
  EXPECT_TRUE(started.ok()) << started.status().message();
  return std::move(started).value();
}

void finish(const Rank& rank, Operation& operation) {
  while (true) {
    const auto progress = operation.progress();
    ASSERT_TRUE(progress.ok()) << progress.status().message();
    if (progress.value() == Operation::Progress::Done) return;
    rank.idle();
  }
}

void reduce(Rank& rank, std::byte* memory, std::uint64_t sequence,
            ChannelId channel = kWorldChannel) {
  finish(rank, *start(rank, memory, sequence, channel));
}

TEST(NcclPlane, RegistersItsMemoryOnce) {
  gpus::run(2, [](Rank& rank) {
    const auto memory = rank.plane.allocate(DeviceType::Cuda, 64);
    const auto foreign = gpus::cuda_memory(rank.device, 64);
    for (std::uint64_t i = 0; i < 5; ++i) reduce(rank, memory.get() + 16 * (i % 3), i);
    reduce(rank, foreign.get(), 5);
    EXPECT_EQ(doubles::calls("ncclCommRegister", rank.device), 1);
  });
  EXPECT_EQ(doubles::calls("ncclCommDeregister"), 0);
}

// While NCCL still has a call to complete, too.
TEST(NcclPlane, ForgetsMemoryThatAnotherThreadFrees) {
  gpus::run(2, [](Rank& rank) {
    constexpr int kRounds = 30;
    std::uint64_t sequence = 0;
    const auto steady = rank.plane.allocate(DeviceType::Cuda, 64);
    for (int i = 0; i < kRounds; ++i) {
      auto memory = rank.plane.allocate(DeviceType::Cuda, 64);
      reduce(rank, memory.get(), sequence++);
      const auto first = start(rank, steady.get(), sequence++);
      std::jthread([freed = std::move(memory)]() mutable { freed.reset(); }).join();
      const auto second = start(rank, steady.get() + 16, sequence++);
      finish(rank, *first);
      finish(rank, *second);
    }
    reduce(rank, steady.get(), sequence++);
    EXPECT_EQ(doubles::calls("ncclCommRegister", rank.device), kRounds + 1);
    EXPECT_EQ(doubles::calls("ncclCommDeregister", rank.device), kRounds);
    EXPECT_EQ(doubles::calls("ncclMemFree", rank.device), kRounds);
  });
}

// Each waits for the others: one after the other they would be aborted in the end.
TEST(NcclPlane, EndsItsCommunicatorsAtTheSameTime) {
  constexpr int kRanks = 2;
  constexpr int kChannels = 5;
  gpus::Options options;
  options.doubles.finalized_together = kRanks * kChannels;
  gpus::run(
      kRanks,
      [](Rank& rank) {
        const auto memory = rank.plane.allocate(DeviceType::Cuda, 64);
        for (ChannelId channel = 0; channel < kChannels; ++channel) {
          reduce(rank, memory.get(), 0, channel);
        }
      },
      options);
  EXPECT_EQ(doubles::calls("ncclCommFinalize"), kRanks * kChannels);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
}

// Others go on while NCCL is not through with it, and what it knows is kept.
TEST(NcclPlane, EndsAChannelInTheBackground) {
  gpus::Options options;
  options.doubles.finalized_together = 4;
  gpus::run(
      2,
      [](Rank& rank) {
        auto memory = rank.plane.allocate(DeviceType::Cuda, 64);
        const auto steady = rank.plane.allocate(DeviceType::Cuda, 64);
        reduce(rank, memory.get(), 0, 1);
        memory.reset();
        rank.plane.end_channel(1);
        rank.plane.end_channel(7);
        for (std::uint64_t i = 0; i < 5; ++i) reduce(rank, steady.get(), i, 2);
        EXPECT_EQ(doubles::calls("ncclMemFree", rank.device), 0);
      },
      options);
  EXPECT_EQ(doubles::calls("ncclCommDestroy"), 4);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
}

TEST(NcclPlane, NothingIsLeftOfAChannelThatHasEnded) {
  std::barrier<> meeting(2);
  std::atomic<bool> gone = false;
  gpus::run(2, [&](Rank& rank) {
    const auto memory = rank.plane.allocate(DeviceType::Cuda, 64);
    // Its number may come again.
    for (int round = 0; round < 3; ++round) {
      auto known = rank.plane.allocate(DeviceType::Cuda, 64);
      reduce(rank, known.get(), 0, 1);
      known.reset();
      rank.plane.end_channel(1);
    }
    for (std::uint64_t i = 0; !gone; ++i) {
      reduce(rank, memory.get(), i);
      meeting.arrive_and_wait();
      // Its memory goes when its communicator has.
      if (rank.rank == 0) gone = doubles::calls("ncclMemFree") == 6;
      meeting.arrive_and_wait();
    }
  });
}

TEST(DeviceGuard, TakesNothingFromGpusThatThisProcessDoesNotUse) {
  doubles::reset();
  const auto current_after_guard = [] {
    { const cuda::DeviceGuard guard(2); }
    int device = 0;
    EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
    return device;
  };
  std::thread([&] {
    EXPECT_EQ(current_after_guard(), 2);
    EXPECT_EQ(doubles::calls("cudaSetDevice"), 1);
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    EXPECT_EQ(current_after_guard(), 1);
  }).join();
}

}  // namespace
}  // namespace kolo::core

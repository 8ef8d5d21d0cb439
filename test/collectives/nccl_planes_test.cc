// The NCCL data plane on doubles of CUDA and NCCL: values.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "flights.h"
#include "gpu_hosts.h"
#include "gpu_ranks.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using gpus::UserStream;
using oracle::Bytes;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostInFlight = 8;
/// Of which the times are asked for.
constexpr ChannelId kTimedChannel = 5;
constexpr std::uint64_t kFirstSequence = 3;

/// Where an all-reduce reads and writes.
enum class Form { InPlace, OutOfPlace, Packed };

/// What a program has on one rank.
struct Program {
  Rank& rank;
  UserStream producer{rank.device};
  /// Where one stream waited for several channels in an order of its own, ranks would wait for each
  /// other.
  std::map<ChannelId, UserStream> consumers = {};
  Clock::time_point began = Clock::now();

  UserStream& consumer_of(ChannelId channel) {
    return consumers.try_emplace(channel, rank.device).first->second;
  }
};

/// One rank's part in a collective: its memory, and what the program does before and after it.
class Part {
 public:
  Part(Program& program, jobs::Job job, int member)
      : program_(program),
        seed_(job.seed),
        inputs_(gpus::inputs_of(job)),
        shares_(jobs::shares_for(job, member, inputs_)),
        collective_(jobs::part_of(job, member)) {
    collective_.device = DeviceType::Cuda;
    if (collective_.kind == CollectiveKind::Allreduce) form_ = static_cast<Form>(seed_ % 3);
    if (has_counts()) form_ = Form::OutOfPlace;
  }

  void start() {
    const Bytes& own = inputs_[static_cast<std::size_t>(collective_.member)];
    result_.resize(static_cast<std::size_t>(output_count(collective_)) * element());
    output_ = store(result_.size());
    collective_.output = output_.get();
    if (form_ == Form::Packed) {
      pack(own);
    } else {
      input_ = form_ == Form::OutOfPlace ? store(own.size()) : output_;
      program_.producer.write(input_.get(), own);
      collective_.input = input_.get();
    }
    if (collective_.kind == CollectiveKind::Reducescatter && collective_.op == ReduceOp::Product &&
        collective_.prescale != 1) {
      scratch_ = store(own.size());
      collective_.scratch = scratch_.get();
    }
    collective_.ready.push_back(program_.producer.now());
    started_ = Clock::now();
    StartedOperation operation = program_.rank.plane.start(collective_);
    ASSERT_TRUE(operation.ok()) << operation.status().message();
    operation_ = std::move(operation).value();
  }

  bool progress() {
    if (done_) return false;
    const Result<Operation::Progress> progress = operation_->progress();
    EXPECT_TRUE(progress.ok()) << progress.status().message();
    done_ = !progress.ok() || progress.value() == Operation::Progress::Done;
    if (!read_ && progress.ok() && operation_->issued() != nullptr) {
      read(program_.consumer_of(collective_.channel));
    }
    return done_ || progress.value() == Operation::Progress::Moved;
  }

  /// Whether the GPU has done everything, also what the program has asked it for afterwards.
  bool over() const { return done_ && (read_ == nullptr || read_->reached().value()); }

  void check() const {
    EXPECT_EQ(gpus::find_error(collective_, shares_, result_), "")
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
    EXPECT_LE(times->unpacked, now + (now - program_.began));
  }

 private:
  std::size_t element() const { return size_of(collective_.dtype); }
  bool has_counts() const { return !collective_.counts.empty(); }

  /// Memory of the plane, or of the program, not always at the beginning.
  std::shared_ptr<std::byte> store(std::size_t bytes) {
    const Rank& rank = program_.rank;
    const std::size_t before = seed_ % 3 * element();
    const bool in_plane = (seed_++ * 7 + static_cast<unsigned>(rank.rank)) % 3 != 0;
    const auto memory = in_plane ? rank.plane.allocate(DeviceType::Cuda, bytes + before).value()
                                 : gpus::cuda_memory(rank.device, bytes + before);
    return {memory, memory.get() + before};
  }

  /// Into three places, of which the first one may be empty.
  void pack(const Bytes& own) {
    collective_.input = collective_.output;
    std::int64_t begin = 0;
    for (const std::int64_t share : {3, 2, 1}) {
      const std::int64_t count = (collective_.count - begin) / share;
      const auto offset = begin * static_cast<std::ptrdiff_t>(element());
      const auto bytes = count * static_cast<std::ptrdiff_t>(element());
      pieces_.push_back(store(static_cast<std::size_t>(bytes)));
      program_.producer.write(pieces_.back().get(),
                              {own.begin() + offset, own.begin() + offset + bytes});
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

  Program& program_;
  std::uint64_t seed_;
  const std::vector<Bytes> inputs_;
  const std::vector<Bytes> shares_;
  Collective collective_;
  Form form_ = Form::InPlace;
  std::shared_ptr<std::byte> input_, output_, scratch_;
  std::vector<std::shared_ptr<std::byte>> pieces_;
  Bytes result_;
  std::unique_ptr<Operation> operation_;
  bool done_ = false;
  std::shared_ptr<DeviceEvent> read_;
  Clock::time_point started_;
};

std::vector<Collective> allreduces(DataType dtype, std::int64_t count) {
  // Int16 is refused before it comes to a plane.
  if (dtype == DataType::Int16) return {};
  std::vector<Collective> all = jobs::allreduces(dtype, count);
  if (!is_floating(dtype)) return all;
  const std::vector<Collective> unscaled = all;
  for (Collective c : unscaled) {
    if (c.prescale != 1) continue;
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

/// Channels 0 and 5 have all ranks, 3 every other.
std::map<ChannelId, std::vector<int>> channels(int size) {
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  std::map<ChannelId, std::vector<int>> channels = {{kWorldChannel, all}, {kTimedChannel, all}};
  for (int rank = 0; rank < size; rank += 2) channels[3].push_back(rank);
  return channels;
}

using Queue = Flights<Part>::Queue;

std::map<ChannelId, Queue> parts(Program& program, DataType dtype,
                                 const std::vector<std::int64_t>& counts) {
  std::map<ChannelId, Queue> parts;
  for (const auto& [channel, ranks] : channels(program.rank.size)) {
    const auto own = std::ranges::find(ranks, program.rank.rank);
    if (own == ranks.end()) continue;
    std::uint64_t sequence = kFirstSequence;
    for (const std::int64_t count : counts) {
      if (count >= jobs::kLarge && channel != kWorldChannel) continue;
      for (jobs::Job& job : jobs::all_kinds(allreduces(dtype, count), dtype, count,
                                            static_cast<int>(ranks.size()))) {
        job.collective.ranks = ranks;
        job.collective.channel = channel;
        job.collective.sequence = sequence++;
        job.collective.timed = channel == kTimedChannel;
        job.seed = channel * 1000 + sequence;
        parts[channel].push_back(
            std::make_unique<Part>(program, std::move(job), static_cast<int>(own - ranks.begin())));
      }
    }
  }
  return parts;
}

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
          Program program{rank};
          Flights<Part>(rank.rank, kMostInFlight, [&] {
            rank.idle();
          }).run(parts(program, dtype, {0, 1, 3, 1023, 20'000}));
        },
        options);
    EXPECT_EQ(doubles::calls("cudaStreamSynchronize"), 0);
    // Only to compare clocks, once for each rank, where times are asked for.
    EXPECT_EQ(doubles::calls("cudaEventSynchronize"), GetParam());
  }
}

// Factors come before or after the sum as no partial sum overflows, nor the largest number.
TEST(NcclPlanesTest, FactorsOfHalvesWhoseSumWouldOverflow) {
  struct Case {
    ReduceOp op;
    double prescale, postscale;
  };
  gpus::run(4, [](Rank& rank) {
    UserStream stream(rank.device);
    std::vector<Bytes> inputs;
    for (const int value : {60'000, -50'000, 40'000, 64'000}) {
      inputs.push_back(oracle::filled(DataType::Float16, 10, value));
    }
    const auto memory = rank.plane.allocate(DeviceType::Cuda, inputs.front().size()).value();
    Bytes result(inputs.front().size());
    std::uint64_t sequence = 0;
    for (const auto& [op, prescale, postscale] :
         {Case{ReduceOp::Sum, 1, 1.0 / 65536}, Case{ReduceOp::Sum, 4, 1e-6},
          Case{ReduceOp::Sum, 3, 0.125}, Case{ReduceOp::Average, 1, 1e-7},
          Case{ReduceOp::Average, 3, 0.5}, Case{ReduceOp::Max, 2, 0.5},
          Case{ReduceOp::Max, -2, 0.25}, Case{ReduceOp::Min, -4, 0.25},
          Case{ReduceOp::Min, 1000, 1e-4}}) {
      Collective c;
      c.dtype = DataType::Float16;
      c.ranks = {0, 1, 2, 3};
      c.member = rank.rank;
      c.sequence = sequence++;
      c.device = DeviceType::Cuda;
      c.op = op;
      c.prescale = prescale;
      c.postscale = postscale;
      c.input = c.output = memory.get();
      c.count = 10;
      stream.write(memory.get(), inputs[static_cast<std::size_t>(rank.rank)]);
      c.ready.push_back(stream.now());
      StartedOperation operation = rank.plane.start(c);
      ASSERT_TRUE(operation.ok()) << operation.status().message();
      while (operation.value()->progress().value() != Operation::Progress::Done) rank.idle();
      stream.wait_for(*operation.value()->issued());
      stream.read(memory.get(), result);
      stream.finish();
      EXPECT_EQ(gpus::find_error(c, inputs, result), "");
      EXPECT_TRUE(std::isfinite(static_cast<double>(oracle::value_at(c.dtype, result, 0))));
    }
  });
}

// ---- between hosts by another plane ----

using Layout = std::vector<int>;

class GpuHostsTest : public ::testing::TestWithParam<Layout> {};
// In the order of hosts, one by one, and neither; hosts with as many ranks, and not.
INSTANTIATE_TEST_SUITE_P(Layouts, GpuHostsTest,
                         ::testing::Values(Layout{0, 0, 2, 2}, Layout{0, 1}, Layout{0, 1, 2},
                                           Layout{0, 1, 1, 3}, Layout{0, 0, 0, 3},
                                           Layout{0, 1, 0, 1}, Layout{0, 0, 2, 2, 4, 4}),
                         [](const auto& test) {
                           return fmt::format("{}", fmt::join(test.param, ""));
                         });

void run_between_hosts(const Layout& layout, DataType dtype, std::int64_t chunk_bytes,
                       const std::vector<std::int64_t>& counts) {
  gpus::GpuHosts hosts(layout, {.chunk_bytes = chunk_bytes});
  gpus::Options options = gpus::with_patience();
  options.doubles.seed = static_cast<std::uint64_t>(dtype) + 1;
  options.doubles.longest_delay = std::chrono::microseconds(50);
  options.doubles.devices = hosts.size();
  options.wrap_plane = [&](int rank, const std::shared_ptr<DataPlane>& nccl) {
    return hosts.connect(rank, nccl);
  };
  gpus::run(
      hosts.size(),
      [&](Rank& rank) {
        Program program{rank};
        Flights<Part>(rank.rank, kMostInFlight, [&] {
          rank.idle();
        }).run(parts(program, dtype, counts));
      },
      options);
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

}  // namespace
}  // namespace kolo::core

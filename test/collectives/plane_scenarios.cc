#include "plane_scenarios.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "reduce_oracle.h"

namespace kolo::core::scenarios {
namespace {

using oracle::Bytes;

// What planes are promised.
constexpr std::size_t kMostInFlight = 64;

// So that numbers pass a multiple of 256.
constexpr std::uint64_t kFirstSequence = 240;

constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kGuard{0xa5};

/// A collective as all ranks see it.
struct Job {
  Collective collective;
  /// Of the random inputs.
  std::uint64_t seed = 0;
  /// Of each rank.
  std::vector<int> hosts;
};

Bytes input_of(const Job& job, int member) {
  const Collective& c = job.collective;
  const std::int64_t count =
      c.kind == CollectiveKind::Allgather ? c.counts[static_cast<std::size_t>(member)] : c.count;
  return oracle::random_values(c.dtype, count, job.seed * 100 + static_cast<std::uint64_t>(member));
}

Bytes expected_of(const Job& job) {
  const Collective& c = job.collective;
  const int members = static_cast<int>(c.ranks.size());
  if (c.kind == CollectiveKind::Broadcast) return input_of(job, c.root_member);
  std::vector<Bytes> inputs;
  for (int member = 0; member < members; ++member) inputs.push_back(input_of(job, member));
  if (c.kind == CollectiveKind::Allreduce) {
    std::vector<int> host_of;
    for (const int rank : c.ranks) host_of.push_back(job.hosts[static_cast<std::size_t>(rank)]);
    return oracle::reduce_by_host({c.dtype, c.op, c.prescale, c.postscale}, inputs, host_of);
  }
  Bytes all;
  for (const Bytes& input : inputs) all.insert(all.end(), input.begin(), input.end());
  return all;
}

std::shared_ptr<std::byte> private_memory(std::size_t bytes) {
  const auto memory = std::make_shared<Bytes>(bytes);
  return {memory, memory->data()};
}

/// One rank's part in a job.
class Part {
 public:
  Part(const Job& job, int rank, bool in_plane) : job_(job), in_plane_(in_plane) {
    Collective& c = job_.collective;
    c.member = static_cast<int>(std::ranges::find(c.ranks, rank) - c.ranks.begin());
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void start(DataPlane& plane) {
    Collective& c = job_.collective;
    const Bytes input = input_of(job_, c.member);
    const bool in_place = c.kind == CollectiveKind::Allreduce ||
                          (c.kind == CollectiveKind::Broadcast && c.member == c.root_member);
    Bytes output(output_bytes() + kGuardBytes, kGuard);
    if (in_place) std::ranges::copy(input, output.begin());
    input_ = store(plane, input);
    output_ = store(plane, output);
    c.input = input_.get();
    c.output = output_.get();
    Result<std::unique_ptr<Operation>> started = plane.start(job_.collective);
    ASSERT_TRUE(started.ok()) << started.status().message();
    operation_ = std::move(started).value();
  }

  Operation& operation() { return *operation_; }

  void check_result() {
    operation_.reset();
    const Collective& c = job_.collective;
    const std::byte* const end = output_.get() + output_bytes();
    EXPECT_EQ(Bytes(end, end + kGuardBytes), Bytes(kGuardBytes, kGuard));
    EXPECT_TRUE(Bytes(static_cast<const std::byte*>(output_.get()), end) == expected_of(job_))
        << to_string(c.kind) << " " << to_string(c.op) << " of " << c.count << " "
        << to_string(c.dtype) << " among " << c.ranks.size() << ", root " << c.root_member
        << ", number " << c.sequence << " of channel " << c.channel;
  }

 private:
  std::size_t output_bytes() const {
    return static_cast<std::size_t>(job_.collective.count) * size_of(job_.collective.dtype);
  }

  std::shared_ptr<std::byte> store(DataPlane& plane, const Bytes& bytes) const {
    // Not always at the beginning of a page.
    const std::size_t before = job_.seed % 3 * size_of(job_.collective.dtype);
    const std::size_t size = bytes.size() + before;
    std::shared_ptr<std::byte> memory = in_plane_ ? plane.allocate(DeviceType::Cpu, size) : private_memory(size);
    std::ranges::copy(bytes, memory.get() + before);
    return {memory, memory.get() + before};
  }

  Job job_;
  const bool in_plane_;
  std::shared_ptr<std::byte> input_;
  std::shared_ptr<std::byte> output_;
  std::unique_ptr<Operation> operation_;
};

/// Channels 0 and 5 have all ranks, 2 those but the first, 3 every other.
std::map<ChannelId, std::vector<int>> channels(int size) {
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  std::map<ChannelId, std::vector<int>> channels = {{0, all}, {5, all}};
  if (size > 1) channels[2] = {all.begin() + 1, all.end()};
  for (int rank = 0; rank < size; rank += 2) channels[3].push_back(rank);
  return channels;
}

Collective collective(CollectiveKind kind, DataType dtype, std::int64_t count) {
  Collective c;
  c.kind = kind;
  c.dtype = dtype;
  c.count = count;
  return c;
}

constexpr std::int64_t kLarge = 10'000;

/// Of large vectors only one of each kind.
std::vector<Collective> collectives(DataType dtype, std::int64_t count, int members) {
  std::vector<Collective> all;
  for (int op = 0; op < (count < kLarge ? kReduceOpCount : 1); ++op) {
    Collective c = collective(CollectiveKind::Allreduce, dtype, count);
    c.op = static_cast<ReduceOp>(op);
    if (dtype != DataType::Bool || c.op != ReduceOp::Average) all.push_back(c);
  }
  if (is_floating(dtype) && count < kLarge) {
    Collective c = collective(CollectiveKind::Allreduce, dtype, count);
    c.prescale = 0.3;
    c.postscale = 1.7;
    all.push_back(c);
  }
  for (int root = count < kLarge ? 0 : members - 1; root < members; ++root) {
    Collective c = collective(CollectiveKind::Broadcast, dtype, count);
    c.root_member = root;
    all.push_back(c);
  }
  // The first member gives much, nothing, or its share.
  for (const std::int64_t first : {2 * count, std::int64_t{0}, count}) {
    Collective c = collective(CollectiveKind::Allgather, dtype, 0);
    for (int m = 0; m < members; ++m) c.counts.push_back(m == 0 ? first : count / (m + 1));
    c.count = std::accumulate(c.counts.begin(), c.counts.end(), std::int64_t{0});
    all.push_back(c);
    if (count >= kLarge) break;
  }
  return all;
}

using Queue = std::deque<std::unique_ptr<Part>>;

/// This rank's parts, by channel. Large vectors only in the first one.
std::map<ChannelId, Queue> parts(int rank, int size, DataType dtype,
                                 const std::vector<std::int64_t>& counts, Memory memory,
                                 const std::vector<int>& hosts) {
  std::map<ChannelId, Queue> parts;
  for (const auto& [channel, ranks] : channels(size)) {
    std::uint64_t sequence = kFirstSequence;
    for (const std::int64_t count : counts) {
      if (count >= kLarge && channel != kWorldChannel) continue;
      for (Collective& c : collectives(dtype, count, static_cast<int>(ranks.size()))) {
        c.ranks = ranks;
        c.channel = channel;
        c.sequence = sequence++;
        if (std::ranges::find(ranks, rank) == ranks.end()) continue;
        const Job job{std::move(c), channel * 1000 + sequence, hosts};
        const bool in_plane =
            memory == Memory::Plane ||
            (memory == Memory::Mixed && (job.seed * 7 + static_cast<unsigned>(rank)) % 3 != 0);
        parts[channel].push_back(std::make_unique<Part>(job, rank, in_plane));
      }
    }
  }
  return parts;
}

struct Flight {
  ChannelId channel;
  std::unique_ptr<Part> part;
};

/// Starts the next operation of some channel, if there is one that may start.
bool start_any(DataPlane& plane, std::map<ChannelId, Queue>& waiting, std::vector<Flight>& flights,
               std::mt19937& random) {
  std::vector<ChannelId> ready;
  for (const auto& [channel, queue] : waiting) {
    const auto in_flight = std::ranges::count(flights, channel, &Flight::channel);
    if (!queue.empty() && static_cast<std::size_t>(in_flight) < kMostInFlight) {
      ready.push_back(channel);
    }
  }
  if (ready.empty()) return false;
  const ChannelId channel = ready[random() % ready.size()];
  std::unique_ptr<Part> part = std::move(waiting[channel].front());
  waiting[channel].pop_front();
  part->start(plane);
  if (!::testing::Test::HasFatalFailure()) flights.push_back({channel, std::move(part)});
  return true;
}

/// Gives each operation in flight one turn, in random order. Whether any moved.
bool progress_all(std::vector<Flight>& flights, std::mt19937& random) {
  bool moved = false;
  std::ranges::shuffle(flights, random);
  for (auto flight = flights.begin(); flight != flights.end();) {
    const Result<Operation::Progress> progress = flight->part->operation().progress();
    if (!progress.ok()) {
      ADD_FAILURE() << progress.status().message();
    } else if (progress.value() == Operation::Progress::Done) {
      flight->part->check_result();
    } else {
      moved = moved || progress.value() == Operation::Progress::Moved;
      ++flight;
      continue;
    }
    moved = true;
    flight = flights.erase(flight);
  }
  return moved;
}

/// One rank's operations, played by a thread that plays others, too.
class Player {
 public:
  Player(std::shared_ptr<DataPlane> plane, int rank, const GivingUp& play)
      : plane_(std::move(plane)), play_(play) {
    play_.collective.member = rank;
  }

  void start() {
    for (int i = 0; i < play_.operations; ++i) {
      Collective c = play_.collective;
      const std::size_t bytes = static_cast<std::size_t>(c.count) * size_of(c.dtype);
      memory_.push_back(play_.memory == Memory::Plane ? plane_->allocate(bytes)
                                                      : private_memory(bytes));
      std::fill_n(memory_.back().get(), bytes, std::byte{1});
      c.sequence = static_cast<std::uint64_t>(i);
      c.input = c.output = memory_.back().get();
      Result<std::unique_ptr<Operation>> operation = plane_->start(c);
      if (operation.ok()) operations_.push_back(std::move(operation).value());
    }
  }

  /// Whether anything moved.
  bool take_turn() {
    bool moved = false;
    for (std::unique_ptr<Operation>& operation : operations_) {
      const Result<Operation::Progress> progress = operation->progress();
      moved = moved || !progress.ok() || progress.value() != Operation::Progress::Waiting;
      if (!progress.ok() || progress.value() == Operation::Progress::Done) operation.reset();
    }
    std::erase(operations_, nullptr);
    return moved;
  }

  void give_up() { operations_.clear(); }
  bool over() const { return operations_.empty(); }

 private:
  const std::shared_ptr<DataPlane> plane_;
  GivingUp play_;
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::vector<std::unique_ptr<Operation>> operations_;
};

std::vector<std::byte> message(int source, int destination, int index) {
  constexpr std::array<std::size_t, 7> kSizes = {0, 1, 17, 4'000, 5'000, 70'000, 1U << 20};
  std::vector<std::byte> bytes(kSizes[static_cast<std::size_t>(index) % kSizes.size()]);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto mixed = i * 31 + static_cast<std::size_t>(source * 7 + destination * 3 + index);
    bytes[i] = static_cast<std::byte>(mixed);
  }
  return bytes;
}

}  // namespace

void run_collectives(DataPlane& plane, int rank, int size, DataType dtype,
                     const std::vector<std::int64_t>& counts, const Idle& idle, Memory memory,
                     const std::vector<int>& hosts) {
  std::mt19937 random(static_cast<unsigned>(rank) + 1);
  const std::vector<int> one_host(static_cast<std::size_t>(size), 0);
  std::map<ChannelId, Queue> waiting =
      parts(rank, size, dtype, counts, memory, hosts.empty() ? one_host : hosts);
  std::vector<Flight> flights;
  bool started = true;
  while (started || !flights.empty()) {
    started = start_any(plane, waiting, flights, random);
    if (::testing::Test::HasFatalFailure()) return;
    if (!progress_all(flights, random) && !started && !flights.empty()) idle();
  }
}

void run_giving_up(const std::vector<std::shared_ptr<DataPlane>>& planes, const GivingUp& play) {
  std::deque<Player> players;
  for (int rank = 0; rank < std::ssize(planes); ++rank) {
    players.emplace_back(planes[static_cast<std::size_t>(rank)], rank, play);
    if (rank != play.sleeper || play.early) players.back().start();
  }
  for (int turn = 0; turn < play.turns; ++turn) {
    for (int rank = 0; rank < std::ssize(players); ++rank) {
      if (rank != play.sleeper) players[static_cast<std::size_t>(rank)].take_turn();
    }
  }
  players[static_cast<std::size_t>(play.quitter)].give_up();
  if (play.sleeper && !play.early) players[static_cast<std::size_t>(*play.sleeper)].start();

  // Some turns only make room for what others tell.
  constexpr int kIdleTurns = 5;
  for (int idle = 0; idle < kIdleTurns; ++idle) {
    for (Player& player : players) {
      if (player.take_turn()) idle = 0;
    }
  }
  for (int rank = 0; rank < std::ssize(players); ++rank) {
    EXPECT_TRUE(players[static_cast<std::size_t>(rank)].over())
        << "rank " << rank << " waits on in " << play.operations << " "
        << to_string(play.collective.kind) << " of " << play.collective.count << " after rank "
        << play.quitter << " has given up in turn " << play.turns << "; asleep: rank "
        << play.sleeper.value_or(-1) << (play.early ? ", early" : "");
  }
}

void run_messages(ControlPlane& plane, const Idle& idle) {
  constexpr int kMessages = 70;
  const int rank = plane.topology().rank;
  const int size = plane.topology().size;
  std::vector<int> received(static_cast<std::size_t>(size), 0);
  int sent = 0;
  int missing = kMessages * (size - 1);
  while (sent < kMessages || missing > 0 || plane.sending()) {
    for (int peer = 0; peer < size && sent < kMessages; ++peer) {
      if (peer == rank) continue;
      const Status status = plane.send(peer, message(rank, peer, sent));
      ASSERT_TRUE(status.ok()) << status.message();
    }
    const bool sending = sent < kMessages;
    sent += sending ? 1 : 0;
    Result<std::optional<Envelope>> arrived = plane.receive();
    ASSERT_TRUE(arrived.ok()) << arrived.status().message();
    if (!arrived.value()) {
      if (!sending && (missing > 0 || plane.sending())) idle();
      continue;
    }
    const Envelope& envelope = *arrived.value();
    ASSERT_TRUE(envelope.source >= 0 && envelope.source < size && envelope.source != rank);
    int& index = received[static_cast<std::size_t>(envelope.source)];
    ASSERT_TRUE(envelope.bytes == message(envelope.source, rank, index))
        << "message " << index << " from rank " << envelope.source;
    ++index;
    --missing;
  }
}

}  // namespace kolo::core::scenarios

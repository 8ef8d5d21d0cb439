#include "plane_scenarios.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <utility>

#include "flights.h"
#include "jobs.h"

namespace kolo::core::scenarios {
namespace {

using jobs::Job;
using oracle::Bytes;

// What planes are promised.
constexpr std::size_t kMostInFlight = 64;

// So that numbers pass a multiple of 256.
constexpr std::uint64_t kFirstSequence = 240;

constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kGuard{0xa5};

/// `hosts`: of each rank.
Bytes expected_of(const Job& job, int member, const std::vector<int>& hosts) {
  const Collective& c = job.collective;
  std::vector<Bytes> inputs;
  for (int m = 0; m < std::ssize(c.ranks); ++m) inputs.push_back(jobs::input_of(job, m));
  const std::vector<Bytes> shares = jobs::shares_for(job, member, inputs);
  if (!reduces(c.kind)) return jobs::moved(c, shares);
  const oracle::Reduction reduction{c.dtype, c.op, c.prescale, c.postscale};
  if (c.kind == CollectiveKind::Reducescatter) return oracle::reduce(reduction, shares);
  std::vector<int> host_of;
  for (const int rank : c.ranks) host_of.push_back(hosts[static_cast<std::size_t>(rank)]);
  return oracle::reduce_by_host(reduction, shares, host_of);
}

/// In one access for ThreadSanitizer, to which the vectors' operator is one for each byte; so is
/// ranges::copy here.
bool same(const std::byte* bytes, const Bytes& others) {
  return others.empty() || std::memcmp(bytes, others.data(), others.size()) == 0;
}

std::shared_ptr<std::byte> private_memory(std::size_t bytes) {
  const auto memory = std::make_shared<Bytes>(bytes);
  return {memory, memory->data()};
}

/// One rank's part in a job.
class Part {
 public:
  Part(DataPlane& plane, Job job, int member, const std::vector<int>& hosts, bool in_plane)
      : plane_(plane),
        job_(std::move(job)),
        collective_(jobs::part_of(job_, member)),
        expected_(expected_of(job_, member, hosts)),
        in_plane_(in_plane) {}
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void start() {
    Collective& c = collective_;
    const Bytes input = jobs::input_of(job_, c.member);
    const bool in_place = c.kind == CollectiveKind::Allreduce ||
                          (c.kind == CollectiveKind::Broadcast && c.member == c.root_member);
    Bytes output(expected_.size() + kGuardBytes, kGuard);
    if (in_place) std::copy(input.begin(), input.end(), output.begin());
    input_ = store(input);
    output_ = store(output);
    c.input = input_.get();
    c.output = output_.get();
    Result<std::unique_ptr<Operation>> started = plane_.start(c);
    ASSERT_TRUE(started.ok()) << started.status().message();
    operation_ = std::move(started).value();
  }

  bool progress() {
    const Result<Operation::Progress> progress = operation_->progress();
    EXPECT_TRUE(progress.ok()) << progress.status().message();
    over_ = !progress.ok() || progress.value() == Operation::Progress::Done;
    return over_ || progress.value() == Operation::Progress::Moved;
  }

  bool over() const { return over_; }

  void check() {
    operation_.reset();
    const Collective& c = collective_;
    const std::byte* const end = output_.get() + expected_.size();
    EXPECT_TRUE(same(end, Bytes(kGuardBytes, kGuard)));
    EXPECT_TRUE(same(output_.get(), expected_))
        << to_string(c.kind) << " " << to_string(c.op) << " of " << c.count << " "
        << to_string(c.dtype) << " among " << c.ranks.size() << ", root " << c.root_member
        << ", number " << c.sequence << " of channel " << c.channel;
  }

 private:
  std::shared_ptr<std::byte> store(const Bytes& bytes) const {
    // Not always at the beginning of a page.
    const std::size_t before = job_.seed % 3 * size_of(collective_.dtype);
    const std::size_t size = bytes.size() + before;
    std::shared_ptr<std::byte> memory =
        in_plane_ ? plane_.allocate(DeviceType::Cpu, size).value() : private_memory(size);
    std::copy(bytes.begin(), bytes.end(), memory.get() + before);
    return {memory, memory.get() + before};
  }

  DataPlane& plane_;
  const Job job_;
  Collective collective_;
  const Bytes expected_;
  const bool in_plane_;
  std::shared_ptr<std::byte> input_;
  std::shared_ptr<std::byte> output_;
  std::unique_ptr<Operation> operation_;
  bool over_ = false;
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

using Queue = Flights<Part>::Queue;

/// This rank's parts, by channel. Large vectors only in the first one.
std::map<ChannelId, Queue> parts(DataPlane& plane, int rank, int size, DataType dtype,
                                 const std::vector<std::int64_t>& counts, Memory memory,
                                 const std::vector<int>& hosts) {
  std::map<ChannelId, Queue> parts;
  for (const auto& [channel, ranks] : channels(size)) {
    const auto own = std::ranges::find(ranks, rank);
    if (own == ranks.end()) continue;
    const auto member = static_cast<int>(own - ranks.begin());
    std::uint64_t sequence = kFirstSequence;
    for (const std::int64_t count : counts) {
      if (count >= jobs::kLarge && channel != kWorldChannel) continue;
      for (Job& job : jobs::all_kinds(jobs::allreduces(dtype, count), dtype, count,
                                      static_cast<int>(ranks.size()))) {
        job.collective.ranks = ranks;
        job.collective.channel = channel;
        job.collective.sequence = sequence++;
        job.seed = channel * 1000 + sequence;
        const bool in_plane =
            memory == Memory::Plane ||
            (memory == Memory::Mixed && (job.seed * 7 + static_cast<unsigned>(rank)) % 3 != 0);
        parts[channel].push_back(
            std::make_unique<Part>(plane, std::move(job), member, hosts, in_plane));
      }
    }
  }
  return parts;
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
      memory_.push_back(play_.memory == Memory::Plane
                            ? plane_->allocate(DeviceType::Cpu, bytes).value()
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

Bytes message(int source, int destination, int index) {
  constexpr std::array<std::int64_t, 7> kSizes = {0, 1, 17, 4'000, 5'000, 70'000, 1 << 20};
  const auto seed = static_cast<std::uint64_t>((source * 100 + destination) * 100 + index);
  return oracle::random_bits(DataType::UInt8, kSizes[static_cast<std::size_t>(index) % 7], seed);
}

}  // namespace

void run_collectives(DataPlane& plane, int rank, int size, DataType dtype,
                     const std::vector<std::int64_t>& counts, const Idle& idle, Memory memory,
                     const std::vector<int>& hosts) {
  const std::vector<int> one_host(static_cast<std::size_t>(size), 0);
  Flights<Part>(rank, kMostInFlight, idle)
      .run(parts(plane, rank, size, dtype, counts, memory, hosts.empty() ? one_host : hosts));
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
    const Bytes expected = message(envelope.source, rank, index);
    ASSERT_TRUE(envelope.bytes.size() == expected.size() && same(envelope.bytes.data(), expected))
        << "message " << index << " from rank " << envelope.source;
    ++index;
    --missing;
  }
}

}  // namespace kolo::core::scenarios

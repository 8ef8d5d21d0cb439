// Ranks of a host that share memory, and the messages between them.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/arena.h"
#include "shm/fd_passing.h"
#include "shm/heap.h"
#include "shm/host.h"
#include "shm/messenger.h"
#include "support/thread_bootstrap.h"
#include "support/threads.h"

namespace {

/// Of memory that the machine has; 0: as the system says.
long machine_pages = 0;

}  // namespace

extern "C" long __real_sysconf(int name);
extern "C" long __wrap_sysconf(int name) {
  return name == _SC_PHYS_PAGES && machine_pages > 0 ? machine_pages : __real_sysconf(name);
}

namespace kolo::core::shm {
namespace {

using testing::Meeting;
using testing::run_ranks;
using testing::ThreadBootstrap;

constexpr std::size_t kPage = Heap::kPage;
constexpr std::size_t kMiB = std::size_t{1} << 20;

// ---- hosts ----

class HostTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(SameProcess, HostTest, ::testing::Bool(),
                         ::testing::PrintToStringParamName());

TEST_P(HostTest, EverybodySeesEverybodysMemory) {
  constexpr int kSize = 4;
  Meeting meeting(kSize);
  run_ranks(kSize, [&](int rank) {
    ThreadBootstrap bootstrap(meeting, rank, GetParam());
    auto joined = Host::join(bootstrap, {.global_rank = 10 + rank, .capacity = 4 * kMiB});
    ASSERT_TRUE(joined.ok()) << joined.status().message();
    const Host& host = *joined.value();
    EXPECT_EQ(host.ranks(), (std::vector<int>{10, 11, 12, 13}));
    EXPECT_EQ(host.local_rank(12), 2);
    EXPECT_FALSE(host.local_rank(0));
    const auto memory = host.own().allocate(1);
    *memory = static_cast<std::byte>(rank);
    const auto place = host.own().offset_of(memory.get(), 1).value();
    const auto places = bootstrap.all_gather(std::as_bytes(std::span(&place, 1))).value();
    for (int peer = 0; peer < kSize; ++peer) {
      std::uint64_t at = 0;
      std::memcpy(&at, places[static_cast<std::size_t>(peer)].data(), sizeof(at));
      EXPECT_EQ(*host.at(peer, at, 1), static_cast<std::byte>(peer));
    }
    (void)bootstrap.all_gather({});
  });
}

TEST_P(HostTest, OneRefusesForAll) {
  constexpr int kSize = 3;
  Meeting meeting(kSize);
  run_ranks(kSize, [&](int rank) {
    ThreadBootstrap bootstrap(meeting, rank, GetParam());
    const auto joined = Host::join(
        bootstrap,
        {.global_rank = 5 + rank, .capacity = 4 * kMiB, .refusal = rank == 1 ? "not me" : ""});
    ASSERT_FALSE(joined.ok());
    EXPECT_EQ(joined.status().message(), "rank 6: not me");
  });
}

// More memory, times ranks, than a process has addresses.
TEST(ManyRanksTest, MapAllArenasOfAMachineWithMuchMemory) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer leaves too few addresses to map so much";
#endif
  constexpr int kSize = 5;
  machine_pages = static_cast<long>((std::size_t{30} << 40) / kPage);
  Meeting meeting(kSize);
  std::vector<std::shared_ptr<Host>> hosts(kSize);
  run_ranks(kSize, [&](int rank) {
    ThreadBootstrap bootstrap(meeting, rank);
    auto joined = Host::join(bootstrap, {.global_rank = rank});
    ASSERT_TRUE(joined.ok()) << joined.status().message();
    hosts[static_cast<std::size_t>(rank)] = std::move(joined).value();
  });
  machine_pages = 0;
}

/// Between processes of which one, as in a container with a network of its own, cannot send to the
/// others; nor they to it, if that is `mutual`.
class TornBootstrap final : public Bootstrap {
 public:
  static constexpr int kStranger = 1;

  TornBootstrap(Meeting& meeting, int rank, bool mutual)
      : whole_(meeting, rank, /*same_process=*/false), mutual_(mutual) {}

  int rank() const override { return whole_.rank(); }
  int size() const override { return whole_.size(); }
  bool same_process() const override { return false; }

  Result<std::vector<std::vector<std::byte>>> all_gather(std::span<const std::byte> own) override {
    auto all = whole_.all_gather(own);
    if (++round_ != kRoundOfMailboxes) return all;
    const std::string nobody("\0nobody", 7);
    for (int peer = 0; peer < size(); ++peer) {
      const bool torn = rank() == kStranger ? peer != kStranger : mutual_ && peer == kStranger;
      const auto bytes = std::as_bytes(std::span(nobody));
      if (torn) all.value()[static_cast<std::size_t>(peer)].assign(bytes.begin(), bytes.end());
    }
    return all;
  }

 private:
  /// After the ranks, how large arenas may be, and whether all have one.
  static constexpr int kRoundOfMailboxes = 4;

  ThreadBootstrap whole_;
  const bool mutual_;
  int round_ = 0;
};

class TornHostTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Mutual, TornHostTest, ::testing::Bool(),
                         ::testing::PrintToStringParamName());

// All have arenas, and fail for the same reason; nobody waits for what was never sent.
TEST_P(TornHostTest, OneThatIsOutOfReachRefusesForAll) {
  constexpr int kSize = 3;
  const int first_to_fail = GetParam() ? 0 : TornBootstrap::kStranger;
  Meeting meeting(kSize);
  run_ranks(kSize, [&](int rank) {
    TornBootstrap bootstrap(meeting, rank, GetParam());
    const auto joined = Host::join(bootstrap, {.global_rank = 5 + rank, .capacity = 4 * kMiB});
    ASSERT_FALSE(joined.ok());
    EXPECT_EQ(joined.status().message(), "rank " + std::to_string(5 + first_to_fail) +
                                             ": sending a descriptor: Connection refused");
  });
}

// Ranks of an ordinary user, who may have no more descriptors under way than one process may have
// open. Who sent to all at once would have 240. The main thread remains root's: the system call
// changes the user of its caller alone.
TEST(ManyRanksTest, JoinWithinTheLimitOfDescriptorsUnderWay) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  constexpr int kSize = 16;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{.rlim_cur = 150, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  Meeting meeting(kSize);
  run_ranks(kSize, [&](int rank) {
    EXPECT_EQ(::syscall(SYS_setresuid, 65534, 65534, 65534), 0);
    ThreadBootstrap bootstrap(meeting, rank, /*same_process=*/false);
    const auto joined = Host::join(bootstrap, {.global_rank = rank, .capacity = 4 * kMiB});
    ASSERT_TRUE(joined.ok()) << joined.status().message();
    const Host& host = *joined.value();
    const auto mark = [](int sender, int receiver) {
      return static_cast<std::uint16_t>(1 + sender * kSize + receiver);
    };
    for (int peer = 0; peer < kSize; ++peer) {
      host.notice_between(Section::Data, rank, peer) = mark(rank, peer);
    }
    (void)bootstrap.all_gather({});
    for (int peer = 0; peer < kSize; ++peer) {
      EXPECT_EQ(host.notice_between(Section::Data, peer, rank), mark(peer, rank));
    }
  });
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

// ---- messages ----

/// Two of so many ranks on a host: a few, or enough to leave each other notices.
class MessengerTest : public ::testing::TestWithParam<int> {
 protected:
  MessengerTest() : hosts_(static_cast<std::size_t>(GetParam())) {
    Meeting meeting(GetParam());
    run_ranks(GetParam(), [&](int rank) {
      ThreadBootstrap bootstrap(meeting, rank);
      hosts_[static_cast<std::size_t>(rank)] =
          Host::join(bootstrap, {.global_rank = rank, .capacity = 4 * kMiB}).value();
    });
  }

  std::vector<std::shared_ptr<Host>> hosts_;
};

INSTANTIATE_TEST_SUITE_P(Ranks, MessengerTest, ::testing::Values(2, 6),
                         ::testing::PrintToStringParamName());

/// Message number `number` of a rank: of sizes around those of cells, frames and rings,
/// often the same.
std::vector<std::byte> message(int rank, std::uint64_t number) {
  std::mt19937_64 random(number * 2 + static_cast<unsigned>(rank));
  constexpr std::size_t kSizes[] = {0, 8, 32, 36, 40, 55, 1000, Ring::kMostInFrame - 1,
                                    Ring::kBulkBytes, 200'000};
  const std::size_t size = kSizes[random() % (number % 50 == 0 ? 10 : 7)] + random() % 3;
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Both send as fast as they can, and receive now and then.
TEST_P(MessengerTest, DeliversEverySizeInOrder) {
  constexpr std::uint64_t kMessages = 3000;
  run_ranks(2, [&](int rank) {
    const int peer = 1 - rank;
    Messenger messenger(hosts_[static_cast<std::size_t>(rank)], Section::Data);
    std::mt19937_64 random(static_cast<unsigned>(rank));
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
    while (sent < kMessages || received < kMessages || messenger.sending()) {
      for (auto burst = random() % 8; burst > 0 && sent < kMessages; --burst, ++sent) {
        const std::vector<std::byte> bytes = message(rank, sent);
        const std::size_t head = std::min<std::size_t>(bytes.size(), random() % 40);
        messenger.send(peer, std::span(bytes).first(head), std::span(bytes).subspan(head));
      }
      const auto got = messenger.receive();
      if (!got) {
        std::this_thread::yield();
        continue;
      }
      ASSERT_EQ(got->local_rank, peer);
      ASSERT_EQ(got->bytes, message(peer, received)) << "message " << received;
      ++received;
    }
  });
}

TEST_P(MessengerTest, HearsOfAnEndAfterWhatCameBefore) {
  Messenger from(hosts_[0], Section::Data);
  Messenger to(hosts_[1], Section::Data);
  const std::vector<std::byte> bytes(1000);
  std::size_t sent = 0;
  for (; !from.sending_to(1); ++sent) from.send(1, bytes);
  from.break_off(1);
  EXPECT_FALSE(from.sending_to(1));
  from.send(1, bytes);
  EXPECT_TRUE(from.broken_off(1));

  // The last one did not fit.
  for (std::size_t i = 0; i + 1 < sent; ++i) {
    ASSERT_TRUE(to.receive());
    EXPECT_FALSE(to.broken_off(0));
  }
  EXPECT_FALSE(to.any_broken_off());
  EXPECT_FALSE(to.receive());
  EXPECT_TRUE(to.broken_off(0));
  EXPECT_TRUE(to.any_broken_off());
}

// It is as if it had not been sent.
TEST_P(MessengerTest, AMessageTooLargeForMemoryLeavesNothingBehind) {
  Messenger from(hosts_[0], Section::Data);
  Messenger to(hosts_[1], Section::Data);
  const std::vector<std::byte> head(1);
  const std::span body(head.data(), std::numeric_limits<std::ptrdiff_t>::max());
  EXPECT_THROW(from.send(1, head, body), std::length_error);
  EXPECT_FALSE(from.sending());
  from.send(1, std::vector<std::byte>(7));
  const auto got = to.receive();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes.size(), 7U);
}

// As many as notices can count, and a few more.
TEST_P(MessengerTest, ManyShortMessages) {
  constexpr std::uint32_t kMessages = (1 << 16) + 300;
  Messenger from(hosts_[0], Section::Control);
  Messenger to(hosts_[1], Section::Control);
  std::uint32_t received = 0;
  const auto expect_next = [&] {
    const auto got = to.receive();
    ASSERT_TRUE(got);
    ASSERT_TRUE(std::ranges::equal(got->bytes, std::as_bytes(std::span(&received, 1))));
    ++received;
  };
  for (std::uint32_t sent = 0; sent < kMessages; ++sent) {
    from.send(1, std::as_bytes(std::span(&sent, 1)));
    if (from.sending()) {
      // The ring is full: all of that is received, and the writer hears that there is room.
      while (received < sent) ASSERT_NO_FATAL_FAILURE(expect_next());
      EXPECT_FALSE(from.receive());
      EXPECT_FALSE(from.sending());
    }
  }
  while (received < kMessages) ASSERT_NO_FATAL_FAILURE(expect_next());
  EXPECT_FALSE(to.receive());
}

}  // namespace
}  // namespace kolo::core::shm

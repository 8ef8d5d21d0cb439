// What memory is shared with, one by one: doorbells, heaps and arenas, and descriptors.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <thread>

#include "base/doorbell.h"
#include "shm/arena.h"
#include "shm/fd_passing.h"
#include "shm/heap.h"
#include "support/threads.h"

namespace {

/// What becomes of the next calls of fallocate, by their errno; all others are the system's.
std::deque<int> fallocate_errors;

}  // namespace

extern "C" int __real_fallocate(int file, int mode, off_t offset, off_t bytes);
extern "C" int __wrap_fallocate(int file, int mode, off_t offset, off_t bytes) {
  const int error = fallocate_errors.empty() ? 0 : fallocate_errors.front();
  if (!fallocate_errors.empty()) fallocate_errors.pop_front();
  if (error == 0) return __real_fallocate(file, mode, offset, bytes);
  errno = error;
  return -1;
}

namespace kolo::core::shm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using testing::run_ranks;

constexpr std::size_t kPage = Heap::kPage;
constexpr std::size_t kMiB = std::size_t{1} << 20;

// ---- doorbell ----

TEST(Doorbell, RemembersARing) {
  Doorbell bell;
  bell.ring();
  bell.ring();
  bell.wait();
  const auto begin = steady_clock::now();
  bell.wait_for(milliseconds(20));
  EXPECT_GE(steady_clock::now() - begin, milliseconds(20));
}

TEST(Doorbell, ShowsWhatWasWrittenBefore) {
  constexpr int kRounds = 20'000;
  Doorbell bells[2];
  int value = 0;
  const auto play = [&](int rank) {
    for (int round = 0; round < kRounds; ++round) {
      if ((round + rank) % 2 == 0) {
        value = round;
        bells[1 - rank].ring();
      } else {
        bells[rank].wait();
        ASSERT_EQ(value, round);
      }
    }
  };
  run_ranks(2, play);
}

TEST(Doorbell, RingsAcrossMappings) {
  auto arena = Arena::create({.capacity = kMiB, .reserved = kPage}).value();
  const Mapping other = Mapping::map(arena->file(), kMiB).value();
  ASSERT_NE(other.begin(), arena->mapping()->begin());
  Doorbell bell;
  bell.move_to({arena, reinterpret_cast<Doorbell::Word*>(arena->mapping()->begin())});
  for (int i = 0; i < 100; ++i) {
    const std::jthread peer(
        [&] { Doorbell::ring(*reinterpret_cast<Doorbell::Word*>(other.begin())); });
    bell.wait();
  }
}

// ---- heap and arena ----

TEST(Heap, MergesWhatIsGivenBack) {
  Heap heap(kPage, 9 * kPage);
  const std::size_t a = heap.take(1).value();
  const std::size_t b = heap.take(3 * kPage).value();
  const std::size_t c = heap.take(4 * kPage - 5).value();
  EXPECT_EQ(a, kPage);
  EXPECT_EQ(b, 2 * kPage);
  EXPECT_EQ(c, 5 * kPage);
  EXPECT_FALSE(heap.take(0));
  heap.give_back(a, 1);
  heap.give_back(c, 4 * kPage - 5);
  EXPECT_FALSE(heap.take(5 * kPage));
  heap.give_back(b, 3 * kPage);
  EXPECT_EQ(heap.take(8 * kPage), kPage);
}

TEST(Heap, CannotGiveWhatIsTooMuch) {
  Heap heap(0, kPage);
  EXPECT_FALSE(heap.take(std::numeric_limits<std::size_t>::max()));
  EXPECT_TRUE(heap.take(kPage));
}

long pages_of(const Arena& arena) {
  struct stat info {};
  EXPECT_EQ(::fstat(arena.file().get(), &info), 0);
  return info.st_blocks * 512 / static_cast<long>(kPage);
}

TEST(Arena, HasPagesForWhatIsInUse) {
  auto arena = Arena::create({.capacity = kMiB, .reserved = 2 * kPage, .skew = 3 * kPage}).value();
  EXPECT_EQ(pages_of(*arena), 2);
  auto memory = arena->allocate(10 * kPage);
  EXPECT_EQ(arena->offset_of(memory.get(), 10 * kPage), 5 * kPage);
  EXPECT_EQ(pages_of(*arena), 12);
  EXPECT_EQ(arena->allocate(kMiB), nullptr);
  std::memset(memory.get(), 1, 10 * kPage);
  memory.reset();
  EXPECT_EQ(pages_of(*arena), 2);
  memory = arena->allocate(1);
  EXPECT_EQ(*memory, std::byte{0});
}

// As calls do that a signal interrupts; each has to end with the pages there.
TEST(Arena, SignalsDoNotMatter) {
  fallocate_errors = {EINTR, EINTR};
  const auto arena = Arena::create({.capacity = 8 * kMiB, .reserved = 2 * kPage}).value();
  EXPECT_EQ(pages_of(*arena), 2);
  fallocate_errors = {EINTR, 0, EINTR, EINTR, 0};
  const auto memory = arena->allocate(3 * kMiB + 1);
  ASSERT_NE(memory, nullptr);
  EXPECT_EQ(fallocate_errors.size(), 0U);
  EXPECT_EQ(pages_of(*arena), static_cast<long>(3 * kMiB / kPage) + 3);
}

TEST(Arena, MemoryThatIsNotWholeIsGivenBack) {
  const auto arena = Arena::create({.capacity = 8 * kMiB, .reserved = kPage}).value();
  fallocate_errors = {0, 0, ENOSPC};
  EXPECT_EQ(arena->allocate(4 * kMiB), nullptr);
  EXPECT_EQ(pages_of(*arena), 1);
  EXPECT_NE(arena->allocate(7 * kMiB), nullptr);
  fallocate_errors = {ENOSPC};
  const auto refused = Arena::create({.capacity = kMiB, .reserved = kPage});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(),
            "allocating 4096 bytes of shared memory: No space left on device");
}

TEST(Arena, LivesAsLongAsItsMemory) {
  std::shared_ptr<std::byte> memory =
      Arena::create({.capacity = kMiB, .reserved = kPage}).value()->allocate(100);
  std::memset(memory.get(), 1, 100);
}

TEST(Arena, KnowsWhatLiesInIt) {
  const auto arena = Arena::create({.capacity = kMiB, .reserved = kPage}).value();
  const std::byte* const begin = arena->mapping()->begin();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(begin) % (256 * kMiB), 0U);
  EXPECT_EQ(arena->offset_of(begin + kMiB - 1, 1), kMiB - 1);
  EXPECT_FALSE(arena->offset_of(begin + kMiB - 1, 2));
  EXPECT_FALSE(arena->offset_of(begin - 1, 1));
  int elsewhere = 0;
  EXPECT_FALSE(arena->offset_of(&elsewhere, 1));
}

TEST(Arena, RetiredMemoryIsNotUsedAgain) {
  const auto arena = Arena::create({.capacity = kMiB, .reserved = kPage}).value();
  auto memory = arena->allocate(kPage);
  const std::byte* const before = memory.get();
  arena->retire();
  memory.reset();
  EXPECT_NE(arena->allocate(kPage).get(), before);
}

// ---- descriptors ----

TEST(FdPassing, DeliversAndNamesTheSender) {
  const Mailbox mailbox = Mailbox::open().value();
  const Descriptor file(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::pwrite(file.get(), "hello", 5, 0), 5);
  ASSERT_TRUE(send_descriptor(mailbox.name(), 7, file).ok());
  const auto delivery = mailbox.receive(steady_clock::now() + seconds(5));
  ASSERT_TRUE(delivery.ok()) << delivery.status().message();
  EXPECT_EQ(delivery.value().sender, 7);
  char text[6] = {};
  EXPECT_EQ(::pread(delivery.value().descriptor.get(), text, 5, 0), 5);
  EXPECT_STREQ(text, "hello");
}

TEST(FdPassing, DoesNotWaitForever) {
  const Mailbox mailbox = Mailbox::open().value();
  const auto delivery = mailbox.receive(steady_clock::now() + milliseconds(20));
  ASSERT_FALSE(delivery.ok());
  EXPECT_NE(delivery.status().message().find("nothing came in time"), std::string::npos);
}

TEST(FdPassing, NobodyThere) {
  EXPECT_FALSE(send_descriptor(std::string("\0nobody", 7), 0, Descriptor()).ok());
}

TEST(FdPassing, RefusesOtherUsers) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const Descriptor here(ends[0]);
  const Descriptor there(ends[1]);
  EXPECT_TRUE(check_peer(here, ::geteuid()).ok());
  const Status refused = check_peer(here, ::geteuid() + 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.message().find("refused a process of user"), std::string::npos);
}

// A process that gives up its rights, wants to send, and connects and says nothing.
TEST(FdPassing, PassesOverProcessesOfOtherUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const Mailbox mailbox = Mailbox::open().value();
  const Descriptor file(::memfd_create("test", MFD_CLOEXEC));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    // It sees that the mailbox is not its own user's.
    for (int i = 0; i < 20; ++i) {
      if (send_descriptor(mailbox.name(), 1, file).ok()) ::_exit(1);
    }
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ASSERT_TRUE(send_descriptor(mailbox.name(), 7, file).ok());
  const auto delivery = mailbox.receive(steady_clock::now() + seconds(5));
  ASSERT_TRUE(delivery.ok()) << delivery.status().message();
  EXPECT_EQ(delivery.value().sender, 7);
}

}  // namespace
}  // namespace kolo::core::shm

// What becomes of arenas where a process forks, is dumped, locks its memory, or has little.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <utility>

#include "base/forked.h"
#include "shm/arena.h"
#include "shm/arena_limits.h"

namespace kolo::core::shm {
namespace {

constexpr std::size_t kSmall = std::size_t{1} << 20;
constexpr std::size_t kLarge = std::size_t{8} << 30;
constexpr std::size_t kFirstPage = Heap::kPage;

std::shared_ptr<Arena> make_arena(std::size_t capacity) {
  return Arena::create({.capacity = capacity, .reserved = kFirstPage}).value();
}

struct stat look_at(const Arena& arena) {
  struct stat info {};
  EXPECT_EQ(::fstat(arena.file().get(), &info), 0);
  return info;
}

std::size_t bytes_with_pages(const Arena& arena) {
  return static_cast<std::size_t>(look_at(arena).st_blocks) * 512;
}

/// What a child that does this ends with.
int status_of_child(const std::function<int()>& life) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(life());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// ---- fork ----

TEST(ArenaInAChild, IsACopy) {
  const auto arena = make_arena(kSmall);
  const auto memory = arena->allocate(3 * Heap::kPage);
  const std::span bytes(memory.get(), 3 * Heap::kPage);
  std::ranges::fill(bytes, std::byte{7});
  EXPECT_EQ(status_of_child([&] {
              for (const std::byte byte : bytes) {
                if (byte != std::byte{7}) return 1;
              }
              std::ranges::fill(bytes, std::byte{9});
              return bytes[5] == std::byte{9} ? 0 : 2;
            }),
            0);
  for (const std::byte byte : bytes) ASSERT_EQ(byte, std::byte{7});
}

TEST(ArenaInAChild, WhatIsFreedStaysWithTheParent) {
  auto arena = make_arena(kSmall);
  auto memory = arena->allocate(Heap::kPage);
  *memory = std::byte{7};
  const std::size_t bytes = bytes_with_pages(*arena);
  EXPECT_EQ(status_of_child([&] {
              if (!is_forked_child()) return 1;
              arena.reset();
              memory.reset();
              return 0;
            }),
            0);
  EXPECT_FALSE(is_forked_child());
  EXPECT_EQ(*memory, std::byte{7});
  EXPECT_EQ(bytes_with_pages(*arena), bytes);
}

TEST(ArenaInAChild, ThoseThatAreGoneDoNotMatter) {
  { const auto gone = make_arena(kSmall); }
  EXPECT_EQ(status_of_child([] { return 0; }), 0);
}

// ---- dumps, locks, limits ----

/// What the kernel says of the mapping that begins there (proc(5): VmFlags).
std::string flags_of(const std::byte* begin) {
  std::ostringstream address;
  address << std::hex << reinterpret_cast<std::uintptr_t>(begin) << "-";
  std::ifstream file("/proc/self/smaps");
  std::string line;
  while (std::getline(file, line) && !line.starts_with(address.str())) {
  }
  while (std::getline(file, line) && !line.starts_with("VmFlags:")) {
  }
  return line + " ";
}

TEST(Arena, IsInNoCoreDump) {
  const auto arena = make_arena(kSmall);
  const Mapping peers = Mapping::map(arena->file(), kSmall).value();
  EXPECT_NE(flags_of(arena->mapping()->begin()).find(" dd "), std::string::npos);
  EXPECT_NE(flags_of(peers.begin()).find(" dd "), std::string::npos);
}

TEST(Arena, PeersMemoryIsNotInChildren) {
  const auto arena = make_arena(kSmall);
  const Mapping peers = Mapping::map(arena->file(), kSmall).value();
  EXPECT_EQ(flags_of(arena->mapping()->begin()).find(" dc "), std::string::npos);
  EXPECT_NE(flags_of(peers.begin()).find(" dc "), std::string::npos);
}

TEST(Arena, GrowsWithWhatIsInUse) {
  const auto arena = make_arena(kLarge);
  EXPECT_EQ(look_at(*arena).st_size, static_cast<off_t>(kFirstPage));
  const auto memory = arena->allocate(kSmall);
  EXPECT_EQ(look_at(*arena).st_size, static_cast<off_t>(kFirstPage + kSmall));
}

// The kernel gives pages to all that a file has.
TEST(Arena, LockedMemoryIsWhatIsInUse) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer's memory cannot be locked";
#endif
  const auto before = make_arena(kLarge);
  if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0) GTEST_SKIP() << "memory cannot be locked here";
  const auto after = make_arena(kLarge);
  const auto memory = after->allocate(kSmall);
  ::munlockall();
  EXPECT_EQ(bytes_with_pages(*before), kFirstPage);
  EXPECT_EQ(bytes_with_pages(*after), kFirstPage + kSmall);
}

/// In a child, where nobody else is in want of addresses.
TEST(ArenaLimits, OfAddresses) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer takes more addresses";
#endif
  EXPECT_EQ(status_of_child([] {
              constexpr std::size_t kLimit = std::size_t{3} << 30;
              const rlimit set{.rlim_cur = kLimit, .rlim_max = kLimit};
              if (::setrlimit(RLIMIT_AS, &set) != 0) return 1;
              const ArenaLimit two = largest_arena(2);
              const ArenaLimit four = largest_arena(4);
              if (two.see != " (see ulimit -v)" || two.bytes > kLimit / 4) return 2;
              if (four.bytes > two.bytes / 2 + Heap::kPage) return 3;
              const auto refused = Arena::create({.capacity = kLarge, .reserved = kFirstPage});
              if (refused.ok()) return 4;
              return refused.status().message() ==
                             "reserving 8858370048 bytes of addresses (see ulimit -v): Cannot "
                             "allocate memory"
                         ? 0
                         : 5;
            }),
            0);
}

}  // namespace
}  // namespace kolo::core::shm

#include "shm/private_in_children.h"

#include <pthread.h>
#include <sys/mman.h>

#include <map>
#include <mutex>

#include "base/forked.h"

namespace kolo::core::shm {
namespace {

struct Shared {
  std::size_t bytes;
  int file;
};

/// Locked during fork(), so that it is whole in the child. Never destroyed: fork() may be called
/// late.
struct Registry {
  std::mutex mutex;
  std::map<std::byte*, Shared> mappings;  // guarded by mutex
};

Registry& registry() {
  static auto& instance = *new Registry();
  return instance;
}

/// With system calls alone: a child of several threads may do no more.
void make_private() {
  for (const auto& [begin, shared] : registry().mappings) {
    if (::mmap(begin, shared.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
               shared.file, 0) == MAP_FAILED) {
      // No more private memory is allowed (ulimit -d, strict overcommit): then it is read only.
      ::mprotect(begin, shared.bytes, PROT_READ);
    }
    ::madvise(begin, shared.bytes, MADV_DONTDUMP);
  }
}

void watch_forks() {
  tell_children_apart();
  [[maybe_unused]] static const int registered =
      pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                     [] {
                       make_private();
                       registry().mutex.unlock();
                     });
}

}  // namespace

PrivateInChildren::PrivateInChildren(std::byte* begin, std::size_t bytes, int file)
    : begin_(begin) {
  watch_forks();
  const std::lock_guard lock(registry().mutex);
  registry().mappings.insert({begin, {bytes, file}});
  ::madvise(begin, bytes, MADV_DOFORK);
}

PrivateInChildren::~PrivateInChildren() {
  // What is destroyed in a child is the parent's still.
  if (is_forked_child()) return;
  const std::lock_guard lock(registry().mutex);
  registry().mappings.erase(begin_);
}

}  // namespace kolo::core::shm

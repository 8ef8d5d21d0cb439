#include "shm/arena.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/forked.h"
#include "base/memory_left.h"
#include "shm/failure.h"

namespace kolo::core::shm {
namespace {

constexpr std::size_t kAlignment = std::size_t{256} << 20;

void remove_pages(const Descriptor& file, std::size_t offset, std::size_t bytes) {
  ::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
              static_cast<off_t>(bytes));
}

/// So that a lack of memory is an error here, not a SIGBUS later, nor the end of the process. Piece by
/// piece: a signal may end a call with nothing done, and signals that keep coming would never let a long
/// one end; and others take memory meanwhile.
Status add_pages(const Descriptor& file, std::size_t offset, std::size_t bytes) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  Status status;
  std::size_t done = 0;
  while (done < bytes && status.ok()) {
    status = memory_left_for(bytes - done);
    if (!status.ok()) break;
    const std::size_t piece = std::min(bytes - done, kPiece);
    if (::fallocate(file.get(), 0, static_cast<off_t>(offset + done), static_cast<off_t>(piece)) ==
        0) {
      done += piece;
    } else if (errno != EINTR) {
      status = failure(fmt::format("allocating {} bytes of shared memory", bytes), errno);
    }
  }
  if (!status.ok() && done > 0) remove_pages(file, offset, done);
  return status;
}

/// What the error of mmap is about.
std::string_view limit_of(int error) {
  if (error == ENOMEM) return " (see ulimit -v)";
  if (error == EAGAIN) return " (the program locks its memory, as by mlockall(): see ulimit -l)";
  return "";
}

}  // namespace

Result<Mapping> Mapping::map(const Descriptor& file, std::size_t bytes) {
  // Reserves more than it needs, and gives back what is before and after the aligned part.
  const std::size_t reserved = bytes + kAlignment;
  void* const area =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) {
    const int error = errno;
    return failure(fmt::format("reserving {} bytes of addresses{}", reserved, limit_of(error)),
                   error);
  }
  auto* const begin = static_cast<std::byte*>(area);
  const std::size_t beyond = reinterpret_cast<std::uintptr_t>(begin) % kAlignment;
  const std::size_t before = beyond == 0 ? 0 : kAlignment - beyond;
  std::byte* const aligned = begin + before;
  if (::mmap(aligned, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             file.get(), 0) == MAP_FAILED) {
    const int error = errno;
    ::munmap(begin, reserved);
    return failure(fmt::format("mapping {} bytes of shared memory{}", bytes, limit_of(error)),
                   error);
  }
  if (before > 0) ::munmap(begin, before);
  ::munmap(aligned + bytes, reserved - before - bytes);
  ::madvise(aligned, bytes, MADV_DONTDUMP);
  ::madvise(aligned, bytes, MADV_DONTFORK);
  return Mapping(aligned, bytes);
}

Mapping::Mapping(Mapping&& other) noexcept
    : begin_(std::exchange(other.begin_, nullptr)), bytes_(other.bytes_) {}

Mapping::~Mapping() {
  if (begin_ != nullptr && !is_forked_child()) ::munmap(begin_, bytes_);
}

Result<std::shared_ptr<Arena>> Arena::create(const Layout& layout) {
  const std::size_t capacity = Heap::round_up(layout.capacity);
  Descriptor file(::memfd_create("kolo", MFD_CLOEXEC));
  if (!file.valid()) return failure("memfd_create", errno);
  if (Status status = add_pages(file, 0, layout.reserved); !status.ok()) return status;
  Result<Mapping> mapping = Mapping::map(file, capacity);
  if (!mapping.ok()) return mapping.status();
  return std::shared_ptr<Arena>(new Arena(std::move(file), std::move(mapping).value(), layout));
}

Arena::Arena(Descriptor file, Mapping mapping, const Layout& layout)
    : file_(std::move(file)),
      mapping_(std::make_shared<const Mapping>(std::move(mapping))),
      private_in_children_(mapping_->begin(), mapping_->bytes(), file_.get()),
      heap_(layout.reserved + layout.skew, mapping_->bytes()) {}

std::shared_ptr<std::byte> Arena::allocate(std::size_t bytes) {
  const std::size_t size = Heap::round_up(std::max(bytes, std::size_t{1}));
  std::unique_lock lock(mutex_);
  const std::optional<std::size_t> offset = heap_.take(bytes);
  if (!offset) return nullptr;
  if (!add_pages(file_, *offset, size).ok()) {
    heap_.give_back(*offset, bytes);
    return nullptr;
  }
  // Without memory for its owner's count, it is given back at once.
  lock.unlock();
  return {mapping_->begin() + *offset,
          [self = shared_from_this(), offset = *offset, bytes](std::byte* /*memory*/) {
            self->give_back(offset, bytes);
          }};
}

void Arena::give_back(std::size_t offset, std::size_t bytes) {
  if (is_forked_child()) return;
  const std::lock_guard lock(mutex_);
  if (retired_) return;
  remove_pages(file_, offset, Heap::round_up(std::max(bytes, std::size_t{1})));
  heap_.give_back(offset, bytes);
}

std::optional<std::uint64_t> Arena::offset_of(const void* memory, std::size_t bytes) const {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const auto begin = reinterpret_cast<std::uintptr_t>(mapping_->begin());
  if (address < begin || address - begin > mapping_->bytes() ||
      bytes > mapping_->bytes() - (address - begin)) {
    return std::nullopt;
  }
  return address - begin;
}

void Arena::retire() {
  const std::lock_guard lock(mutex_);
  retired_ = true;
}

}  // namespace kolo::core::shm

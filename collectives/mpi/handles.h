#pragma once

/// MPI's C handles as owners, and its error codes as Status.

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX
#endif
#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kolo::core::mpi {

/// Success, or an error that says `what` failed and MPI's own text for `code`. Thread-safe.
Status check(int code, std::string_view what);

/// Whether MPI may be called: it has been initialised and not finalised. Thread-safe.
bool is_active();

/// Keeps memory that MPI may still read or write, because a transfer could be neither completed nor
/// cancelled, until the process ends. Thread-safe.
void leave_to_mpi(std::shared_ptr<void> memory);

/// Owns a communicator, whose errors are returned, not fatal. Freed in the destructor unless MPI
/// was finalised before.
class Comm {
 public:
  Comm() = default;
  ~Comm();
  Comm(Comm&& other) noexcept;
  Comm& operator=(Comm&& other) noexcept;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  /// Collective over `parent`, whose ranks all wait for each other.
  static Result<Comm> duplicate(MPI_Comm parent);
  /// Collective over `parent`; ranks keep the parent's order within the part of their `color`.
  static Result<Comm> split(MPI_Comm parent, int color);
  /// Collective over `parent`; parts are the ranks that can share memory.
  static Result<Comm> split_by_host(MPI_Comm parent);

  MPI_Comm get() const { return comm_; }
  int rank() const;
  int size() const;

 private:
  static Result<Comm> adopt(MPI_Comm comm);

  MPI_Comm comm_ = MPI_COMM_NULL;
};

/// Slots for requests. Used by one thread.
///
/// MPI reads or writes the memory of a request that is still active, so whoever owns the memory
/// calls settle() before giving it back. The destructor does no more than to forget what is left.
class Requests {
 public:
  explicit Requests(std::size_t slots = 0) : requests_(slots, MPI_REQUEST_NULL) {}
  ~Requests() = default;
  Requests(Requests&&) noexcept = default;
  Requests& operator=(Requests&&) noexcept = default;
  Requests(const Requests&) = delete;
  Requests& operator=(const Requests&) = delete;

  /// Adds slots; the index of the first one.
  std::size_t add(std::size_t slots);
  /// Where MPI_Isend and the like put their request; the slot must be idle. Valid until add().
  MPI_Request* slot(std::size_t index) { return &requests_[index]; }
  bool idle(std::size_t index) const { return requests_[index] == MPI_REQUEST_NULL; }
  bool idle() const;

  /// A slot whose request failed, with MPI's code.
  struct Failure {
    std::size_t slot = 0;
    int code = MPI_SUCCESS;
  };
  struct Tested {
    bool completed_any = false;
    std::vector<Failure> failures;
  };
  /// Lets MPI work for a moment; requests that have completed leave their slots idle. Fails when
  /// MPI refuses the call as a whole.
  Result<Tested> test();

  /// Cancels what can be cancelled and waits for the rest, up to `patience`. Whether all are idle
  /// then: if not, MPI may still touch their memory.
  bool settle(std::chrono::nanoseconds patience);

 private:
  std::vector<MPI_Request> requests_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace kolo::core::mpi

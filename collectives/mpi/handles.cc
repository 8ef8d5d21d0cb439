#include "mpi/handles.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <thread>
#include <utility>

namespace kolo::core::mpi {

Status check(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return {};
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) {
    return Status::error(fmt::format("{}: MPI error {}", what, code));
  }
  return Status::error(fmt::format("{}: {}", what, text.data()));
}

bool is_active() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

void leave_to_mpi(std::shared_ptr<void> memory) {
  static std::mutex mutex;
  static auto* const left = new std::vector<std::shared_ptr<void>>();
  const std::lock_guard lock(mutex);
  left->push_back(std::move(memory));
}

Comm::~Comm() {
  if (comm_ != MPI_COMM_NULL && is_active()) MPI_Comm_free(&comm_);
}

Comm::Comm(Comm&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}

Comm& Comm::operator=(Comm&& other) noexcept {
  std::swap(comm_, other.comm_);
  return *this;
}

Result<Comm> Comm::adopt(MPI_Comm raw) {
  Comm comm;
  comm.comm_ = raw;
  Status status = check(MPI_Comm_set_errhandler(raw, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (!status.ok()) return status;
  return comm;
}

Result<Comm> Comm::duplicate(MPI_Comm parent) {
  MPI_Comm raw = MPI_COMM_NULL;
  if (Status status = check(MPI_Comm_dup(parent, &raw), "MPI_Comm_dup"); !status.ok()) {
    return status;
  }
  return adopt(raw);
}

Result<Comm> Comm::split(MPI_Comm parent, int color) {
  MPI_Comm raw = MPI_COMM_NULL;
  Status status = check(MPI_Comm_split(parent, color, 0, &raw), "MPI_Comm_split");
  if (!status.ok()) return status;
  return adopt(raw);
}

Result<Comm> Comm::split_by_host(MPI_Comm parent) {
  MPI_Comm raw = MPI_COMM_NULL;
  Status status = check(MPI_Comm_split_type(parent, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &raw),
                        "MPI_Comm_split_type");
  if (!status.ok()) return status;
  return adopt(raw);
}

int Comm::rank() const {
  int rank = 0;
  MPI_Comm_rank(comm_, &rank);
  return rank;
}

int Comm::size() const {
  int size = 1;
  MPI_Comm_size(comm_, &size);
  return size;
}

std::size_t Requests::add(std::size_t slots) {
  const std::size_t first = requests_.size();
  requests_.resize(first + slots, MPI_REQUEST_NULL);
  return first;
}

bool Requests::idle() const {
  return std::ranges::all_of(requests_, [](MPI_Request r) { return r == MPI_REQUEST_NULL; });
}

Result<Requests::Tested> Requests::test() {
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int completed = 0;
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &completed,
                                indices_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return check(code, "MPI_Testsome");
  Tested tested;
  if (completed == MPI_UNDEFINED) return tested;  // all are idle
  tested.completed_any = completed > 0;
  if (code == MPI_SUCCESS) return tested;
  for (int i = 0; i < completed; ++i) {
    const int error = statuses_[static_cast<std::size_t>(i)].MPI_ERROR;
    if (error == MPI_SUCCESS || error == MPI_ERR_PENDING) continue;
    tested.failures.push_back(
        {static_cast<std::size_t>(indices_[static_cast<std::size_t>(i)]), error});
  }
  return tested;
}

bool Requests::settle(std::chrono::nanoseconds patience) {
  if (idle()) return true;
  if (!is_active()) return false;
  for (MPI_Request& request : requests_) {
    if (request != MPI_REQUEST_NULL) MPI_Cancel(&request);
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (true) {
    if (const Result<Tested> tested = test(); !tested.ok()) return false;
    if (idle()) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::yield();
  }
}

}  // namespace kolo::core::mpi

#include "data/mpi_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "data/mpi_operations.h"
#include "data/well_formed.h"

namespace kolo::core {
namespace {

// Operations of a channel that are in flight at the same time have different numbers modulo this.
// Those that do not follow each other so far apart that one is over, on this member, before the
// other begins; MPI then keeps their messages apart, because it does not let them overtake each
// other.
constexpr std::int64_t kSequences = 256;
constexpr std::int64_t kTagsPerOperation = 2;
static_assert(std::tuple_size_v<decltype(MpiSetup::tags)> == kTagsPerOperation);

// What one message may hold; MPI counts bytes in an int.
constexpr std::int64_t kLargestChunk = std::int64_t{1} << 30;

/// On no elements.
class EmptyOperation final : public Operation {
 public:
  Result<Progress> progress() override { return Progress::Done; }
  std::vector<int> missing() const override { return {}; }
};

}  // namespace

Result<std::unique_ptr<MpiDataPlane>> MpiDataPlane::create(const mpi::Session& session,
                                                           const MpiDataOptions& options) {
  Result<mpi::Comm> comm = session.duplicate_world();
  if (!comm.ok()) return comm.status();
  int* limit = nullptr;
  int found = 0;
  Status status = mpi::check(
      MPI_Comm_get_attr(comm.value().get(), MPI_TAG_UB, static_cast<void*>(&limit), &found),
      "asking for MPI_TAG_UB");
  if (!status.ok()) return status;
  constexpr int kGuaranteed = 32767;
  return std::unique_ptr<MpiDataPlane>(
      new MpiDataPlane(std::move(comm).value(), options, found != 0 ? *limit : kGuaranteed));
}

MpiDataPlane::MpiDataPlane(mpi::Comm comm, const MpiDataOptions& options, int tag_limit)
    : comm_(std::move(comm)),
      options_(options),
      tag_limit_(tag_limit),
      rank_(comm_.rank()),
      size_(comm_.size()) {}

Result<std::unique_ptr<Operation>> MpiDataPlane::start(const Collective& collective) {
  if (Status status = well_formed(collective, rank_, size_); !status.ok()) return status;
  const bool is_empty = input_count(collective) == 0 && collective.count == 0;
  if (is_empty) return std::unique_ptr<Operation>(std::make_unique<EmptyOperation>());

  const auto number = static_cast<std::int64_t>(collective.sequence % kSequences);
  const std::int64_t tag = (collective.channel * kSequences + number) * kTagsPerOperation;
  if (tag + kTagsPerOperation - 1 > tag_limit_) {
    return Status::error(fmt::format("channel {} is more than the tags of this MPI can tell apart",
                                     collective.channel));
  }
  MpiSetup setup;
  setup.comm = comm_.get();
  setup.tags = {static_cast<int>(tag), static_cast<int>(tag + 1)};
  const auto element = static_cast<std::int64_t>(size_of(collective.dtype));
  const std::int64_t chunk = std::clamp(options_.chunk_bytes, element, kLargestChunk);
  setup.chunk_bytes = chunk - chunk % element;

  switch (collective.kind) {
    case CollectiveKind::Allreduce:
      return collective.count * element <= std::min(options_.direct_bytes, kLargestChunk)
                 ? start_direct_allreduce(setup, collective)
                 : start_sliced_allreduce(setup, collective);
    case CollectiveKind::Broadcast:
      return start_broadcast(setup, collective);
    case CollectiveKind::Allgather:
    case CollectiveKind::Alltoall:
      return start_spread(setup, collective);
    case CollectiveKind::Reducescatter:
      return start_reducescatter(setup, collective);
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;  // refused by well_formed()
  }
  return Status::error("not an operation for a data plane");
}

}  // namespace kolo::core

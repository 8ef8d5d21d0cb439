#include "data/mpi_slices.h"

#include <algorithm>

#include "data/reduce.h"

namespace kolo::core {

SlicedReduction::SlicedReduction(const MpiSetup& setup, const Collective& collective,
                                 std::vector<Chunks> slices, std::byte* result)
    : MpiOperation(setup, collective),
      own_(slices[static_cast<std::size_t>(collective.member)]),
      result_{result, own_.bytes, own_.chunk_bytes} {
  const std::int64_t place_bytes = std::min(own_.chunk_bytes, own_.bytes);
  const std::int64_t peer_bytes = place_bytes * std::min(kWindow, own_.count());
  std::byte* scratch = exchange().allocate_scratch(peer_bytes * (members() - 1));
  for (const int member : peers()) {
    parts_.push_back({.member = member,
                      .slice = slices[static_cast<std::size_t>(member)],
                      .scratch = {scratch, peer_bytes, place_bytes},
                      .in = open_lane(Direction::Receive, member, 0),
                      .out = open_lane(Direction::Send, member, 0)});
    scratch += peer_bytes;
  }
}

Status SlicedReduction::post(Parts& parts) {
  Status status;
  // There is room: what is reduced has been received.
  while (status.ok() && parts.in.posted() < std::min(reduced_ + kWindow, own_.count())) {
    const std::int64_t chunk = parts.in.posted();
    status = parts.in.post(parts.of(chunk, own_[chunk].size()));
  }
  if (status.ok()) status = parts.out.post(parts.slice, parts.slice.count());
  return status;
}

bool SlicedReduction::reduce_next() {
  const auto has_part = [this](Lane& lane) { return lane.completed() > reduced_; };
  if (reduced_ == own_.count() || !std::ranges::all_of(parts_, has_part, &Parts::in)) {
    return false;
  }
  const std::span<std::byte> own = own_[reduced_];
  std::vector<const void*> inputs(collective().ranks.size());
  inputs[static_cast<std::size_t>(collective().member)] = own.data();
  for (const Parts& parts : parts_) {
    inputs[static_cast<std::size_t>(parts.member)] = parts.of(reduced_, own.size()).data();
  }
  void* const output = result_[reduced_].data();
  const std::size_t count = own.size() / size_of(collective().dtype);
  reduce(collective().dtype, collective().op, inputs, {&output, 1},
         static_cast<std::int64_t>(count), collective().prescale, collective().postscale);
  ++reduced_;
  return true;
}

}  // namespace kolo::core

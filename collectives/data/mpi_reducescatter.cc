#include <algorithm>
#include <vector>

#include "data/mpi_slices.h"

namespace kolo::core {
namespace {

/// What each member gets of the reduced vector.
std::vector<Chunks> slices_by_counts(const MpiSetup& setup, const Collective& c) {
  std::vector<Chunks> slices;
  std::int64_t begin = 0;
  for (const std::int64_t count : c.counts) {
    slices.push_back(input_chunks(c, begin, count, setup.chunk_bytes));
    begin += count;
  }
  return slices;
}

class Reducescatter final : public SlicedReduction {
 public:
  Reducescatter(const MpiSetup& setup, const Collective& collective)
      : SlicedReduction(setup, collective, slices_by_counts(setup, collective),
                        static_cast<std::byte*>(collective.output)) {}

 private:
  Result<bool> advance() override {
    do {
      for (Parts& other : parts()) {
        if (Status status = post(other); !status.ok()) return status;
      }
    } while (reduce_next());
    return reduced() == result().count() &&
           std::ranges::all_of(parts(), [](Parts& other) { return other.sent(); });
  }
};

}  // namespace

StartedOperation start_reducescatter(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<Reducescatter>(setup, collective));
}

}  // namespace kolo::core

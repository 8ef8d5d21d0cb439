#include <algorithm>
#include <cstring>
#include <vector>

#include "data/reduce.h"
#include "data/shm_operations.h"
#include "data/stream_copy.h"

namespace kolo::core {
namespace {

constexpr std::int64_t kSliceUnit = 64;
constexpr std::int64_t kSlots = 2;

/// Each member owns a slice of the vector, which it reduces over all members' memory into all
/// members' memory. Where all vectors lie in arenas that is one step, without a copy. Otherwise the
/// vector goes in chunks: a member whose memory is private fills a slot with the others' slices of
/// its chunk, and copies what they have made of them out of theirs.
///
///   state      meaning                              leaves it
///   ---------  -----------------------------------  ---------------------------------------------
///   Announced  others may not use the memory yet    all others have arrived -> Stepping; or Done, if
///                                                   any declines
///   Stepping   in each step s, as far as it can:
///              fills s (private members only)       at most kSlots ahead of what it has drained:
///                                                   then all have finished s - kSlots, and need
///                                                   the slot no more
///              finishes s: reduces its slice        when all private members have filled s, and so
///                                                   have drained s - kSlots and need the result's
///                                                   slot no more
///              drains s: copies others' slices      when all have finished s. The last -> Drained
///   Drained    private members have told so by      all private members are Drained, and need no
///              filling a step too many              slot -> Done
class SlicedAllreduce final : public ShmOperation {
 public:
  SlicedAllreduce(const ShmSetup& setup, const Collective& collective)
      : ShmOperation(setup, collective),
        output_(static_cast<std::byte*>(collective.output)),
        bytes_(bytes_of(collective.count)),
        direct_(members() == 1 ||
                setup.host.own().offset_of(output_, static_cast<std::size_t>(bytes_)).has_value()),
        streams_(bytes_ >= kStreamed) {
    announce(peers(), output_, bytes_);
  }

 private:
  // Where copies past the cache begin to pay.
  static constexpr std::int64_t kStreamed = std::int64_t{64} << 10;

  struct Range {
    std::int64_t begin;
    std::int64_t end;

    std::int64_t size() const { return end - begin; }
  };

  Result<Progress> advance() override {
    if (!stepping_) {
      if (!all_have_arrived()) return Progress::Waiting;
      if (any_declines()) return Progress::Done;
      if (Status status = begin_stepping(); !status.ok()) return status;
    }
    bool moved = drain();
    moved |= fill();
    moved |= finish();
    if (drained_ == steps_ && everybody_has_drained()) return Progress::Done;
    return moved ? Progress::Moved : Progress::Waiting;
  }

  Status begin_stepping() {
    for (const int member : peers()) {
      if (Status status = check_arrival(member, bytes_); !status.ok()) return status;
      if (!told_by(member).direct) private_peers_.push_back(member);
    }
    staged_ = !direct_ || !private_peers_.empty();
    chunk_ = staged_ ? setup().options.chunk_bytes : bytes_;
    steps_ = (bytes_ + chunk_ - 1) / chunk_;
    if (staged_ && stage() == nullptr) {
      return Status::error("no shared memory is left for an all-reduce's stage");
    }
    stepping_ = true;
    return {};
  }

  Range chunk(std::int64_t step) const {
    return {step * chunk_, std::min(bytes_, (step + 1) * chunk_)};
  }

  Range slice(std::int64_t step, int member) const {
    const Range all = chunk(step);
    const std::int64_t units = (all.size() + kSliceUnit - 1) / kSliceUnit;
    const auto border = [&](int before) {
      return all.begin + std::min(units * before / members() * kSliceUnit, all.size());
    };
    return {border(member), border(member + 1)};
  }

  /// Where in its slots a step's chunk is; the results' slots are behind the inputs'.
  std::int64_t slot(std::int64_t step) const { return step % kSlots * chunk_; }
  std::int64_t result_slot(std::int64_t step) const { return kSlots * chunk_ + slot(step); }

  void copy_to_slot(std::int64_t slot, std::int64_t step, Range range) {
    const std::int64_t size = range.size();
    if (size == 0) return;
    std::byte* const to = stage() + slot + (range.begin - chunk(step).begin);
    copy(to, output_ + range.begin, size);
  }

  void copy(std::byte* to, const std::byte* from, std::int64_t size) const {
    if (streams_) {
      stream_copy(to, from, static_cast<std::size_t>(size));
    } else {
      std::memcpy(to, from, static_cast<std::size_t>(size));
    }
  }

  bool fill() {
    if (direct_ || filled_ == steps_ || filled_ - drained_ == kSlots) return false;
    const Range all = chunk(filled_);
    const Range own = slice(filled_, self());
    copy_to_slot(slot(filled_), filled_, {all.begin, own.begin});
    copy_to_slot(slot(filled_), filled_, {own.end, all.end});
    ++filled_;
    for (const int member : peers()) tell(member, ShmSignal::Kind::Filled, place_of(stage()));
    return true;
  }

  const std::byte* input(int member, std::int64_t begin) const {
    if (member == self()) return output_ + begin;
    const ShmMember& other = told_by(member);
    if (other.direct) return at(member, other.place, bytes_) + begin;
    return at(member, other.filled_place, kSlots * chunk_) + slot(finished_) +
           (begin - chunk(finished_).begin);
  }

  /// Reduces a piece of the own slice.
  bool finish() {
    const auto filled = [this](int member) { return told_by(member).filled > finished_; };
    if (finished_ == steps_ || !std::ranges::all_of(private_peers_, filled)) return false;
    const Range own = slice(finished_, self());
    const std::int64_t begin = own.begin + reduced_;
    const std::int64_t size = std::min(own.end - begin, setup().options.piece_bytes);
    if (size > 0) {
      inputs_.clear();
      outputs_.assign(1, output_ + begin);
      for (int member = 0; member < members(); ++member) inputs_.push_back(input(member, begin));
      for (const int member : peers()) {
        const ShmMember& other = told_by(member);
        if (other.direct) outputs_.push_back(at(member, other.place, bytes_) + begin);
      }
      reduce(collective().dtype, collective().op, inputs_, outputs_,
             size / static_cast<std::int64_t>(size_of(collective().dtype)), collective().prescale,
             collective().postscale);
      if (!private_peers_.empty()) {
        copy_to_slot(result_slot(finished_), finished_, {begin, begin + size});
      }
    }
    reduced_ += size;
    if (reduced_ < own.size()) return true;
    reduced_ = 0;
    ++finished_;
    const std::uint64_t place = staged_ ? place_of(stage()) : 0;
    for (const int member : peers()) tell(member, ShmSignal::Kind::Finished, place);
    return true;
  }

  bool drain() {
    const auto finished = [this](int member) { return told_by(member).finished > drained_; };
    if (drained_ == finished_ || !std::ranges::all_of(peers(), finished)) return false;
    if (!direct_) {
      for (const int member : peers()) {
        const Range theirs = slice(drained_, member);
        if (theirs.size() == 0) continue;
        const std::byte* const slots =
            at(member, told_by(member).finished_place, 2 * kSlots * chunk_);
        std::memcpy(output_ + theirs.begin,
                    slots + result_slot(drained_) + (theirs.begin - chunk(drained_).begin),
                    static_cast<std::size_t>(theirs.size()));
      }
    }
    ++drained_;
    if (drained_ == steps_ && !direct_) {
      for (const int member : peers()) tell(member, ShmSignal::Kind::Filled, place_of(stage()));
    }
    return true;
  }

  bool everybody_has_drained() const {
    const auto drained = [this](int member) { return told_by(member).filled > steps_; };
    return std::ranges::all_of(private_peers_, drained);
  }

  std::byte* const output_;
  const std::int64_t bytes_;
  /// Whether the others can use this member's memory.
  const bool direct_;
  const bool streams_;
  std::vector<int> private_peers_;
  bool stepping_ = false;
  bool staged_ = false;
  std::int64_t chunk_ = 0;
  std::int64_t steps_ = 0;
  std::int64_t filled_ = 0;
  std::int64_t finished_ = 0;
  std::int64_t drained_ = 0;
  /// Bytes of the own slice in the step that is being finished.
  std::int64_t reduced_ = 0;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
};

}  // namespace

StartedOperation start_sliced_allreduce(const ShmSetup& setup, const Collective& collective) {
  return ShmOperation::begin(std::make_unique<SlicedAllreduce>(setup, collective));
}

}  // namespace kolo::core

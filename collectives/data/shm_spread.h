#pragma once

/// One member's bytes to others over shared memory: all that a broadcast, an all-gather and an
/// all-to-all consist of, and all that a reduce-scatter does besides reducing.
///
///   giver      meaning                              leaves it
///   ---------  ----------------------------------- -----------------------------------------------
///   Announced  few bytes went within the signal     at once -> done
///              in an arena: takers read them there  all takers have finished a step -> done
///              private: -> Filling
///   Filling    step s goes into slot s % kSlots     all takers have finished all steps -> done
///              when all have finished s - kSlots
///
///   taker      meaning                              leaves it
///   ---------  ----------------------------------- -----------------------------------------------
///   Waiting    the giver has not arrived            copies what came within the signal -> done;
///                                                   else -> Taking
///   Taking     copies a piece from the giver's      all of the arena's bytes, or the last step:
///   done
///              arena, or a slot that is filled, and
///              tells that it has finished a step

#include <cstdint>
#include <span>
#include <vector>

#include "data/shm_operations.h"

namespace kolo::core {

/// An operation that gives and takes at will.
class ShmSpread : public ShmOperation {
 protected:
  static constexpr std::int64_t kSlots = 4;

  using ShmOperation::ShmOperation;

  /// Where a giver's steps go in its member's stage, and how long they are.
  struct Slots {
    std::int64_t begin = 0;
    std::int64_t chunk = 0;
  };
  /// Of one giver that has the stage to itself, and of one that gives to `peer` alone: all peers
  /// get an equal share of the stage.
  Slots whole_stage() const { return {.chunk = setup().options.chunk_bytes}; }
  Slots share_for(std::size_t peer) const;
  /// What a member has put into its slots in step `step`.
  const std::byte* filled_by(int giver, std::int64_t step, std::int64_t chunk) const;

  class Giver {
   public:
    Giver(ShmSpread& operation, const void* from, std::int64_t bytes, std::vector<int> takers,
          const Slots& slots);
    Result<Progress> advance();

   private:
    ShmSpread& operation_;
    const std::byte* from_;
    std::int64_t bytes_;
    std::vector<int> takers_;
    Slots slots_;
    std::int64_t steps_ = 0;
    std::int64_t filled_ = 0;
  };

  class Taker {
   public:
    /// `chunk`: the length of the giver's steps.
    Taker(ShmSpread& operation, int giver, std::byte* to, std::int64_t bytes, std::int64_t chunk)
        : operation_(operation), giver_(giver), to_(to), bytes_(bytes), chunk_(chunk) {}
    Result<Progress> advance();

   private:
    Progress take_direct(const ShmMember& giver);
    Progress take_step(const ShmMember& giver);

    ShmSpread& operation_;
    int giver_;
    std::byte* to_;
    std::int64_t bytes_;
    std::int64_t chunk_;
    std::int64_t taken_ = 0;
    std::int64_t steps_ = 0;
    bool done_ = false;
  };

  /// Done when both, or all, are; moved when any has.
  static Progress both(Progress one, Progress other);
  template <typename Part>
  static Result<Progress> advance_all(std::vector<Part>& parts) {
    Progress all = Progress::Done;
    for (Part& part : parts) {
      const Result<Progress> progress = part.advance();
      if (!progress.ok()) return progress;
      all = both(all, progress.value());
    }
    return all;
  }
};

}  // namespace kolo::core

#pragma once

/// One member's bytes to others over shared memory: all that a broadcast and an all-gather consist
/// of.
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
  using ShmOperation::ShmOperation;

  class Giver {
   public:
    Giver(ShmSpread& operation, const void* from, std::int64_t bytes, std::vector<int> takers);
    Result<Progress> advance();

   private:
    ShmSpread& operation_;
    const std::byte* from_;
    std::int64_t bytes_;
    std::vector<int> takers_;
    std::int64_t chunk_ = 0;
    std::int64_t steps_ = 0;
    std::int64_t filled_ = 0;
  };

  class Taker {
   public:
    Taker(ShmSpread& operation, int giver, std::byte* to, std::int64_t bytes)
        : operation_(operation), giver_(giver), to_(to), bytes_(bytes) {}
    Result<Progress> advance();

   private:
    Progress take_direct(const ShmMember& giver);
    Progress take_step(const ShmMember& giver);

    ShmSpread& operation_;
    int giver_;
    std::byte* to_;
    std::int64_t bytes_;
    std::int64_t taken_ = 0;
    std::int64_t steps_ = 0;
    bool done_ = false;
  };
};

}  // namespace kolo::core

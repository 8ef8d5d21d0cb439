#pragma once

/// What the members of a communicator tell each other before NCCL connects them.

#include <nccl.h>

#include <array>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace kolo::core {

/// Travels as bytes.
struct NcclIntroduction {
  /// Of the first member, who makes it for all.
  ncclUniqueId id{};
  int nccl_version = 0;
  /// The GPU, as the same everywhere on a host, and the host: its name, and what its kernel calls
  /// itself since it was booted, if that is known. Containers on it may have names of their own, and
  /// those on another one the same.
  std::array<char, 32> gpu{};
  std::array<char, 64> host{};
  std::array<char, 40> boot{};
  /// Why this member cannot connect; empty when it can.
  std::array<char, 512> refusal{};
};

/// Of this process, which uses `device`. Fails nowhere: what goes wrong is its refusal, so that all
/// members hear of it.
NcclIntroduction introduce(int device, bool first_member);

/// Why these members cannot connect, in the same words on all of them; success when they can.
/// `ranks`: theirs. `gpus_are_shared`: several may use one GPU.
Status can_connect(std::span<const NcclIntroduction> members, const std::vector<int>& ranks,
                   bool gpus_are_shared);

}  // namespace kolo::core

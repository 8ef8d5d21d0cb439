#include "data/nccl_introduction.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <string_view>

#include "cuda/check.h"
#include "cuda/communicator.h"

namespace kolo::core {
namespace {

template <std::size_t Size>
void write(std::array<char, Size>& field, std::string_view text) {
  field.fill('\0');
  std::copy_n(text.begin(), std::min(text.size(), Size - 1), field.begin());
}

/// Empty if it is not known.
std::string boot_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

bool on_same_host(const NcclIntroduction& a, const NcclIntroduction& b) {
  const bool known = a.boot.front() != '\0' && b.boot.front() != '\0';
  return known ? a.boot == b.boot : a.host == b.host;
}

Status fill(NcclIntroduction& own, int device, bool first_member) {
  gethostname(own.host.data(), own.host.size() - 1);
  write(own.boot, boot_id());
  const Result<int> version = cuda::nccl_version();
  if (!version.ok()) return version.status();
  own.nccl_version = version.value();
  const Status found =
      cuda::check(cudaDeviceGetPCIBusId(own.gpu.data(), static_cast<int>(own.gpu.size()), device),
                  fmt::format("cudaDeviceGetPCIBusId of GPU {}", device));
  if (!found.ok() || !first_member) return found;
  const Result<ncclUniqueId> id = cuda::new_communicator_id();
  if (!id.ok()) return id.status();
  own.id = id.value();
  return {};
}

}  // namespace

NcclIntroduction introduce(int device, bool first_member) {
  NcclIntroduction own;
  if (const Status status = fill(own, device, first_member); !status.ok()) {
    write(own.refusal, status.message());
  }
  return own;
}

Status can_connect(std::span<const NcclIntroduction> members, const std::vector<int>& ranks,
                   bool gpus_are_shared) {
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i].refusal.front() != '\0') {
      return Status::error(fmt::format("rank {}: {}", ranks[i], members[i].refusal.data()));
    }
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i].nccl_version != members.front().nccl_version) {
      return Status::error(fmt::format(
          "rank {} has NCCL {}, but rank {} has {}: they must be the same", ranks.front(),
          members.front().nccl_version, ranks[i], members[i].nccl_version));
    }
    for (std::size_t j = 0; j < i && !gpus_are_shared; ++j) {
      if (members[i].gpu != members[j].gpu || !on_same_host(members[i], members[j])) continue;
      return Status::error(fmt::format(
          "ranks {} and {} both use GPU {} of host {}, and NCCL wants one for each: start no more "
          "ranks on a host than it has GPUs, give each rank a device of its own in "
          "CUDA_VISIBLE_DEVICES, or set KOLO_SHARED_GPU=on",
          ranks[j], ranks[i], members[i].gpu.data(), members[i].host.data()));
    }
  }
  return {};
}

}  // namespace kolo::core

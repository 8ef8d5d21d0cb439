// LibTorch 1: Gloo is a process group.

#include "bench/c10d_version.h"

namespace kolo::bench::c10d_version {

c10::intrusive_ptr<c10d::ProcessGroup> as_process_group(
    const c10::intrusive_ptr<c10d::Store>& /*store*/,
    const c10::intrusive_ptr<c10d::ProcessGroupGloo>& gloo) {
  return gloo;
}

std::unique_ptr<c10d::Reducer> make_reducer(ReducerArguments a) {
  std::vector<bool> sparse(a.parameters.size(), false);
  return std::make_unique<c10d::Reducer>(
      std::move(a.parameters), std::move(a.buckets), std::move(a.bucket_limits), std::move(a.group),
      std::move(sparse), c10d::kDefaultBucketBytesCap, /*find_unused_parameters=*/false,
      a.gradient_as_bucket_view, std::move(a.names), c10d::kDefaultFirstBucketBytes);
}

}  // namespace kolo::bench::c10d_version

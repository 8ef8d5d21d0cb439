// LibTorch 2: Gloo is the backend of a process group; buckets limit themselves.

#include "bench/c10d_version.h"

namespace kolo::bench::c10d_version {

c10::intrusive_ptr<c10d::ProcessGroup> as_process_group(
    const c10::intrusive_ptr<c10d::Store>& store,
    const c10::intrusive_ptr<c10d::ProcessGroupGloo>& gloo) {
  constexpr auto kGloo = c10d::ProcessGroup::BackendType::GLOO;
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, gloo->getRank(), gloo->getSize());
  group->setBackend(c10::DeviceType::CPU, kGloo, c10::intrusive_ptr<c10d::Backend>(gloo));
  group->setDefaultBackend(kGloo);
  return group;
}

std::unique_ptr<c10d::Reducer> make_reducer(ReducerArguments a) {
  std::vector<bool> sparse(a.parameters.size(), false);
  return std::make_unique<c10d::Reducer>(
      std::move(a.parameters), std::move(a.buckets), std::move(a.group), std::move(sparse),
      c10d::kDefaultBucketBytesCap, /*find_unused_parameters=*/false, a.gradient_as_bucket_view,
      std::move(a.names), c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false, /*bucket_bytes_cap_list=*/std::vector<std::int64_t>());
}

}  // namespace kolo::bench::c10d_version

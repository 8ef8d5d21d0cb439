#pragma once

/// What c10d calls differently from one version of LibTorch to the next.

#include <torch/torch.h>

#include <cstddef>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <unordered_map>
#include <vector>

namespace kolo::bench::c10d_version {

c10::intrusive_ptr<c10d::ProcessGroup> as_process_group(
    const c10::intrusive_ptr<c10d::Store>& store,
    const c10::intrusive_ptr<c10d::ProcessGroupGloo>& gloo);

struct ReducerArguments {
  std::vector<torch::Tensor> parameters;
  std::vector<std::vector<std::size_t>> buckets;
  std::vector<std::size_t> bucket_limits;
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::unordered_map<std::size_t, std::string> names;
  bool gradient_as_bucket_view = false;
};

/// With DistributedDataParallel's defaults.
std::unique_ptr<c10d::Reducer> make_reducer(ReducerArguments arguments);

}  // namespace kolo::bench::c10d_version

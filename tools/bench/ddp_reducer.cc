// LibTorch's own way, as Python's DistributedDataParallel drives it.

#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <unordered_map>
#include <utility>

#include "bench/c10d_version.h"
#include "bench/reducers.h"

namespace kolo::bench {
namespace {

constexpr const char* kHost = "127.0.0.1";

/// Where the ranks meet: rank 0 serves the others on a port that is free, as in Python. There is no
/// file that killed ranks would leave.
c10::intrusive_ptr<c10d::TCPStore> meet(const Ranks& ranks) {
  c10d::TCPStoreOptions options;
  options.isServer = ranks.rank() == 0;
  options.waitWorkers = false;
  options.port = 0;
  c10::intrusive_ptr<c10d::TCPStore> store;
  if (options.isServer) {
    store = c10::make_intrusive<c10d::TCPStore>(kHost, options);
    options.port = store->getPort();
  }
  require_mpi(MPI_Bcast(&options.port, 1, MPI_UINT16_T, 0, ranks.comm()), "MPI_Bcast");
  return options.isServer ? store : c10::make_intrusive<c10d::TCPStore>(kHost, options);
}

c10::intrusive_ptr<c10d::ProcessGroup> make_process_group(const Ranks& ranks) {
  const auto store = meet(ranks);
  const auto options = c10d::ProcessGroupGloo::Options::create();
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(kHost));
  options->threads = 2;  // as in Python
  auto group = c10d_version::as_process_group(
      store,
      c10::make_intrusive<c10d::ProcessGroupGloo>(store, ranks.rank(), ranks.size(), options));
  // All have met before rank 0 may go.
  ranks.barrier();
  return group;
}

class DdpTraining : public Training {
 public:
  DdpTraining(const std::vector<torch::Tensor>& parameters, torch::optim::Optimizer& optimizer,
              c10::intrusive_ptr<c10d::ProcessGroup> group, bool gradient_as_bucket_view)
      : Training(optimizer) {
    auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
        parameters, {c10d::kDefaultFirstBucketBytes, c10d::kDefaultBucketBytesCap});
    // Backward begins with the last parameters.
    std::ranges::reverse(buckets);
    std::ranges::reverse(limits);
    std::unordered_map<std::size_t, std::string> names;
    for (std::size_t i = 0; i < parameters.size(); ++i) names[i] = "parameter" + std::to_string(i);
    reducer_ = c10d_version::make_reducer({.parameters = parameters,
                                           .buckets = std::move(buckets),
                                           .bucket_limits = std::move(limits),
                                           .group = std::move(group),
                                           .names = std::move(names),
                                           .gradient_as_bucket_view = gradient_as_bucket_view});
  }

 private:
  void before_forward() override {
    reducer_->rebuild_buckets();
    reducer_->prepare_for_forward();
  }
  void before_backward() override { reducer_->prepare_for_backward({}); }

  std::unique_ptr<c10d::Reducer> reducer_;
};

class DdpReducer : public Reducer {
 public:
  DdpReducer(const Ranks& ranks, bool gradient_as_bucket_view)
      : group_(make_process_group(ranks)), gradient_as_bucket_view_(gradient_as_bucket_view) {}

  void allreduce(torch::Tensor& tensor) override {
    std::vector<torch::Tensor> tensors = {tensor};
    group_->allreduce(tensors)->wait();
  }

  std::unique_ptr<Training> train(const std::vector<torch::Tensor>& parameters,
                                  torch::optim::Optimizer& optimizer) override {
    return std::make_unique<DdpTraining>(parameters, optimizer, group_, gradient_as_bucket_view_);
  }

 private:
  const c10::intrusive_ptr<c10d::ProcessGroup> group_;
  const bool gradient_as_bucket_view_;
};

}  // namespace

const char* why_no_ddp() { return nullptr; }

std::unique_ptr<Reducer> make_ddp_reducer(const Ranks& ranks, bool gradient_as_bucket_view) {
  return std::make_unique<DdpReducer>(ranks, gradient_as_bucket_view);
}

}  // namespace kolo::bench

// LibTorch's own way, as Python's DistributedDataParallel drives it.

#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <unordered_map>
#include <utility>

#include "bench/c10d_version.h"
#include "bench/reducers.h"

namespace kolo::bench {
namespace {

/// An empty file that all ranks of the host know, while it lives.
class MeetingPlace {
 public:
  explicit MeetingPlace(const Ranks& ranks) : ranks_(ranks) {
    // mkstemp() puts something else for the X.
    const std::string pattern =
        (std::filesystem::temp_directory_path() / "kolo-bench-XXXXXX").string();
    if (pattern.size() >= path_.size()) throw std::runtime_error(pattern + ": too long");
    std::ranges::copy(pattern, path_.begin());
    if (ranks.rank() == 0) {
      const int file = ::mkstemp(path_.data());
      if (file < 0) throw std::runtime_error("cannot make a temporary file " + pattern);
      ::close(file);
    }
    require_mpi(MPI_Bcast(path_.data(), static_cast<int>(path_.size()), MPI_CHAR, 0, ranks.comm()),
                "MPI_Bcast");
  }
  ~MeetingPlace() {
    if (ranks_.rank() == 0) ::unlink(path_.data());
  }
  MeetingPlace(const MeetingPlace&) = delete;
  MeetingPlace& operator=(const MeetingPlace&) = delete;

  std::string path() const { return path_.data(); }

 private:
  const Ranks& ranks_;
  std::array<char, 512> path_{};
};

c10::intrusive_ptr<c10d::ProcessGroup> make_process_group(const Ranks& ranks) {
  const MeetingPlace place(ranks);
  const auto options = c10d::ProcessGroupGloo::Options::create();
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  options->threads = 2;  // as in Python
  const auto store = c10::make_intrusive<c10d::FileStore>(place.path(), ranks.size());
  auto group = c10d_version::as_process_group(
      store,
      c10::make_intrusive<c10d::ProcessGroupGloo>(store, ranks.rank(), ranks.size(), options));
  // All have met before the file goes.
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

  void before_forward() override {
    reducer_->rebuild_buckets();
    reducer_->prepare_for_forward();
  }
  void before_backward() override { reducer_->prepare_for_backward({}); }

 private:
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

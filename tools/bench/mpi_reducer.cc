#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "bench/reducers.h"

namespace kolo::bench {
namespace {

MPI_Datatype mpi_type(const torch::Tensor& tensor) {
  const torch::ScalarType dtype = tensor.scalar_type();
  if (dtype == torch::kFloat32) return MPI_FLOAT;
  if (dtype == torch::kFloat64) return MPI_DOUBLE;
  if (dtype == torch::kInt32) return MPI_INT32_T;
  if (dtype == torch::kInt64) return MPI_INT64_T;
  throw std::runtime_error(c10::str("MPI has no type for ", dtype));
}

/// What a program without a library would do: a blocking call for each tensor.
class MpiReducer : public Reducer {
 public:
  MpiReducer(const Ranks& ranks, std::size_t chunk) : ranks_(ranks), chunk_(chunk) {}

  void allreduce(torch::Tensor& tensor) override {
    const MPI_Datatype type = mpi_type(tensor);
    const std::size_t limit =
        chunk_ > 0 ? chunk_ / tensor.element_size() : std::numeric_limits<int>::max();
    auto* next = static_cast<std::byte*>(tensor.data_ptr());
    for (auto left = static_cast<std::size_t>(tensor.numel()); left > 0;) {
      const std::size_t count = std::min(left, limit);
      require_mpi(
          MPI_Allreduce(MPI_IN_PLACE, next, static_cast<int>(count), type, MPI_SUM, ranks_.comm()),
          "MPI_Allreduce");
      next += count * tensor.element_size();
      left -= count;
    }
  }

  void average(torch::Tensor& tensor) {
    allreduce(tensor);
    tensor.mul_(1.0 / ranks_.size());
  }

  std::unique_ptr<Training> train(const std::vector<torch::Tensor>& parameters,
                                  torch::optim::Optimizer& optimizer) override;

 private:
  const Ranks& ranks_;
  const std::size_t chunk_;
};

class MpiTraining : public Training {
 public:
  MpiTraining(const std::vector<torch::Tensor>& parameters, torch::optim::Optimizer& optimizer,
              MpiReducer& reducer)
      : Training(optimizer), parameters_(parameters), reducer_(reducer) {}

 private:
  void after_backward() override {
    const torch::NoGradGuard no_grad;
    for (const torch::Tensor& parameter : parameters_) reducer_.average(parameter.mutable_grad());
  }

  const std::vector<torch::Tensor>& parameters_;
  MpiReducer& reducer_;
};

std::unique_ptr<Training> MpiReducer::train(const std::vector<torch::Tensor>& parameters,
                                            torch::optim::Optimizer& optimizer) {
  return std::make_unique<MpiTraining>(parameters, optimizer, *this);
}

}  // namespace

std::unique_ptr<Reducer> make_mpi_reducer(const Ranks& ranks, std::size_t chunk) {
  return std::make_unique<MpiReducer>(ranks, chunk);
}

}  // namespace kolo::bench

#include "bench/synthetic_model.h"

#include <torch/torch.h>

#include <cstdint>
#include <utility>

#include "bench/check.h"

namespace kolo::bench {
namespace {

using torch::autograd::variable_list;

/// One layer. Its backward hands on the gradient of its input, and the parameter's.
struct Layer : torch::autograd::Function<Layer> {
  /// `compute` must outlive backward.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& activation, const torch::Tensor& /*parameter*/,
                               const torch::Tensor& gradient, Compute& compute, Seconds time) {
    context->saved_data["gradient"] = gradient;
    context->saved_data["compute"] = reinterpret_cast<std::int64_t>(&compute);
    context->saved_data["seconds"] = time.count();
    return activation.detach();
  }

  static variable_list backward(torch::autograd::AutogradContext* context,
                                const variable_list& gradients) {
    auto* compute = reinterpret_cast<Compute*>(context->saved_data["compute"].toInt());
    compute->spend(Seconds(context->saved_data["seconds"].toDouble()));
    // None for what is no input of the graph.
    return {gradients.front(), context->saved_data["gradient"].toTensor(), {}, {}, {}};
  }
};

torch::Tensor make_gradient(std::size_t number, const Shape& shape, int rank, int ranks) {
  torch::Tensor gradient = torch::empty(shape);
  auto* values = gradient.data_ptr<float>();
  for (std::size_t i = 0; i < static_cast<std::size_t>(gradient.numel()); ++i) {
    values[i] = static_cast<float>(ranks * contribution(rank, number, i));
  }
  return gradient;
}

}  // namespace

SyntheticData::SyntheticData(const std::vector<Shape>& shapes, int rank, int ranks) {
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    gradients_.push_back(make_gradient(i, shapes[i], rank, ranks));
    values_.push_back(torch::zeros(shapes[i]));
  }
}

void SyntheticData::scale(double factor) {
  for (torch::Tensor& gradient : gradients_) gradient.mul_(factor);
}

std::size_t SyntheticData::bytes() const {
  std::size_t sum = 0;
  for (const torch::Tensor& gradient : gradients_) sum += gradient.nbytes();
  return sum;
}

SyntheticModel::SyntheticModel(const SyntheticData& data, const ComputeTimes& times,
                               Compute compute)
    : data_(data), times_(times), compute_(std::move(compute)) {
  for (const torch::Tensor& values : data.values()) {
    parameters_.push_back(values.detach().requires_grad_());
  }
}

torch::Tensor SyntheticModel::forward() {
  const auto layers = static_cast<double>(parameters_.size());
  torch::Tensor activation = torch::zeros({});
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    compute_.spend(times_.forward / layers);
    activation = Layer::apply(activation, parameters_[i], data_.gradients()[i], compute_,
                              times_.backward / layers);
  }
  return activation;
}

void SyntheticModel::zero_grad(ZeroGrad how) {
  for (torch::Tensor& parameter : parameters_) {
    torch::Tensor& gradient = parameter.mutable_grad();
    switch (how) {
      case ZeroGrad::Zero:
        if (gradient.defined()) gradient.zero_();
        break;
      case ZeroGrad::None:
        gradient.reset();
        break;
    }
  }
}

SyntheticOptimizer::SyntheticOptimizer(const SyntheticModel& model, const ComputeTimes& times,
                                       Compute compute)
    : torch::optim::SGD(model.parameters(), /*lr=*/0.1),
      time_(times.optimizer),
      compute_(std::move(compute)) {}

torch::Tensor SyntheticOptimizer::step(LossClosure /*closure*/) {
  compute_.spend(time_);
  return {};
}

}  // namespace kolo::bench

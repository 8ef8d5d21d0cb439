#include "resnet.h"

namespace resnet_example {
namespace {

namespace nn = torch::nn;

nn::Conv2d conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
  return nn::Conv2d(
      nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

}  // namespace

BasicBlockImpl::BasicBlockImpl(std::int64_t in_channels, std::int64_t out_channels,
                               std::int64_t stride)
    : conv1_(conv(in_channels, out_channels, 3, stride)),
      bn1_(out_channels),
      conv2_(conv(out_channels, out_channels, 3, 1)),
      bn2_(out_channels) {
  register_module("conv1", conv1_);
  register_module("bn1", bn1_);
  register_module("conv2", conv2_);
  register_module("bn2", bn2_);
  if (stride != 1 || in_channels != out_channels) {
    shortcut_->push_back(conv(in_channels, out_channels, 1, stride));
    shortcut_->push_back(nn::BatchNorm2d(out_channels));
  }
  register_module("shortcut", shortcut_);
}

torch::Tensor BasicBlockImpl::forward(const torch::Tensor& input) {
  torch::Tensor x = torch::relu(bn1_->forward(conv1_->forward(input)));
  x = bn2_->forward(conv2_->forward(x));
  x = x + (shortcut_->is_empty() ? input : shortcut_->forward(input));
  return torch::relu(x);
}

ResNet18Impl::ResNet18Impl(std::int64_t channels, std::int64_t classes)
    : conv1_(conv(channels, 64, 3, 1)), bn1_(64), linear_(512, classes) {
  std::int64_t in = 64;
  for (const std::int64_t out : {64, 128, 256, 512}) {
    blocks_->push_back(BasicBlock(in, out, out == in ? 1 : 2));
    blocks_->push_back(BasicBlock(out, out, 1));
    in = out;
  }
  register_module("conv1", conv1_);
  register_module("bn1", bn1_);
  register_module("blocks", blocks_);
  register_module("linear", linear_);
}

torch::Tensor ResNet18Impl::forward(torch::Tensor x) {
  x = torch::relu(bn1_->forward(conv1_->forward(x)));
  x = blocks_->forward(x);
  x = torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1);
  return linear_->forward(x);
}

std::int64_t count_parameters(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : module.parameters()) count += parameter.numel();
  return count;
}

}  // namespace resnet_example

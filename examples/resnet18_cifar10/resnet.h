#pragma once

#include <torch/nn.h>

#include <cstdint>

namespace resnet_example {

/// Two 3x3 convolutions and a way around them.
class BasicBlockImpl : public torch::nn::Module {
 public:
  BasicBlockImpl(std::int64_t in_channels, std::int64_t out_channels, std::int64_t stride);
  torch::Tensor forward(const torch::Tensor& input);

 private:
  torch::nn::Conv2d conv1_;
  torch::nn::BatchNorm2d bn1_;
  torch::nn::Conv2d conv2_;
  torch::nn::BatchNorm2d bn2_;
  torch::nn::Sequential shortcut_;  // empty: the input itself
};
TORCH_MODULE(BasicBlock);

/// ResNet-18 for images of 32x32: a 3x3 convolution of stride 1 comes first, without pooling after
/// it. 11,173,962 parameters for 3 channels and 10 classes.
class ResNet18Impl : public torch::nn::Module {
 public:
  ResNet18Impl(std::int64_t channels, std::int64_t classes);

  /// Scores (logits) of each class for a batch of images.
  torch::Tensor forward(torch::Tensor input);

 private:
  torch::nn::Conv2d conv1_;
  torch::nn::BatchNorm2d bn1_;
  torch::nn::Sequential blocks_;
  torch::nn::Linear linear_;
};
TORCH_MODULE(ResNet18);

std::int64_t count_parameters(const torch::nn::Module& module);

}  // namespace resnet_example

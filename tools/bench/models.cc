#include "bench/models.h"

#include <array>
#include <functional>
#include <numeric>

namespace kolo::bench {
namespace {

/// Collects the parameters of a ResNet, layer by layer.
class ResNetShapes {
 public:
  /// A convolution without bias, and the weight and bias of its batch norm.
  void convolution(std::int64_t out, std::int64_t in, std::int64_t kernel) {
    shapes_.push_back({out, in, kernel, kernel});
    shapes_.push_back({out});
    shapes_.push_back({out});
  }

  void basic_block(std::int64_t in, std::int64_t width) {
    convolution(width, in, 3);
    convolution(width, width, 3);
    if (in != width) convolution(width, in, 1);
  }

  void bottleneck(std::int64_t in, std::int64_t width) {
    convolution(width, in, 1);
    convolution(width, width, 3);
    convolution(4 * width, width, 1);
    if (in != 4 * width) convolution(4 * width, in, 1);
  }

  void linear(std::int64_t out, std::int64_t in) {
    shapes_.push_back({out, in});
    shapes_.push_back({out});
  }

  std::vector<Shape> take() { return std::move(shapes_); }

 private:
  std::vector<Shape> shapes_;
};

std::vector<Shape> resnet18() {
  ResNetShapes net;
  net.convolution(64, 3, 3);
  std::int64_t in = 64;
  for (const std::int64_t width : {64, 128, 256, 512}) {
    for (int block = 0; block < 2; ++block) {
      net.basic_block(in, width);
      in = width;
    }
  }
  net.linear(10, in);
  return net.take();
}

std::vector<Shape> resnet50() {
  constexpr std::array<std::pair<std::int64_t, int>, 4> kStages = {
      {{64, 3}, {128, 4}, {256, 6}, {512, 3}}};
  ResNetShapes net;
  net.convolution(64, 3, 7);
  std::int64_t in = 64;
  for (const auto& [width, blocks] : kStages) {
    for (int block = 0; block < blocks; ++block) {
      net.bottleneck(in, width);
      in = 4 * width;
    }
  }
  net.linear(1000, in);
  return net.take();
}

}  // namespace

std::vector<Shape> parameter_shapes(ModelName model) {
  switch (model) {
    case ModelName::ResNet18:
      return resnet18();
    case ModelName::ResNet50:
      return resnet50();
    case ModelName::Small:
      return std::vector<Shape>(1000, {256});
  }
  return {};
}

std::int64_t elements(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace kolo::bench

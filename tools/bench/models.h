#pragma once

/// The shapes of real models' parameters, in the order in which the models register them.

#include <cstdint>
#include <vector>

namespace kolo::bench {

using Shape = std::vector<std::int64_t>;

enum class ModelName {
  ResNet18,  ///< for CIFAR: a 3x3 stem and 10 classes
  ResNet50,  ///< for ImageNet
  Small,     ///< many small ones: 1000 of 256
};

std::vector<Shape> parameter_shapes(ModelName model);

std::int64_t elements(const Shape& shape);

}  // namespace kolo::bench

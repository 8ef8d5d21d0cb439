// Against what torchvision and the usual CIFAR form of ResNet-18 count.

#include "bench/models.h"

#include <gtest/gtest.h>

namespace kolo::bench {
namespace {

std::int64_t sum_of_elements(const std::vector<Shape>& shapes) {
  std::int64_t sum = 0;
  for (const Shape& shape : shapes) sum += elements(shape);
  return sum;
}

TEST(Models, ResNet18) {
  const std::vector<Shape> shapes = parameter_shapes(ModelName::ResNet18);
  EXPECT_EQ(shapes.size(), 62U);
  EXPECT_EQ(sum_of_elements(shapes), 11'173'962);
  EXPECT_EQ(shapes.front(), (Shape{64, 3, 3, 3}));
  EXPECT_EQ(shapes.back(), (Shape{10}));
}

TEST(Models, ResNet50) {
  const std::vector<Shape> shapes = parameter_shapes(ModelName::ResNet50);
  EXPECT_EQ(shapes.size(), 161U);
  EXPECT_EQ(sum_of_elements(shapes), 25'557'032);
  EXPECT_EQ(shapes.front(), (Shape{64, 3, 7, 7}));
  EXPECT_EQ(shapes.back(), (Shape{1000}));
}

TEST(Models, Small) {
  EXPECT_EQ(parameter_shapes(ModelName::Small), std::vector<Shape>(1000, {256}));
}

TEST(Models, ElementsOfNothing) {
  EXPECT_EQ(elements({}), 1);
  EXPECT_EQ(elements({3, 0}), 0);
}

}  // namespace
}  // namespace kolo::bench

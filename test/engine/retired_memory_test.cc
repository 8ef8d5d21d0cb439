// A GPU's memory is let go of when the GPU has come to the last use of it, and not before.

#include "context/retired_memory.h"

#include <gtest/gtest.h>

namespace kolo::core {
namespace {

class Moment final : public DeviceEvent {
 public:
  Result<bool> reached() const override {
    if (broken) return Status::error("the GPU has failed");
    return come;
  }
  Status synchronize() const override {
    waited = true;
    return {};
  }

  bool come = false;
  bool broken = false;
  mutable bool waited = false;
};

TEST(RetiredMemory, IsKeptUntilAllItsLastUsesAreOver) {
  RetiredMemory retired;
  const auto first = std::make_shared<Moment>();
  const auto second = std::make_shared<Moment>();
  auto memory = std::make_shared<int>();
  const std::weak_ptr<int> watched = memory;
  retired.add(std::move(memory), {first, second});
  retired.sweep();
  EXPECT_FALSE(watched.expired());
  first->come = true;
  retired.sweep();
  EXPECT_FALSE(watched.expired());
  second->come = true;
  retired.sweep();
  EXPECT_TRUE(watched.expired());
}

TEST(RetiredMemory, OfOneBlockDoesNotKeepAnother) {
  RetiredMemory retired;
  const auto never = std::make_shared<Moment>();
  const auto broken = std::make_shared<Moment>();
  broken->broken = true;
  std::vector<std::weak_ptr<int>> watched;
  for (const auto& moment : {never, broken, never}) {
    auto memory = std::make_shared<int>();
    watched.push_back(memory);
    retired.add(std::move(memory), {moment});
  }
  retired.sweep();
  EXPECT_FALSE(watched[0].expired());
  EXPECT_TRUE(watched[1].expired());
  EXPECT_FALSE(watched[2].expired());
}

TEST(RetiredMemory, IsWaitedForInTheEnd) {
  const auto moment = std::make_shared<Moment>();
  std::weak_ptr<int> watched;
  {
    RetiredMemory retired;
    auto memory = std::make_shared<int>();
    watched = memory;
    retired.add(std::move(memory), {moment});
  }
  EXPECT_TRUE(moment->waited);
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace kolo::core

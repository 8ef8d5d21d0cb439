// The negotiator beside a model that is too plain to be wrong.

#include <gtest/gtest.h>

#include <algorithm>
#include <compare>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/negotiator.h"
#include "replies.h"

namespace kolo::core {
namespace {

constexpr std::uint64_t kSeeds = 500;
constexpr int kEvents = 200;

/// A reply, as far as the model knows it.
struct Reply {
  std::string name;
  bool ok = false;

  auto operator<=>(const Reply&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Reply& reply) {
  return out << (reply.ok ? "" : "!") << reply.name;
}

class Model {
 public:
  explicit Model(std::size_t size) : replies(size), size_(size) {}

  void add(std::size_t member, const Request& request) {
    const std::size_t number = submissions_[{member, request.name}]++;
    Operation& operation = operations_[{request.name, number}];
    if (operation.by.empty()) operation.shape = request.shape;
    operation.by.insert(member);
    if (request.refusal.empty()) operation.waiting.insert(member);
    if (!request.refusal.empty() || request.shape != operation.shape || !left_.empty()) {
      operation.failed = true;
    }
    settle(request.name, operation);
  }

  void leave(std::size_t member) {
    for (auto& [key, operation] : operations_) {
      if (!ended(operation)) operation.failed = true;
      settle(key.first, operation);
    }
    left_.insert(member);
  }

  bool expects_members() const {
    bool expects = false;
    for (const auto& [key, operation] : operations_) {
      const bool joined = operation.by.contains(0) || left_.contains(0);
      expects |= joined && !ended(operation);
    }
    return expects;
  }

  std::vector<std::vector<Reply>> replies;

 private:
  struct Operation {
    Shape shape;
    std::set<std::size_t> by;
    std::set<std::size_t> waiting;
    bool failed = false;
  };

  bool ended(const Operation& operation) const {
    std::size_t in = 0;
    for (std::size_t member = 0; member < size_; ++member) {
      if (left_.contains(member) || operation.by.contains(member)) ++in;
    }
    return in == size_;
  }

  void settle(const std::string& name, Operation& operation) {
    if (!operation.failed && operation.waiting.size() < size_) return;
    for (const std::size_t member : operation.waiting) {
      replies[member].push_back({name, !operation.failed});
    }
    operation.waiting.clear();
  }

  const std::size_t size_;
  std::map<std::pair<std::size_t, std::string>, std::size_t> submissions_;
  std::map<std::pair<std::string, std::size_t>, Operation> operations_;
  std::set<std::size_t> left_;
};

/// Plays members that submit what they like, often what another has just submitted, as long as a
/// name is not in use.
class Game {
 public:
  Game(std::size_t size, std::uint64_t seed)
      : random_(seed), negotiator_(ranks(size)), model_(size), seen_(size), in_use_(size) {}

  void play() {
    for (int event = 0; event < kEvents; ++event) {
      if (random_() % 300 == 0) {
        leave(random_() % in_use_.size());
      } else {
        submit(random_() % in_use_.size());
      }
      ASSERT_EQ(negotiator_.expects_members(), model_.expects_members());
      if (random_() % 8 == 0) compare();
    }
    compare();
    expect_same_order();
  }

 private:
  static std::vector<int> ranks(std::size_t size) {
    std::vector<int> all;
    for (std::size_t member = 0; member < size; ++member) all.push_back(rank_of(member));
    return all;
  }
  static int rank_of(std::size_t member) { return static_cast<int>(3 * member + 1); }

  void submit(std::size_t member) {
    if (left_.contains(member)) return;
    if (random_() % 3 != 0) latest_ = list();
    for (const Request& request : latest_->requests) {
      if (in_use_[member].contains(request.name)) return;
    }
    for (const Request& request : latest_->requests) {
      if (request.refusal.empty()) in_use_[member].insert(request.name);
      model_.add(member, request);
    }
    negotiator_.add(rank_of(member), latest_, Clock::time_point());
  }

  /// Of different names.
  std::shared_ptr<const RequestList> list() {
    std::vector<Request> requests;
    for (char name = 'a'; name < 'e'; ++name) {
      if (random_() % 2 == 0) continue;
      Request& request = requests.emplace_back();
      request.name = std::string(1, name);
      request.shape = {random_() % 12 == 0 ? 2 : 1};
      if (random_() % 12 == 0) request.refusal = "refused";
    }
    std::ranges::shuffle(requests, random_);
    return list_of(std::move(requests));
  }

  void leave(std::size_t member) {
    if (!left_.insert(member).second) return;
    model_.leave(member);
    negotiator_.leave(rank_of(member));
  }

  void compare() {
    const std::vector<std::vector<Response>> replies = by_member(negotiator_.take_replies());
    for (std::size_t member = 0; member < replies.size(); ++member) {
      for (const Response& reply : replies[member]) {
        seen_[member].push_back({reply.name, reply.error.empty()});
        ASSERT_EQ(in_use_[member].erase(reply.name), 1U);
      }
      // A departure fails many at once, in no particular order.
      std::vector<Reply> seen = seen_[member];
      std::vector<Reply> right = model_.replies[member];
      std::ranges::sort(seen);
      std::ranges::sort(right);
      ASSERT_EQ(seen, right);
    }
  }

  void expect_same_order() const {
    std::set<std::vector<std::string>> orders;
    for (const std::vector<Reply>& replies : seen_) {
      std::vector<std::string> order;
      for (const Reply& reply : replies) {
        if (reply.ok) order.push_back(reply.name);
      }
      orders.insert(order);
    }
    EXPECT_EQ(orders.size(), 1U);
  }

  std::mt19937_64 random_;
  Negotiator negotiator_;
  std::shared_ptr<const RequestList> latest_ = list();
  Model model_;
  std::vector<std::vector<Reply>> seen_;
  std::vector<std::set<std::string>> in_use_;
  std::set<std::size_t> left_;
};

TEST(NegotiatorModel, AnySubmissions) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Game(seed % 5 + 1, seed).play();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace kolo::core

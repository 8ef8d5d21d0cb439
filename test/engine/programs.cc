#include "programs.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

namespace kolo::core::programs {

Set world(const Context& context) {
  Set set;
  set.ranks.resize(static_cast<std::size_t>(context.topology().size));
  std::iota(set.ranks.begin(), set.ranks.end(), 0);
  return set;
}

std::shared_ptr<Work> add_set_async(Context& context, const std::string& name,
                                    const std::vector<int>& ranks) {
  Submission submission;
  submission.request.name = name;
  submission.request.kind = CollectiveKind::AddProcessSet;
  submission.request.shape.assign(ranks.begin(), ranks.end());
  return context.submit(std::move(submission));
}

Set add_set(Context& context, const std::string& name, const std::vector<int>& ranks) {
  const std::shared_ptr<Work> work = add_set_async(context, name, ranks);
  const Status status = work->wait();
  EXPECT_TRUE(status.ok()) << status.message();
  return {.channel = work->outcome().new_channel, .ranks = ranks};
}

Call::Call(Context& context, const Set& set, Recipe recipe)
    : set_(set),
      rank_(context.topology().rank),
      ranks_per_host_(context.topology().local_size),
      recipe_(std::move(recipe)) {
  // Written here, where ThreadSanitizer sees it.
  const oracle::Bytes values = input_of(rank_);
  input_ = std::make_shared<oracle::Bytes>(values);
  const bool in_place = recipe_.kind == CollectiveKind::Broadcast || recipe_.seed % 2 == 0;
  output_ = in_place ? input_ : std::make_shared<oracle::Bytes>(input_->size());
  Submission submission;
  submission.channel = set_.channel;
  submission.plan = recipe_.plan;
  submission.awaited = recipe_.awaited;
  submission.request.name = recipe_.name;
  submission.request.kind = recipe_.kind;
  submission.request.dtype = recipe_.dtype;
  submission.request.device = recipe_.device;
  submission.request.op = recipe_.op;
  submission.request.prescale = recipe_.prescale;
  submission.request.postscale = recipe_.postscale;
  if (recipe_.kind == CollectiveKind::Broadcast) {
    submission.request.root_rank = set_.ranks[recipe_.root_member];
  }
  if (recipe_.kind != CollectiveKind::Barrier) submission.request.shape = shape_of(rank_);
  if (recipe_.kind == CollectiveKind::Alltoall && tells_splits()) {
    submission.request.splits = splits_of(rank_);
  }
  submission.input = input_->data();
  submission.output = output_->data();
  submission.keepalive = std::make_shared<decltype(std::pair(input_, output_))>(input_, output_);
  const bool run = recipe_.runs && recipe_.kind == CollectiveKind::Allreduce && in_place &&
                   recipe_.device == DeviceType::Cpu && recipe_.plan == 0;
  if (run) {
    const Request& request = submission.request;
    ended_ = context.run({.process_set = submission.channel,
                          .name = request.name,
                          .dtype = request.dtype,
                          .op = request.op,
                          .prescale = request.prescale,
                          .postscale = request.postscale,
                          .shape = request.shape,
                          .memory = submission.output,
                          .owner = [&submission] { return submission.keepalive; }});
  } else {
    work_ = context.submit(std::move(submission));
  }
}

Shape Call::shape_of(int rank) const {
  if (recipe_.kind == CollectiveKind::Reducescatter) return {recipe_.count, 2};
  if (recipe_.kind == CollectiveKind::Alltoall) {
    const std::vector<std::int64_t> splits = splits_of(rank);
    return {std::accumulate(splits.begin(), splits.end(), std::int64_t{0}), 2};
  }
  if (recipe_.kind != CollectiveKind::Allgather) return {recipe_.count};
  const auto own = recipe_.plan == 0 ? static_cast<unsigned>(rank) : 0U;
  const auto more = static_cast<std::int64_t>((recipe_.seed + own) % 3);
  return {recipe_.count + more, 2};
}

std::vector<std::int64_t> Call::splits_of(int rank) const {
  std::vector<std::int64_t> splits;
  for (const int taker : set_.ranks) {
    const std::uint64_t more = recipe_.seed + static_cast<unsigned>(rank + 2 * taker);
    splits.push_back(recipe_.count * (tells_splits() ? static_cast<std::int64_t>(more % 3) : 1));
  }
  return splits;
}

oracle::Bytes Call::input_of(int rank) const {
  const std::uint64_t seed = recipe_.seed * 1009 + static_cast<unsigned>(rank);
  return oracle::random_values(recipe_.dtype, element_count(shape_of(rank)), seed);
}

oracle::Bytes Call::expected() const {
  std::vector<oracle::Bytes> inputs;
  std::vector<int> hosts;
  for (const int rank : set_.ranks) {
    inputs.push_back(input_of(rank));
    hosts.push_back(host_of(rank));
  }
  switch (recipe_.kind) {
    case CollectiveKind::Allreduce:
      return oracle::reduce_by_host({.dtype = recipe_.dtype,
                                     .op = recipe_.op,
                                     .prescale = recipe_.prescale,
                                     .postscale = recipe_.postscale},
                                    inputs, hosts);
    case CollectiveKind::Broadcast:
      return inputs[recipe_.root_member];
    case CollectiveKind::Allgather: {
      oracle::Bytes all;
      for (const oracle::Bytes& input : inputs) all.insert(all.end(), input.begin(), input.end());
      return all;
    }
    case CollectiveKind::Reducescatter: {
      const oracle::Bytes all = oracle::reduce({.dtype = recipe_.dtype,
                                                .op = recipe_.op,
                                                .prescale = recipe_.prescale,
                                                .postscale = recipe_.postscale},
                                               inputs);
      return rows_of(all, slices(), member_of(rank_));
    }
    case CollectiveKind::Alltoall: {
      oracle::Bytes all;
      for (std::size_t giver = 0; giver < inputs.size(); ++giver) {
        const oracle::Bytes part =
            rows_of(inputs[giver], splits_of(set_.ranks[giver]), member_of(rank_));
        all.insert(all.end(), part.begin(), part.end());
      }
      return all;
    }
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return {};
}

/// In the slices of a reduce-scatter.
std::vector<std::int64_t> Call::slices() const {
  const std::int64_t members = std::ssize(set_.ranks);
  std::vector<std::int64_t> rows;
  for (std::int64_t member = 0; member < members; ++member) {
    // As many as numbers below the count that leave the member's number.
    rows.push_back((recipe_.count + members - 1 - member) / members);
  }
  return rows;
}

std::vector<std::int64_t> Call::expected_rows() const {
  if (recipe_.kind == CollectiveKind::Reducescatter) return {slices()[member_of(rank_)]};
  std::vector<std::int64_t> rows;
  for (const int rank : set_.ranks) {
    rows.push_back(recipe_.kind == CollectiveKind::Alltoall ? splits_of(rank)[member_of(rank_)]
                                                            : shape_of(rank).front());
  }
  return rows;
}

std::size_t Call::member_of(int rank) const {
  return static_cast<std::size_t>(std::ranges::find(set_.ranks, rank) - set_.ranks.begin());
}

/// Of a tensor that is cut like this, number `index`.
oracle::Bytes Call::rows_of(const oracle::Bytes& tensor, const std::vector<std::int64_t>& rows,
                            std::size_t index) const {
  const std::int64_t row = 2 * static_cast<std::int64_t>(size_of(recipe_.dtype));
  const auto before = static_cast<std::ptrdiff_t>(index);
  const auto begin =
      tensor.begin() + std::accumulate(rows.begin(), rows.begin() + before, std::int64_t{0}) * row;
  return {begin, begin + rows[index] * row};
}

void Call::check() const {
  const Status status = wait();
  ASSERT_TRUE(status.ok()) << status.message();
  if (recipe_.kind == CollectiveKind::Barrier) return;
  // What was run is in place on the CPU.
  const Outcome outcome = work_ == nullptr ? Outcome() : work_->outcome();
  if (outcome.finished != nullptr) {
    const Status run = outcome.finished->synchronize();
    ASSERT_TRUE(run.ok()) << run.message();
  }
  const oracle::Bytes right = expected();
  oracle::Bytes result = *output_;
  if (const auto* made = static_cast<const std::byte*>(outcome.made.get())) {
    EXPECT_EQ(outcome.first_dimensions, expected_rows());
    result.assign(made, made + right.size());
  }
  EXPECT_TRUE(oracle::same_values(recipe_.dtype, result, right))
      << "rank " << rank_ << ": wrong result of " << to_string(recipe_.kind) << " '" << recipe_.name
      << "' of " << recipe_.count << " " << to_string(recipe_.dtype) << ", op "
      << to_string(recipe_.op);
}

void run(Context& context, const Set& set, Recipe recipe) {
  recipe.awaited = recipe.runs = true;
  Call(context, set, std::move(recipe)).check();
}

Recipe random_recipe(const std::string& name, std::uint64_t seed, const Set& set) {
  std::mt19937_64 random(seed);
  constexpr std::int64_t kCounts[] = {0, 1, 3, 64, 1023};
  Recipe recipe{.name = name};
  // Half of them all-reduces; no AddProcessSet.
  const auto kind = random() % (2 * (kCollectiveKindCount - 1));
  recipe.kind = kind < kCollectiveKindCount - 1 ? static_cast<CollectiveKind>(kind)
                                                : CollectiveKind::Allreduce;
  recipe.dtype = static_cast<DataType>(random() % kDataTypeCount);
  recipe.op = static_cast<ReduceOp>(random() % kReduceOpCount);
  if (recipe.dtype == DataType::Bool && recipe.op == ReduceOp::Average) recipe.op = ReduceOp::Max;
  if (is_floating(recipe.dtype) && random() % 4 == 0) recipe.prescale = 0.5;
  if (is_floating(recipe.dtype) && random() % 4 == 0) recipe.postscale = 3;
  recipe.root_member = random() % set.ranks.size();
  recipe.count = kCounts[random() % std::size(kCounts)];
  recipe.seed = random() >> 16;
  return recipe;
}

void run_in_random_order(Context& context, const Set& set, std::size_t operations,
                         std::uint64_t seed, const Change& change) {
  std::vector<Recipe> recipes;
  for (std::size_t i = 0; i < operations; ++i) {
    recipes.push_back(random_recipe(fmt::format("t{}", i), seed * 10'007 + i, set));
    change(recipes.back());
  }
  std::mt19937_64 own(seed * 64 + static_cast<unsigned>(context.topology().rank));
  std::ranges::shuffle(recipes, own);
  std::vector<Call> calls;
  for (const Recipe& recipe : recipes) {
    calls.emplace_back(context, set, recipe);
    if (own() % 8 == 0) std::this_thread::yield();
  }
  for (const Call& call : calls) call.check();
}

void run_plans(Context& context, const Set& set, std::size_t rounds, std::uint64_t seed,
               const Change& change) {
  constexpr PlanId kPlans = 3;
  std::mt19937_64 own(seed * 64 + static_cast<unsigned>(context.topology().rank));
  std::vector<Call> calls;
  std::vector<std::uint64_t> next(kPlans + 1);
  for (std::size_t i = 0; i < kPlans * rounds;) {
    // 0: an operation that is negotiated.
    const auto plan = static_cast<PlanId>(own() % (kPlans + 1));
    if (next[plan] == rounds) continue;
    const std::uint64_t number = next[plan]++;
    Recipe recipe = random_recipe(fmt::format("{}.{}", plan, number),
                                  seed * 10'007 + plan * 1009 + number, set);
    recipe.plan = plan;
    const bool negotiates = recipe.kind == CollectiveKind::Barrier ||
                            recipe.kind == CollectiveKind::Reducescatter ||
                            recipe.kind == CollectiveKind::Alltoall;
    if (plan != 0 && negotiates) recipe.kind = CollectiveKind::Broadcast;
    change(recipe);
    calls.emplace_back(context, set, recipe);
    if (plan != 0) ++i;
    if (own() % 8 == 0) calls[own() % calls.size()].work().done();
  }
  for (; next[0] < rounds; ++next[0]) {
    Recipe recipe = random_recipe(fmt::format("0.{}", next[0]), seed * 10'007 + next[0], set);
    change(recipe);
    calls.emplace_back(context, set, recipe);
  }
  for (const Call& call : calls) call.check();
}

void run_two_sets(Context& context, int rounds, const Change& change) {
  const Set all = world(context);
  const Set sets[] = {add_set(context, "first", all.ranks), add_set(context, "second", all.ranks)};
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 0; i < std::size(sets); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; ++round) {
        const std::uint64_t seed = 77 * i + static_cast<unsigned>(round);
        Recipe blocking = random_recipe("blocking", seed, sets[i]);
        change(blocking);
        run(context, sets[i], blocking);
        run_in_random_order(context, sets[i], 8, seed, change);
      }
    });
  }
}

}  // namespace kolo::core::programs

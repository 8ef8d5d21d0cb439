// Who works on which examples, in which order.

#include <algorithm>
#include <set>
#include <sstream>

#include "framework/support.h"

namespace kolo::testing {
namespace {

class SamplerTest : public FrameworkTest {};

using Examples = std::vector<std::int64_t>;

torch::data::datasets::TensorDataset numbers(std::size_t size) {
  return torch::data::datasets::TensorDataset(torch::arange(static_cast<std::int64_t>(size)));
}

/// What a loader of LibTorch's gives in its next epoch.
template <typename Loader>
Examples epoch_of(Loader& loader) {
  Examples examples;
  for (const auto& batch : loader) {
    for (const auto& example : batch)
      examples.push_back(example.data.template item<std::int64_t>());
  }
  return examples;
}

Examples take(DistributedSampler& sampler, std::size_t count) {
  const auto indices = sampler.next(count);
  return indices ? Examples(indices->begin(), indices->end()) : Examples();
}

Examples rest_of(DistributedSampler& sampler) {
  Examples examples;
  for (Examples more; !(more = take(sampler, 3)).empty();) {
    examples.insert(examples.end(), more.begin(), more.end());
  }
  return examples;
}

Examples next_epoch(DistributedSampler& sampler) {
  sampler.reset();
  return rest_of(sampler);
}

/// By rank.
std::vector<Examples> of_all_ranks(const Examples& examples) {
  Work work = allgather_async(torch::tensor(examples, torch::kInt64));
  const torch::Tensor all = work.result();
  std::vector<Examples> parts;
  std::int64_t begin = 0;
  for (const std::int64_t count : work.received_splits()) {
    const torch::Tensor part = all.narrow(0, begin, count).contiguous();
    parts.emplace_back(part.data_ptr<std::int64_t>(), part.data_ptr<std::int64_t>() + count);
    begin += count;
  }
  return parts;
}

Examples sorted(std::vector<Examples> parts) {
  Examples all;
  for (const Examples& part : parts) all.insert(all.end(), part.begin(), part.end());
  std::sort(all.begin(), all.end());
  return all;
}

Examples up_to(std::size_t size) {
  Examples all(size);
  for (std::size_t i = 0; i < size; ++i) all[i] = static_cast<std::int64_t>(i);
  return all;
}

TEST_F(SamplerTest, EachTailAndSize) {
  const auto ranks = static_cast<std::size_t>(kolo::size());
  for (const bool shuffle : {true, false}) {
    for (const std::size_t size : {4U, 7U, 64U, 101U}) {
      SCOPED_TRACE(size);
      const auto parts = [&](Tail tail) {
        DistributedSampler sampler(size, {.shuffle = shuffle, .seed = 5, .tail = tail});
        const Examples mine = next_epoch(sampler);
        EXPECT_EQ(mine.size(), sampler.size());
        return of_all_ranks(mine);
      };
      EXPECT_EQ(sorted(parts(Tail::Uneven)), up_to(size));

      const std::vector<Examples> dropped = parts(Tail::Drop);
      for (const Examples& part : dropped) EXPECT_EQ(part.size(), size / ranks);
      const Examples all = sorted(dropped);
      EXPECT_EQ(std::set(all.begin(), all.end()).size(), all.size()) << "one was dealt twice";

      const std::vector<Examples> padded = parts(Tail::Pad);
      for (const Examples& part : padded) EXPECT_EQ(part.size(), (size + ranks - 1) / ranks);
      const Examples seen = sorted(padded);
      EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), size) << "one is missing";
    }
  }
}

TEST_F(SamplerTest, FewerExamplesThanRanks) {
  DistributedSampler padded(1);
  EXPECT_EQ(next_epoch(padded), Examples{0});
  DistributedSampler uneven(1, {.tail = Tail::Uneven});
  EXPECT_EQ(next_epoch(uneven), kolo::rank() == 0 ? Examples{0} : Examples());
  DistributedSampler none(0);
  EXPECT_EQ(next_epoch(none), Examples());
}

TEST_F(SamplerTest, TheOrderOfTheDataSet) {
  DistributedSampler sampler(12, {.shuffle = false});
  for (int epoch = 0; epoch < 2; ++epoch) {
    Examples expected;
    for (int i = kolo::rank(); i < 12; i += kolo::size()) expected.push_back(i);
    EXPECT_EQ(next_epoch(sampler), expected);
  }
}

TEST_F(SamplerTest, ALoaderThatHasMovedItGetsANewOrderEachEpoch) {
  for (const std::size_t workers : {0U, 2U}) {
    DistributedSampler sampler(60, {.seed = 3});
    const auto loader = torch::data::make_data_loader(
        numbers(60), std::move(sampler),
        torch::data::DataLoaderOptions().batch_size(4).workers(workers));
    std::vector<Examples> epochs;
    for (std::size_t epoch = 0; epoch < 3; ++epoch) {
      epochs.push_back(epoch_of(*loader));
      EXPECT_EQ(sampler.epoch(), epoch);
      EXPECT_EQ(sorted(of_all_ranks(epochs.back())), up_to(60));
    }
    EXPECT_NE(epochs[0], epochs[1]);
    EXPECT_NE(epochs[1], epochs[2]);
    // The program's own steers it, and the order is the epoch's.
    sampler.set_epoch(1);
    EXPECT_EQ(epoch_of(*loader), epochs[1]);
    EXPECT_EQ(epoch_of(*loader), epochs[2]);
  }
}

TEST_F(SamplerTest, TheSeedDecides) {
  DistributedSampler a(100, {.seed = 1});
  DistributedSampler b(100, {.seed = 2});
  DistributedSampler c(100, {.seed = 1});
  const Examples order = next_epoch(a);
  EXPECT_NE(order, next_epoch(b));
  EXPECT_EQ(order, next_epoch(c));
}

TEST_F(SamplerTest, TheDropsChange) {
  DistributedSampler sampler(7, {.tail = Tail::Drop});
  std::set<std::int64_t> seen;
  for (int epoch = 0; epoch < 40; ++epoch) {
    for (const Examples& part : of_all_ranks(next_epoch(sampler)))
      seen.insert(part.begin(), part.end());
  }
  EXPECT_EQ(seen.size(), 7U);
}

// ---- going on ----

std::string saved(const DistributedSampler& sampler) {
  std::ostringstream stream;
  torch::save(sampler, stream);
  return stream.str();
}

void load(DistributedSampler& sampler, const std::string& text) {
  std::istringstream stream(text);
  torch::load(sampler, stream);
}

TEST_F(SamplerTest, GoesOnWhereItWasSaved) {
  for (const Tail tail : {Tail::Pad, Tail::Drop, Tail::Uneven}) {
    // As many for each rank, or not.
    for (const std::size_t size : {24U, 26U}) {
      for (std::size_t taken = 0; taken <= 9; ++taken) {
        DistributedSampler straight(size, {.seed = 4, .tail = tail});
        next_epoch(straight);
        straight.reset();
        take(straight, taken);
        const std::string text = saved(straight);
        const bool done = taken >= size / static_cast<std::size_t>(kolo::size());
        const Examples expected = done ? Examples() : rest_of(straight);

        DistributedSampler resumed(size, {.tail = tail});
        load(resumed, text);
        if (!done) {
          EXPECT_EQ(resumed.epoch(), 1U);
          resumed.set_epoch(1);  // as loops do that set it each time
          EXPECT_EQ(next_epoch(resumed), expected) << size << " " << taken;
          EXPECT_EQ(next_epoch(resumed), next_epoch(straight));
        }
      }
    }
  }
}

TEST_F(SamplerTest, GoesOnAfterAnEpochThatWasDone) {
  DistributedSampler straight(24);
  next_epoch(straight);
  DistributedSampler resumed(24);
  load(resumed, saved(straight));
  EXPECT_EQ(resumed.epoch(), 1U);
  EXPECT_EQ(next_epoch(resumed), next_epoch(straight));

  DistributedSampler fresh(24);
  fresh.set_epoch(7);
  load(resumed, saved(fresh));
  EXPECT_EQ(resumed.epoch(), 7U);
}

TEST_F(SamplerTest, GoesOnWithAnotherNumberOfRanks) {
  DistributedSampler sampler(37, {.seed = 9, .tail = Tail::Uneven});
  sampler.reset();
  std::vector<Examples> parts = of_all_ranks(take(sampler, 2));
  const std::string text = saved(sampler);
  for (int rank = 0; rank < kolo::size(); ++rank) {
    const ProcessSet alone = add_process_set({rank});
    if (kolo::rank() != rank) continue;
    DistributedSampler rest(37, {.tail = Tail::Uneven, .process_set = alone});
    load(rest, text);
    parts.push_back(next_epoch(rest));
  }
  EXPECT_EQ(sorted(parts), up_to(37));
}

TEST_F(SamplerTest, SkipsWhatTheProgramHasCounted) {
  DistributedSampler straight(40, {.seed = 2});
  next_epoch(straight);
  const Examples whole = next_epoch(straight);
  DistributedSampler resumed(40, {.seed = 2});
  resumed.set_epoch(1);
  resumed.skip(4);
  EXPECT_EQ(next_epoch(resumed), Examples(whole.begin() + 4, whole.end()));
  EXPECT_EQ(next_epoch(resumed), next_epoch(straight));
}

TEST_F(SamplerTest, AnotherDataSetThanWasSaved) {
  DistributedSampler sampler(40);
  const std::string text = saved(sampler);
  DistributedSampler other(41);
  expect_error([&] { load(other, text); }, {"a data set of 40 examples", "this one has 41"});
}

TEST_F(SamplerTest, OfAProcessSet) {
  std::vector<int> ranks;
  for (int rank = 0; rank < kolo::size(); rank += 2) ranks.push_back(rank);
  const ProcessSet even = add_process_set(ranks);
  if (kolo::rank() % 2 == 0) {
    DistributedSampler sampler(20, {.shuffle = false, .tail = Tail::Uneven, .process_set = even});
    Examples expected;
    for (int i = kolo::rank() / 2; i < 20; i += static_cast<int>(ranks.size()))
      expected.push_back(i);
    EXPECT_EQ(next_epoch(sampler), expected);
  }
  expect_usable();
}

TEST_F(SamplerTest, SamplersThatDiffer) {
  if (kolo::size() == 1) return;
  const bool last = kolo::rank() == last_rank();
  const std::string on_last = " on rank " + std::to_string(last_rank());
  expect_error([&] { DistributedSampler(last ? 9 : 10); },
               {"DistributedSampler()", "10 examples on rank 0", "9 examples" + on_last});
  expect_error([&] { DistributedSampler(10, {.seed = last ? 2U : 1U}); },
               {"shuffled with seed 1 on rank 0", "shuffled with seed 2" + on_last});
  expect_error([&] { DistributedSampler(10, {.tail = last ? Tail::Drop : Tail::Pad}); },
               {"tail Pad on rank 0", "tail Drop" + on_last});
  expect_error([&] { DistributedSampler(1, {.tail = Tail::Drop}); },
               {"of 1 examples none are left for " + std::to_string(kolo::size()) + " ranks"});
  expect_usable();
}

}  // namespace
}  // namespace kolo::testing

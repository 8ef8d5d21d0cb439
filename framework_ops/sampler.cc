#include <fmt/format.h>
#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/sampler.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

#include "same_on_all_ranks.h"

namespace kolo {
namespace {

std::string describe(Tail tail) {
  switch (tail) {
    case Tail::Pad:
      return "tail Pad";
    case Tail::Drop:
      return "tail Drop";
    case Tail::Uneven:
      return "tail Uneven";
  }
  throw Error("not a value of kolo::Tail");
}

/// 0 … bound-1, the same with every compiler and library.
std::size_t draw_below(std::size_t bound, std::mt19937_64& random) {
  const std::uint64_t end = std::mt19937_64::max() - std::mt19937_64::max() % bound;
  std::uint64_t number = random();
  while (number >= end) number = random();
  return number % bound;
}

std::vector<std::size_t> shuffled(std::size_t size, std::uint64_t seed, std::size_t epoch) {
  std::seed_seq keys{seed & 0xffffffffU, seed >> 32, epoch & 0xffffffffU, epoch >> 32};
  std::mt19937_64 random(keys);
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = size; i > 1; --i) std::swap(order[i - 1], order[draw_below(i, random)]);
  return order;
}

void write_number(torch::serialize::OutputArchive& archive, const char* name, std::uint64_t value) {
  archive.write(name, torch::tensor(static_cast<std::int64_t>(value)), /*is_buffer=*/true);
}

std::uint64_t read_number(torch::serialize::InputArchive& archive, const char* name) {
  torch::Tensor tensor;
  archive.read(name, tensor, /*is_buffer=*/true);
  return static_cast<std::uint64_t>(tensor.item<std::int64_t>());
}

}  // namespace

/// Places are counted over all ranks, in the epoch's order: so they mean the same to any number of
/// ranks.
struct DistributedSampler::State {
  std::size_t size = 0;
  DistributedSamplerOptions options = {};
  std::size_t rank = 0;  // among those of the set
  std::size_t ranks = 1;

  bool begun = false;
  std::size_t epoch = 0;
  std::size_t first_place = 0;
  std::vector<std::size_t> indices = {};  // this rank's
  std::size_t given = 0;                  // of these

  std::size_t next_epoch = 0;
  std::size_t next_first_place = 0;

  std::size_t share_of(std::size_t examples) const {
    switch (options.tail) {
      case Tail::Pad:
        return (examples + ranks - 1) / ranks;
      case Tail::Drop:
        return examples / ranks;
      case Tail::Uneven:
        return (examples + ranks - 1 - rank) / ranks;
    }
    return 0;
  }

  void begin_next() {
    begun = true;
    epoch = std::exchange(next_epoch, next_epoch + 1);
    first_place = std::min(std::exchange(next_first_place, 0), size);
    given = 0;
    const auto order =
        options.shuffle ? shuffled(size, options.seed, epoch) : std::vector<std::size_t>();
    indices.resize(share_of(size - first_place));
    for (std::size_t i = 0; i < indices.size(); ++i) {
      const std::size_t place = (first_place + i * ranks + rank) % size;
      indices[i] = options.shuffle ? order[place] : place;
    }
  }

  /// Where to go on: epoch and place.
  std::pair<std::size_t, std::size_t> progress() const {
    if (!begun) return {next_epoch, next_first_place};
    const std::size_t place = first_place + given * ranks;
    const std::size_t dropped = options.tail == Tail::Drop ? ranks - 1 : 0;
    if (place + dropped >= size) return {epoch + 1, 0};
    return {epoch, place};
  }
};

DistributedSampler::DistributedSampler(std::size_t size, const DistributedSamplerOptions& options)
    : state_(std::make_shared<State>()) {
  const std::string order =
      options.shuffle ? fmt::format("shuffled with seed {}", options.seed) : "not shuffled";
  const std::vector<int> members = detail::require_same_on_all_ranks(
      "kolo::DistributedSampler", "DistributedSampler(): size and options",
      {fmt::format("{} examples", size), order, describe(options.tail)}, {}, options.process_set);
  if (options.tail == Tail::Drop && size < members.size()) {
    throw Error(
        fmt::format("DistributedSampler(): of {} examples none are left for {} ranks with "
                    "Tail::Drop: use Tail::Pad, or fewer ranks",
                    size, members.size()));
  }
  state_->size = size;
  state_->options = options;
  const auto self = std::find(members.begin(), members.end(), kolo::rank());
  state_->rank = static_cast<std::size_t>(self - members.begin());
  state_->ranks = members.size();
}

DistributedSampler::~DistributedSampler() = default;
DistributedSampler::DistributedSampler(const DistributedSampler&) = default;
DistributedSampler& DistributedSampler::operator=(const DistributedSampler&) = default;

void DistributedSampler::reset(detail::NewSize new_size) {
  if (new_size) state_->size = *new_size;
  state_->begin_next();
}

detail::Indices DistributedSampler::next(std::size_t batch_size) {
  const std::size_t count = std::min(batch_size, state_->indices.size() - state_->given);
  if (count == 0) return {};
  const auto begin = state_->indices.begin() + static_cast<std::ptrdiff_t>(state_->given);
  state_->given += count;
  return std::vector<std::size_t>(begin, begin + static_cast<std::ptrdiff_t>(count));
}

std::size_t DistributedSampler::size() const { return state_->share_of(state_->size); }

std::size_t DistributedSampler::epoch() const {
  return state_->begun ? state_->epoch : state_->next_epoch;
}

void DistributedSampler::set_epoch(std::size_t epoch) {
  if (epoch != state_->next_epoch) state_->next_first_place = 0;
  state_->next_epoch = epoch;
}

void DistributedSampler::skip(std::size_t examples) {
  state_->next_first_place = examples * state_->ranks;
}

void DistributedSampler::save(torch::serialize::OutputArchive& archive) const {
  const auto [epoch, place] = state_->progress();
  write_number(archive, "epoch", epoch);
  write_number(archive, "place", place);
  write_number(archive, "seed", state_->options.seed);
  write_number(archive, "size", state_->size);
}

void DistributedSampler::load(torch::serialize::InputArchive& archive) {
  const std::uint64_t size = read_number(archive, "size");
  if (size != state_->size) {
    throw Error(
        fmt::format("DistributedSampler::load(): it was saved for a data set of {} examples, "
                    "but this one has {}",
                    size, state_->size));
  }
  state_->begun = false;
  state_->indices.clear();
  state_->given = 0;
  state_->next_epoch = read_number(archive, "epoch");
  state_->next_first_place = read_number(archive, "place");
  state_->options.seed = read_number(archive, "seed");
}

}  // namespace kolo

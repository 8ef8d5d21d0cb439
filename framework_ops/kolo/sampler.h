#pragma once

/// Which examples of a data set are this rank's.

#include <kolo/process_set.h>
#include <torch/data/samplers/base.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace kolo {

/// What becomes of the examples that are left when each rank has got as many as the others; they
/// are fewer than there are ranks.
enum class Tail {
  Pad,    ///< the first ones of the order are dealt again, until all ranks have one more
  Drop,   ///< they sit this epoch out
  Uneven  ///< some ranks get one more: for tests, which see each example once; not for training
};

struct DistributedSamplerOptions {
  /// A new order in each epoch, by `seed` and the epoch's number, or always the data set's.
  bool shuffle = true;
  std::uint64_t seed = 0;
  Tail tail = Tail::Pad;
  ProcessSet process_set = {};
};

namespace detail {

/// LibTorch's own types, whichever `optional` its version has.
template <class Sampler, class Size>
Size size_that_reset_takes(void (Sampler::*)(Size));
using NewSize = decltype(size_that_reset_takes(&torch::data::samplers::Sampler<>::reset));
using Indices = decltype(std::declval<torch::data::samplers::Sampler<>&>().next(0));

}  // namespace detail

/// Deals a data set out to the ranks, for LibTorch's data loaders:
///
///   kolo::DistributedSampler sampler(dataset.size().value());
///   auto loader = torch::data::make_data_loader(dataset, sampler, /*batch_size=*/64);
///
/// All ranks have the same order, and of ranks 0 … n-1 rank r takes its examples r, r + n, r + 2n,
/// …. Each reset(), so each `loader->begin()`, begins the next epoch.
///
/// A loader keeps a sampler of its own. So copies are one sampler, also those that are moved from:
/// the program's steers the loader's, and tells how far that is.
///
/// Not thread-safe.
class DistributedSampler : public torch::data::samplers::Sampler<> {
 public:
  /// `size` is the data set's. Collective.
  /// @throws kolo::Error on every rank when size or options differ between ranks, or when Drop
  /// would leave nothing.
  explicit DistributedSampler(std::size_t size, const DistributedSamplerOptions& options = {});
  ~DistributedSampler() override;
  // A move copies: see above.
  DistributedSampler(const DistributedSampler&);
  DistributedSampler& operator=(const DistributedSampler&);

  /// Begins the next epoch; `new_size`: of the data set, from now on.
  void reset(detail::NewSize new_size = {}) override;

  /// Up to `batch_size` examples of this rank, by their place in the data set; none at the epoch's
  /// end.
  detail::Indices next(std::size_t batch_size) override;

  /// How many examples this rank gets in a whole epoch.
  std::size_t size() const;

  /// The epoch that is under way, or has ended last; before the first one, that which will be
  /// first. From 0.
  std::size_t epoch() const;

  /// The number of the next epoch that begins; without this, they are counted. That which load()
  /// goes on with still begins where it was broken off.
  void set_epoch(std::size_t epoch);

  /// The next epoch that begins leaves out this rank's first `examples`.
  void skip(std::size_t examples);

  /// Epoch, order, and how far the ranks have come, on which they may all go on after load(): the
  /// next epoch that begins is the rest of the one that was under way, also with another number of
  /// ranks.
  ///
  /// How far is what next() has given. A loader with worker threads asks for some batches ahead:
  /// then keep epoch() and the number of steps, and go on with set_epoch() and skip().
  void save(torch::serialize::OutputArchive& archive) const override;
  /// @throws kolo::Error when the data set had another size.
  void load(torch::serialize::InputArchive& archive) override;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace kolo

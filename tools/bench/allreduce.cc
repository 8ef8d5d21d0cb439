#include <kolo/ops.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "bench/check.h"
#include "bench/reducers.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"

namespace kolo::bench {
namespace {

torch::ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::Float32:
      return torch::kFloat32;
    case Dtype::Float64:
      return torch::kFloat64;
    case Dtype::Float16:
      return torch::kFloat16;
    case Dtype::BFloat16:
      return torch::kBFloat16;
    case Dtype::Int32:
      return torch::kInt32;
    case Dtype::Int64:
      return torch::kInt64;
  }
  throw std::logic_error("not a dtype");
}

struct Entrant {
  Contender contender = Contender::Kolo;
  std::unique_ptr<Reducer> reducer;
};

/// By the very calls that are timed then: under the same name, in the same memory. Leaves zeros in
/// it, whose sum is zero however often it is taken.
void check(const Entrant& entrant, torch::Tensor& tensor, const Ranks& ranks) {
  std::vector<double> values(static_cast<std::size_t>(tensor.numel()));
  torch::Tensor exact = torch::from_blob(values.data(), {tensor.numel()}, torch::kFloat64);
  const auto wrong = check_calls(values, ranks.rank(), ranks.size(), [&] {
    tensor.copy_(exact);
    entrant.reducer->allreduce(tensor);
    exact.copy_(tensor);
  });
  require_right(name_of(entrant.contender), wrong, ranks);
  tensor.zero_();
}

/// A size, a dtype and a kind of memory.
class Case {
 public:
  Case(std::int64_t bytes, Dtype dtype, Memory memory)
      : options_(scalar_type(dtype)),
        count_(std::max<std::int64_t>(1, bytes / static_cast<std::int64_t>(itemsize()))),
        memory_(memory),
        labels_({{"bytes", count_ * static_cast<std::int64_t>(itemsize())},
                 {"dtype", name_of(dtype)},
                 {"memory", name_of(memory)}}) {}

  const Labels& labels() const { return labels_; }

  torch::Tensor make_tensor(Contender contender) const {
    const bool in_kolo = contender == Contender::Kolo && memory_ == Memory::Kolo;
    return in_kolo ? kolo::empty({count_}, options_) : torch::empty({count_}, options_);
  }

 private:
  std::size_t itemsize() const { return options_.dtype().itemsize(); }

  torch::TensorOptions options_;
  std::int64_t count_;
  Memory memory_;
  Labels labels_;
};

void measure(const Case& one, const std::vector<Entrant>& entrants, const Options& options,
             const Ranks& ranks, Report& report) {
  report.announce(one.labels());
  std::vector<Method> methods;
  for (const Entrant& entrant : entrants) {
    torch::Tensor tensor = one.make_tensor(entrant.contender);
    check(entrant, tensor, ranks);
    auto call = [reducer = entrant.reducer.get(), tensor]() mutable { reducer->allreduce(tensor); };
    methods.push_back({name_of(entrant.contender), Stopwatch(std::move(call), ranks)});
  }
  report.add(one.labels(), "time", "us",
             scaled(take_samples(methods, {.seconds = options.seconds}, ranks), 1e6));
}

}  // namespace

void measure_allreduce(const Options& options, const Ranks& ranks, Report& report) {
  std::vector<Entrant> entrants;
  for (const Contender contender : contenders(options)) {
    entrants.push_back({contender, make_reducer(contender, ranks)});
  }
  for (const Dtype dtype : options.dtypes) {
    for (const Memory memory : options.memories) {
      for (const std::int64_t bytes : options.sizes) {
        measure(Case(bytes, dtype, memory), entrants, options, ranks, report);
      }
    }
  }
}

}  // namespace kolo::bench

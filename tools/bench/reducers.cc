#include "bench/reducers.h"

#include <torch/torch.h>

namespace kolo::bench {
namespace {

constexpr std::size_t kChunk = 4 << 20;

}  // namespace

void Training::run(const std::function<torch::Tensor()>& forward) {
  before_forward();
  torch::Tensor loss = forward();
  before_backward();
  loss.backward();
  after_backward();
  step();
}

std::unique_ptr<Training> make_training(Reducer* reducer,
                                        const std::vector<torch::Tensor>& parameters,
                                        torch::optim::Optimizer& optimizer) {
  if (reducer == nullptr) return std::make_unique<Training>(optimizer);
  return reducer->train(parameters, optimizer);
}

std::unique_ptr<Reducer> make_reducer(Contender contender, const Ranks& ranks) {
  switch (contender) {
    case Contender::Kolo:
      return make_kolo_reducer();
    case Contender::Mpi:
      return make_mpi_reducer(ranks, 0);
    case Contender::MpiChunked:
      return make_mpi_reducer(ranks, kChunk);
    case Contender::Ddp:
      return make_ddp_reducer(ranks, /*gradient_as_bucket_view=*/false);
    case Contender::DdpView:
      return make_ddp_reducer(ranks, /*gradient_as_bucket_view=*/true);
  }
  return nullptr;
}

}  // namespace kolo::bench

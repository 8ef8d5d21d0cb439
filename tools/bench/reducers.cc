#include "bench/reducers.h"

namespace kolo::bench {
namespace {

constexpr std::size_t kChunk = 4 << 20;

}  // namespace

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

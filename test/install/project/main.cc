// A program of somebody else's, who has installed Kolo.

#include <kolo/kolo.h>
#include <torch/torch.h>

#include <cstdio>

int main() {
  kolo::init();
  const auto sum = kolo::allreduce(torch::tensor({1.0F, 2.0F}), kolo::AllreduceOptions());
  std::printf("rank %d of %d: %g %g\n", kolo::rank(), kolo::size(), sum[0].item<double>(),
              sum[1].item<double>());
}

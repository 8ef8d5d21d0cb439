// The shortest complete data-parallel training program: a small network learns the length of a
// vector. Every rank draws its own samples; all ranks train one model.
//
//   kolorun -np 2 ./minimal        (or mpirun -np 2 ./minimal, or ./minimal alone)

#include <kolo/kolo.h>
#include <torch/torch.h>

#include <cstdio>
#include <exception>

namespace {

void train() {
  kolo::init();
  const auto device = kolo::local_device();

  torch::nn::Sequential model(torch::nn::Linear(8, 64), torch::nn::ReLU(),
                              torch::nn::Linear(64, 1));
  model->to(device);
  torch::optim::SGD sgd(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  kolo::DistributedOptimizer optimizer(sgd, model->named_parameters());
  kolo::broadcast_parameters(*model, /*root_rank=*/0);

  torch::manual_seed(static_cast<std::uint64_t>(kolo::rank()));  // another shard on every rank
  const auto inputs = torch::randn({1024, 8}, device);
  const auto targets = inputs.norm(2, /*dim=*/1, /*keepdim=*/true);

  for (int epoch = 1; epoch <= 10; ++epoch) {
    auto loss_sum = torch::zeros({}, device);
    for (int batch = 0; batch < 16; ++batch) {
      const auto input = inputs.narrow(0, 64 * batch, 64);
      const auto target = targets.narrow(0, 64 * batch, 64);
      optimizer.zero_grad();
      const auto loss = torch::mse_loss(model->forward(input), target);
      loss.backward();
      optimizer.step();
      loss_sum += loss.detach();
    }
    const double loss = kolo::mean(loss_sum.item<double>() / 16);  // over all ranks
    if (kolo::rank() == 0) std::printf("epoch %2d  loss %.4f\n", epoch, loss);
  }
}

}  // namespace

int main() {
  try {
    train();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kolo error: %s\n", e.what());
    return 1;
  }
}

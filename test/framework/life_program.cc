// One rank of a program whose life life_test.py looks at: its first argument says how it lives.

#include <kolo/kolo.h>
#include <mpi.h>
#include <sys/resource.h>
#include <torch/torch.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

/// The rank that does not do as the others.
constexpr int kOther = 1;

std::string argument;  // the second one

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

bool mpi_is_initialized() {
  int flag = 0;
  MPI_Initialized(&flag);
  return flag != 0;
}

void reduce_and_report() {
  const auto sum = kolo::allreduce(torch::ones({3}), {.name = "x", .op = kolo::ReduceOp::Sum});
  print(c10::str("rank ", kolo::rank(), " of ", kolo::size(), ", local ", kolo::local_rank(),
                 " of ", kolo::local_size(), ", cross ", kolo::cross_rank(), " of ",
                 kolo::cross_size(), ", ", kolo::local_device(), ", sum ", sum[0].item<int>(),
                 ", MPI ", mpi_is_initialized() ? "on" : "off"));
}

/// Without shutdown, too.
int plain() {
  kolo::init();
  reduce_and_report();
  return 0;
}

int shut_down() {
  kolo::shutdown();
  kolo::init();
  reduce_and_report();
  kolo::shutdown();
  kolo::shutdown();
  print(kolo::is_initialized() ? "running" : "ended");
  return 0;
}

int use_before_init() {
  const std::map<std::string, std::function<void()>> calls = {
      {"rank", [] { kolo::rank(); }},
      {"local_device", [] { kolo::local_device(); }},
      {"allreduce", [] { kolo::allreduce(torch::ones({1})); }},
      {"add_process_set", [] { kolo::add_process_set({0}); }},
      {"broadcast_parameters", [] { kolo::broadcast_parameters(*torch::nn::Linear(1, 1), 0); }},
      {"DistributedOptimizer", [] {
         torch::nn::Linear model(1, 1);
         torch::optim::SGD sgd(model->parameters(), 0.1);
         kolo::DistributedOptimizer(sgd, model->named_parameters());
       }}};
  for (const auto& [name, call] : calls) {
    try {
      call();
      print(name + ": nothing");
    } catch (const kolo::Error& error) {
      print(name + ": " + error.what());
    }
  }
  return 0;
}

/// MPI of the program's own, started with the level that the argument names.
int own_mpi() {
  const std::map<std::string, int> levels = {{"single", MPI_THREAD_SINGLE},
                                             {"funneled", MPI_THREAD_FUNNELED},
                                             {"serialized", MPI_THREAD_SERIALIZED},
                                             {"multiple", MPI_THREAD_MULTIPLE}};
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, levels.at(argument), &level);
  const bool enough = level >= MPI_THREAD_SERIALIZED;
  print(enough ? "level is enough" : "level is too low");
  try {
    kolo::init();
    reduce_and_report();
    kolo::shutdown();
  } catch (const kolo::Error& error) {
    print(error.what());
  }
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Finalize();
  print(c10::str("finalized ", rank));
  return 0;
}

/// All but one wait for it in an all-reduce. The argument is what they end with: with 0 MPI is finalised, which
/// takes all ranks.
int others_wait(const std::function<int()>& one) {
  kolo::init();
  kolo::barrier();
  if (kolo::rank() == kOther) return one();
  try {
    reduce_and_report();
  } catch (const kolo::Error& error) {
    print(c10::str("rank ", kolo::rank(), ": ", error.what()));
  }
  return std::atoi(argument.c_str());
}

/// This rank, in MPI of the program's own.
int start_mpi() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

/// A setting that only one rank has. All have started MPI: mpirun may not end when it kills ranks that have not.
int set_on_one_rank() {
  if (start_mpi() == kOther) setenv(argument.c_str(), "12345", 1);
  kolo::init();
  MPI_Finalize();
  return 0;
}

/// One rank may not grow files: so those of its host cannot share memory.
int refused_memory() {
  const int rank = start_mpi();
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = 4096;
  if (rank == kOther) setrlimit(RLIMIT_FSIZE, &limit);
  kolo::init();
  reduce_and_report();
  kolo::shutdown();
  MPI_Finalize();
  return 0;
}

/// A layer with a backward of its own inside backward, as in activation checkpointing.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x,
                               torch::nn::Linear& layer) {
    context->save_for_backward({x});
    context->saved_data["layer"] = reinterpret_cast<std::int64_t>(&layer);
    return layer(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::AutoGradMode enable(true);
    auto& layer = *reinterpret_cast<torch::nn::Linear*>(context->saved_data["layer"].toInt());
    const torch::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    layer(x).backward(gradients[0]);
    return {x.grad(), torch::Tensor()};
  }
};

/// Enough for the groups of gradients to be chosen.
constexpr std::int64_t kPlannedSteps = 6;

struct Layers {
  torch::nn::Linear first{50, 300}, middle{300, 300}, last{300, 5};
};

/// What a model has learned, to the bit.
std::size_t bits_of(torch::nn::Sequential& model) {
  std::size_t bits = 0;
  for (const torch::Tensor& parameter : model->parameters()) {
    const auto* const values = parameter.data_ptr<float>();
    for (std::int64_t i = 0; i < parameter.numel(); ++i) {
      bits = 31 * bits + std::bit_cast<std::uint32_t>(values[i]);
    }
  }
  return bits;
}

/// Steps of a small model; says that it runs after those in which groups are chosen, and at the end
/// what comes of them.
int train(std::int64_t steps, const std::function<torch::nn::Sequential(Layers&)>& registered,
          const std::function<torch::Tensor(Layers&, const torch::Tensor&)>& forward) {
  kolo::init();
  torch::manual_seed(kolo::rank());
  Layers layers;
  torch::nn::Sequential model = registered(layers);
  torch::optim::SGD sgd(model->parameters(), 0.01);
  kolo::DistributedOptimizer optimizer(sgd, model->named_parameters());
  kolo::broadcast_parameters(*model, 0);
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step == kPlannedSteps) std::fprintf(stderr, "running\n");
    optimizer.zero_grad();
    forward(layers, torch::rand({4, 50})).square().sum().backward();
    optimizer.step();
  }
  print(c10::str("rank ", kolo::rank(), " has learned ", bits_of(model)));
  return 0;
}

/// The middle layer gets gradients twice in each step.
int train_twice(std::int64_t steps) {
  return train(
      steps,
      [](Layers& layers) {
        return torch::nn::Sequential(layers.first, layers.middle, layers.last);
      },
      [](Layers& layers, const torch::Tensor& x) {
        return layers.last(layers.middle(Recomputed::apply(layers.first(x), layers.middle)));
      });
}

/// Layers are registered in another order than they are used in.
int train_reordered() {
  return train(
      kPlannedSteps,
      [](Layers& layers) {
        return torch::nn::Sequential(layers.last, layers.first, layers.middle);
      },
      [](Layers& layers, const torch::Tensor& x) {
        return layers.last(layers.middle(layers.first(x)));
      });
}

/// Layers whose gradients come in the order of the first groups, the last one first: says whether
/// they are where they were at first when groups have been chosen.
int train_in_order() {
  kolo::init();
  torch::manual_seed(kolo::rank());
  torch::nn::Sequential model;
  for (int i = 0; i < 6; ++i) {
    model->push_back(torch::nn::Linear(torch::nn::LinearOptions(30, 30).bias(false)));
  }
  torch::optim::SGD sgd(model->parameters(), 0.01);
  kolo::DistributedOptimizer optimizer(sgd, model->named_parameters());
  kolo::broadcast_parameters(*model, 0);
  std::vector<std::vector<const void*>> places;
  for (std::int64_t step = 0; step < kPlannedSteps; ++step) {
    optimizer.zero_grad();
    model->forward(torch::rand({4, 30})).square().sum().backward();
    places.emplace_back();
    for (const torch::Tensor& parameter : model->parameters()) {
      places.back().push_back(parameter.grad().data_ptr());
    }
    optimizer.step();
  }
  print(c10::str("rank ", kolo::rank(), ": gradients have ",
                 places.front() == places.back() ? "stayed" : "moved", ", it has learned ",
                 bits_of(model)));
  return 0;
}

/// Two threads train with optimizers of one process set, which is an error in both, on all ranks.
int two_threads() {
  kolo::init();
  torch::nn::Linear models[] = {torch::nn::Linear(16, 16), torch::nn::Linear(16, 16)};
  const auto train = [&models](int thread, kolo::DistributedOptimizer& optimizer) {
    try {
      for (int step = 0; step < 100'000; ++step) {
        optimizer.zero_grad();
        models[thread](torch::ones({2, 16})).square().sum().backward();
        optimizer.step();
      }
    } catch (const kolo::Error& error) {
      print(c10::str("rank ", kolo::rank(), " thread ", thread, ": ", error.what()));
    }
  };
  torch::optim::SGD first(models[0]->parameters(), 0), second(models[1]->parameters(), 0);
  kolo::DistributedOptimizer of_first(first), of_second(second);
  // Without Kolo, which the first threads that meet make fail: all ranks have made theirs.
  MPI_Barrier(MPI_COMM_WORLD);
  std::thread other([&] { train(1, of_second); });
  train(0, of_first);
  other.join();
  return 0;
}

int run(const std::string& life) {
  if (life == "plain") return plain();
  if (life == "shut-down") return shut_down();
  if (life == "use-before-init") return use_before_init();
  if (life == "own-mpi") return own_mpi();
  if (life == "exit") return others_wait([]() -> int { std::exit(std::atoi(argument.c_str())); });
  if (life == "return") return others_wait([] { return std::atoi(argument.c_str()); });
  if (life == "throw" || life == "throw-uncaught") {
    return others_wait([]() -> int { throw std::runtime_error("this rank has had enough"); });
  }
  if (life == "set-on-one-rank") return set_on_one_rank();
  if (life == "refused-memory") return refused_memory();
  if (life == "train") return train_twice(kPlannedSteps);
  if (life == "train-on") return train_twice(std::numeric_limits<std::int64_t>::max());
  if (life == "train-reordered") return train_reordered();
  if (life == "train-in-order") return train_in_order();
  if (life == "two-threads") return two_threads();
  print("no such life: " + life);
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string life = count > 1 ? arguments[1] : "";
  if (count > 2) argument = arguments[2];
  torch::set_num_threads(1);
  if (life == "throw-uncaught") return run(life);
  try {
    return run(life);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

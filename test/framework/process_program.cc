// One rank of a program that does with its process what process_test.py looks at: its first
// argument says what.

#include <kolo/kolo.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <mpi.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

/// The rank that does not do as the others.
constexpr int kOther = 1;

std::string argument;  // the second one

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string sum() {
  const auto sum = kolo::allreduce(torch::ones({3}), {.name = "x", .op = kolo::ReduceOp::Sum});
  return c10::str("sum ", sum[0].item<int>());
}

// ---- children ----

struct Training {
  torch::nn::Sequential model{torch::nn::Linear(20, 30), torch::nn::Linear(30, 3)};
  torch::optim::SGD sgd{model->parameters(), 0.01};
  kolo::DistributedOptimizer optimizer{sgd, model->named_parameters()};
  torch::Tensor shared = kolo::empty({100'000}).fill_(7);

  torch::Tensor grad(std::size_t parameter) { return model->parameters()[parameter].grad(); }

  /// To the bit.
  std::size_t learned() {
    std::size_t bits = 0;
    for (const torch::Tensor& parameter : model->parameters()) {
      const auto* const values = parameter.data_ptr<float>();
      for (std::int64_t i = 0; i < parameter.numel(); ++i) {
        bits = 31 * bits + std::bit_cast<std::uint32_t>(values[i]);
      }
    }
    return bits;
  }
};

/// It sees its parent's values, and what it writes and frees is its own.
void use_memory(Training& training, const torch::Tensor& grad_before) {
  const bool as_before = torch::equal(training.grad(0), grad_before) &&
                         (training.shared == training.shared[0].item<float>()).all().item<bool>();
  training.grad(0).fill_(1000);
  training.shared.fill_(-1);
  const bool written = (training.grad(0) == 1000).all().item<bool>();
  training.shared.reset();
  for (torch::Tensor parameter : training.model->parameters()) parameter.mutable_grad().reset();
  print(c10::str("child: memory ", as_before ? "as before" : "DIFFERS", ", ",
                 written ? "written" : "NOT WRITTEN"));
}

void make_calls(Training& training, kolo::Work& begun) {
  torch::nn::Linear model(1, 1);
  torch::optim::SGD sgd(model->parameters(), 0.1);
  const std::map<std::string, std::function<void()>> calls = {
      {"init", [] { kolo::init(); }},
      {"rank", [] { kolo::rank(); }},
      {"empty", [] { kolo::empty({1}); }},
      {"allreduce", [] { kolo::allreduce(torch::ones({3}), {.name = "x"}); }},
      {"barrier", [] { kolo::barrier(); }},
      {"wait", [&] { begun.wait(); }},
      {"backward",
       [&] {
         training.model->forward(torch::ones({1, 20})).sum().backward();
       }},
      {"step", [&] { training.optimizer.step(); }},
      {"DistributedOptimizer", [&] { kolo::DistributedOptimizer(sgd, model->named_parameters()); }},
      {"broadcast_parameters", [&] { kolo::broadcast_parameters(*model, 0); }}};
  for (const auto& [name, call] : calls) {
    try {
      call();
      print("child: " + name + ": nothing");
    } catch (const kolo::Error& error) {
      print("child: " + name + ": " + error.what());
    }
  }
  kolo::shutdown();
  print(kolo::is_initialized() ? "child: running" : "child: not running");
}

/// One rank forks in each step; the argument is "none" for a run in which it does not. Children end
/// with exit(), but for one, which returns from main().
int fork_children() {
  kolo::init();
  torch::manual_seed(kolo::rank());
  Training training;
  kolo::broadcast_parameters(*training.model, 0);
  const bool forks = kolo::rank() == kOther && argument != "none";
  for (int step = 0; step < 8; ++step) {
    training.optimizer.zero_grad();
    training.model->forward(torch::rand({4, 20})).square().sum().backward();
    kolo::Work begun = kolo::allreduce_async(torch::ones({3}), {.name = "begun"});
    const torch::Tensor grad = training.grad(0).clone();
    const pid_t child = forks ? fork() : 0;
    if (forks && child == 0) {
      alarm(40);
      if (step == 1) return 0;
      if (step == 2 || step == 6) use_memory(training, grad);
      if (step == 3) make_calls(training, begun);
      std::exit(0);
    }
    int status = 0;
    if (forks && (waitpid(child, &status, 0) != child || status != 0)) {
      print(c10::str("the child of step ", step, " has ended with ", status));
    }
    begun.wait();
    training.shared.add_(1);
    training.optimizer.step();
  }
  print(c10::str("rank ", kolo::rank(), " has learned ", training.learned(), ", ",
                 training.shared.min().item<float>(), " to ", training.shared.max().item<float>()));
  return 0;
}

// ---- ends ----

/// Of a program that has started MPI itself, and ends it as if there were no Kolo.
int finalize_own_mpi() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
  kolo::init();
  auto training = std::make_unique<Training>();
  const std::string line = sum();
  if (argument == "reset") training.reset();
  MPI_Finalize();
  print(line);
  try {
    kolo::barrier();
  } catch (const kolo::Error& error) {
    print(error.what());
  }
  return 0;
}

int quick_exit() {
  kolo::init();
  print(sum());
  if (argument == "shut-down" || kolo::rank() != kOther) kolo::shutdown();
  std::quick_exit(0);
}

// ---- signals and limits ----

/// The program's own, which it waits for.
int wait_for_signal() {
  kolo::init();
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  kolo::barrier();
  int got = 0;
  for (int i = 0; i < 20; ++i) {
    kill(getpid(), SIGUSR1);
    sigwait(&signals, &got);
  }
  print(c10::str("signal ", got == SIGUSR1 ? "USR1" : "?", ", ", sum()));
  return 0;
}

/// From here on this process gets no more threads.
void refuse_threads() {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog program{std::size(code), code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    print("cannot refuse threads");
    std::exit(0);
  }
}

int start_without_threads() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == kOther) refuse_threads();
  try {
    kolo::init();
  } catch (const kolo::Error& error) {
    print(c10::str("rank ", rank, ": ", error.what()));
  }
  MPI_Finalize();
  return 0;
}

/// Tensors of 100 MB, until there is no more memory; at most 1 GB.
int take_memory() {
  kolo::init();
  std::vector<torch::Tensor> kept;
  try {
    while (kept.size() < 10) kept.push_back(kolo::empty({25'000'000}).fill_(1));
    print("10 tensors");
  } catch (const kolo::Error& error) {
    print(error.what());
  }
  kept.clear();
  print(sum());
  return 0;
}

int run(const std::string& what) {
  if (what == "fork") return fork_children();
  if (what == "finalize") return finalize_own_mpi();
  if (what == "quick-exit") return quick_exit();
  if (what == "wait-for-signal") return wait_for_signal();
  if (what == "without-threads") return start_without_threads();
  if (what == "take-memory") return take_memory();
  print("no such thing: " + what);
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (count > 2) argument = arguments[2];
  torch::set_num_threads(1);
  try {
    return run(what);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

// What ranks do together besides training: agree, let one do it, count, average buffers, stop.

#include <kolo/agree.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <stdexcept>

#include "framework/support.h"

namespace kolo::testing {
namespace {

class TogetherTest : public FrameworkTest {};

/// What `work` throws where it throws, and what the others get.
void expect_failure_on(int rank, const std::function<void()>& call, const std::string& message) {
  if (kolo::rank() == rank) {
    try {
      call();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(error.what(), message);
    }
  } else {
    EXPECT_EQ(error_of(call), "on rank " + std::to_string(rank) + ": " + message);
  }
  expect_usable();
}

TEST_F(TogetherTest, AllRunIt) {
  int runs = 0;
  kolo::agree([&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST_F(TogetherTest, WhatFailsOnOneRankFailsOnAll) {
  for (const std::string message : {"no space left", "two\nlines\n", "!", "a\fb"}) {
    expect_failure_on(
        last_rank(),
        [&] {
          kolo::agree([&] {
            if (kolo::rank() == last_rank()) throw std::invalid_argument(message);
          });
        },
        message);
  }
}

TEST_F(TogetherTest, WhateverIsThrown) {
  const auto on_last = [](const std::function<void()>& fail) {
    kolo::agree([&] {
      if (kolo::rank() == last_rank()) fail();
    });
  };
  const std::string who = "on rank " + std::to_string(last_rank()) + ": ";
  const bool other = kolo::rank() != last_rank();
  const auto torch_error = [&] { on_last([] { TORCH_CHECK(false, "shapes differ"); }); };
  const auto number = [&] { on_last([] { throw 7; }); };
  const auto silent = [&] { on_last([] { throw std::invalid_argument(""); }); };
  if (other) {
    EXPECT_EQ(error_of(torch_error), who + "shapes differ");
    EXPECT_EQ(error_of(number), who + "an exception that is no std::exception");
    EXPECT_EQ(error_of(silent), who + "std::invalid_argument");
  } else {
    EXPECT_THROW(torch_error(), c10::Error);
    EXPECT_THROW(number(), int);
    EXPECT_THROW(silent(), std::invalid_argument);
  }
}

TEST_F(TogetherTest, EachHasItsOwnFailure) {
  const std::string mine = "mine is " + std::to_string(kolo::rank());
  EXPECT_EQ(error_of([&] { kolo::agree([&] { throw kolo::Error(mine); }); }), mine);
}

TEST_F(TogetherTest, OneRankSavesAndAllCanLoad) {
  // Named by rank 0.
  const int job = kolo::broadcast(torch::tensor(static_cast<int>(::getpid())), 0).item<int>();
  const std::string name = "kolo_together_test." + std::to_string(job);
  const std::string path = (std::filesystem::temp_directory_path() / name).string();
  torch::nn::Linear model(64, 64);
  torch::optim::Adam adam(model->parameters(), 0.01);
  kolo::broadcast_parameters(*model, 0);
  for (int step = 0; step < 10; ++step) {
    model->forward(torch::ones({1, 64})).sum().backward();
    adam.step();
    int runs = 0;
    kolo::on_rank(last_rank(), [&] {
      ++runs;
      torch::save(adam, path);
    });
    EXPECT_EQ(runs, kolo::rank() == last_rank() ? 1 : 0);
    torch::optim::Adam other(model->parameters(), 0.01);
    EXPECT_NO_THROW(torch::load(other, path));
    kolo::barrier();
  }
  kolo::on_rank(0, [&] { std::filesystem::remove(path); });
  expect_failure_on(
      last_rank(), [&] { kolo::on_rank(last_rank(), [] { throw std::invalid_argument("full"); }); },
      "full");
}

TEST_F(TogetherTest, TheyMustNameOneRankOfTheSet) {
  const std::string none = std::to_string(kolo::size());
  expect_error([&] { kolo::on_rank(kolo::size(), [] {}); },
               {"rank " + none + " is to run it, but only ranks 0"});
  if (kolo::size() > 1) {
    expect_error([&] { kolo::on_rank(kolo::rank() == 0 ? 0 : 1, [] {}); },
                 {"the chosen ranks differ between ranks", "is 0 on rank 0, but 1 on rank 1"});
  }
  expect_usable();
}

TEST_F(TogetherTest, TextsThatMustBeTheSame) {
  kolo::require_same("recipes", "lr = 0.1\nseed = 1\n");
  if (kolo::size() == 1) return;
  const std::string own =
      kolo::rank() == last_rank() ? "lr = 0.1\nseed = 2\n" : "lr = 0.1\nseed = 1\n";
  EXPECT_EQ(error_of([&] { kolo::require_same("recipes", own); }),
            "recipes differ between ranks: number 2 is seed = 1 on rank 0, but seed = 2 on rank " +
                std::to_string(last_rank()));
  expect_usable();
}

TEST_F(TogetherTest, Numbers) {
  double sum = 0;
  for (int rank = 0; rank < kolo::size(); ++rank) sum += 0.1 * (rank + 1);
  const double mine = 0.1 * (kolo::rank() + 1);
  for (int repetition = 0; repetition < 4; ++repetition) {  // also once the names recur
    EXPECT_EQ(kolo::sum(mine), sum);
    EXPECT_EQ(kolo::mean(mine), sum / kolo::size());
    EXPECT_TRUE(kolo::any(kolo::rank() == last_rank()));
    EXPECT_FALSE(kolo::any(false));
    EXPECT_EQ(kolo::all(kolo::rank() == 0), kolo::size() == 1);
    EXPECT_TRUE(kolo::all(true));
  }
}

TEST_F(TogetherTest, InAProcessSet) {
  const ProcessSet last = add_process_set({last_rank()});
  std::vector<int> ranks;
  for (int rank = 0; rank < kolo::size(); rank += 2) ranks.push_back(rank);
  const ProcessSet even = add_process_set(ranks);
  const std::string outsider = "rank " + std::to_string(kolo::rank()) + " is not a member";
  if (kolo::rank() % 2 == 0) {
    EXPECT_EQ(kolo::sum(1.0, even), ranks.size());
    EXPECT_FALSE(kolo::any(false, even));
    int runs = 0;
    kolo::on_rank(
        ranks.back(), [&] { ++runs; }, even);
    EXPECT_EQ(runs, kolo::rank() == ranks.back() ? 1 : 0);
    kolo::agree([] {}, even);
  } else {
    expect_error([&] { kolo::sum(1.0, even); }, {outsider});
    expect_error([&] { kolo::agree([] {}, even); }, {outsider});
  }
  if (kolo::rank() == last_rank()) {
    EXPECT_EQ(kolo::mean(7.0, last), 7.0);
  }
  expect_usable();
}

// ---- buffers ----

TEST_F(TogetherTest, StatisticsOfBatchNorm) {
  torch::nn::Sequential model(torch::nn::Linear(4, 3), torch::nn::BatchNorm1d(3));
  kolo::broadcast_parameters(*model, 0);
  for (int batch = 0; batch <= kolo::rank(); ++batch) {
    model->forward(torch::randn({8, 4}) * (kolo::rank() + 1) + kolo::rank());
  }
  std::vector<torch::Tensor> expected;
  for (const torch::Tensor& buffer : model->buffers()) {
    const torch::Tensor all = torch::stack(gather(buffer)).to(torch::kFloat64);
    expected.push_back(buffer.dim() == 0 ? all.amax(0) : all.mean(0));
  }
  kolo::average_buffers(*model);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LT(relative_difference(model->buffers()[i], expected[i]), 1e-6) << i;
  }
  EXPECT_EQ(model->named_buffers()["1.num_batches_tracked"].item<std::int64_t>(), kolo::size());
  model->eval();
  EXPECT_TRUE(identical_on_all_ranks(model->forward(torch::ones({2, 4}))));
}

TEST_F(TogetherTest, BuffersOfEveryKind) {
  torch::nn::Module module;
  const double rank = kolo::rank();
  module.register_buffer("half", torch::full({3}, rank, torch::kFloat16));
  module.register_buffer("complex",
                         torch::complex(torch::full({2}, rank), torch::full({2}, -rank)));
  module.register_buffer("index", torch::arange(5));
  module.register_buffer("mask", torch::tensor({true, false}));
  module.register_buffer("none", torch::Tensor());
  kolo::average_buffers(module);
  const double mean = (kolo::size() - 1) / 2.0;
  const auto buffers = module.named_buffers();
  EXPECT_TRUE(identical(buffers["half"], torch::full({3}, mean, torch::kFloat16)));
  EXPECT_TRUE(torch::equal(torch::view_as_real(buffers["complex"]),
                           torch::tensor({mean, -mean}, torch::kFloat32).expand({2, 2})));
  EXPECT_TRUE(identical(buffers["index"], torch::arange(5)));
  EXPECT_TRUE(identical(buffers["mask"], torch::tensor({true, false})));
}

TEST_F(TogetherTest, ABufferInTwoPlacesIsAveragedOnce) {
  torch::nn::Module module;
  const torch::nn::BatchNorm1d norm(2);
  norm->running_mean.fill_(3.0 * kolo::rank());
  module.register_module("a", norm.ptr());
  module.register_module("b", norm.ptr());
  kolo::average_buffers(module);
  EXPECT_EQ(norm->running_mean[1].item<double>(), 3.0 * (kolo::size() - 1) / 2);
}

TEST_F(TogetherTest, BuffersThatCannotBeAveraged) {
  if (kolo::size() == 1) return;
  const std::string last = std::to_string(last_rank());
  torch::nn::Module module;
  module.register_buffer("index",
                         torch::full({3}, kolo::rank() == last_rank() ? 1 : 0, torch::kInt64));
  expect_error(
      [&] { kolo::average_buffers(module); },
      {"average_buffers()", "'buffer/index'",
       "Long [3], which cannot be averaged and must be the same", "on rank 0", "on rank " + last});
  torch::nn::Module other;
  other.register_buffer("mean", torch::zeros({kolo::rank() == last_rank() ? 3 : 2}));
  expect_error([&] { kolo::average_buffers(other); },
               {"Float [2] on rank 0", "Float [3] on rank " + last});
  expect_usable();
}

// ---- stopping ----

volatile std::sig_atomic_t own_calls = 0;

/// The only test of this program that lets Kolo handle signals: how often they came is remembered.
TEST_F(TogetherTest, OneRankIsToldAndAllStopAtTheSameStep) {
  struct sigaction before {};
  ::sigaction(SIGTERM, nullptr, &before);
  std::signal(SIGINT, [](int) { own_calls = own_calls + 1; });
  int steps = 0;
  for (; steps < 100 && !kolo::stop_requested(); ++steps) {
    if (steps == 7 && kolo::rank() == last_rank()) std::raise(SIGTERM);
  }
  EXPECT_EQ(steps, 8);
  EXPECT_TRUE(kolo::stop_requested());

  std::raise(SIGINT);
  EXPECT_EQ(own_calls, 1) << "the program's own handler runs, too";

  // A child is another process: it ends, as it would have.
  const ::pid_t child = ::fork();
  if (child == 0) {
    std::raise(SIGTERM);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
  ::sigaction(SIGTERM, &before, nullptr);
  std::signal(SIGINT, SIG_DFL);
  expect_usable();
}

}  // namespace
}  // namespace kolo::testing

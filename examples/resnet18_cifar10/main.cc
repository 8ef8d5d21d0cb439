/// Trains ResNet-18 on CIFAR-10 or Fashion-MNIST, on as many ranks as it is started with:
///
///   ./resnet18_cifar10
///   kolorun -np 2 ./resnet18_cifar10 --download --history run.csv
///
/// `--help` tells the options; trainer.cc is the part to copy from.

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <kolo/agree.h>
#include <kolo/init.h>
#include <sched.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <thread>

#include "amp.h"
#include "download.h"
#include "recipe.h"
#include "trainer.h"

namespace resnet_example {
namespace {

/// Rank 0 first, then one rank of each host that still has no files: hosts that share the folder
/// download once.
void download_dataset(const Options& options) {
  for (const bool first_turn : {true, false}) {
    kolo::agree([&] {
      const bool my_turn = first_turn ? kolo::rank() == 0 : kolo::local_rank() == 0;
      if (my_turn) fetch_cifar10(locate_dataset(options).folder);
    });
  }
}

Dataset open_dataset(const Options& options) {
  if (options.download) download_dataset(options);
  Dataset dataset;
  kolo::agree([&] {
    dataset = load_dataset(locate_dataset(options));
    limit_images(dataset.train, options.limit_train);
    limit_images(dataset.test, options.limit_test);
    if (dataset.train.size() < static_cast<std::size_t>(kolo::size()) || dataset.test.size() == 0) {
      throw std::runtime_error(
          fmt::format("too few images for {} ranks: {} to train and {} to test", kolo::size(),
                      dataset.train.size(), dataset.test.size()));
    }
  });
  kolo::require_same("options and data sets", training_recipe(options, dataset, kolo::size()));
  return dataset;
}

/// Unless told otherwise, the ranks of a host share its cores; a launcher may have bound this one
/// to fewer.
void set_threads(int wanted) {
  if (wanted == 0 && std::getenv("OMP_NUM_THREADS") != nullptr) return;
  if (wanted == 0) {
    const int fair = static_cast<int>(std::thread::hardware_concurrency()) / kolo::local_size();
    cpu_set_t cores;
    const int allowed = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : fair;
    wanted = std::max(1, std::min(fair, allowed));
  }
  torch::set_num_threads(wanted);
}

int run(int argc, char** argv) {
  kolo::init();
  Options options;
  kolo::agree([&] {
    options = parse_options(argc, argv);
    require_fit(options.amp, kolo::local_device());
  });
  if (options.help) {
    if (kolo::rank() == 0) fmt::print("{}", help_text());
    return 0;
  }
  set_threads(options.threads);
  const Dataset dataset = open_dataset(options);
  Trainer(options, dataset).run();
  return 0;
}

}  // namespace
}  // namespace resnet_example

int main(int argc, char** argv) {
  try {
    return resnet_example::run(argc, argv);
  } catch (const resnet_example::UsageError& e) {
    // All ranks have it; one says it.
    if (kolo::rank() == 0) {
      fmt::print(stderr, "kolo error: {}\nTry --help.\n", e.what());
    }
    return 2;
  } catch (const c10::Error& e) {
    fmt::print(stderr, "kolo error: {}\n", e.what_without_backtrace());
  } catch (const std::exception& e) {
    fmt::print(stderr, "kolo error: {}\n", e.what());
  } catch (...) {
    fmt::print(stderr, "kolo error: an unknown exception\n");
  }
  return 1;
}

#include <fmt/format.h>
#include <kolo/ops.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "bench/check.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"

namespace kolo::bench {
namespace {

/// Many small tensors on the first ranks of the job, which are a process set. All ranks make each
/// call; those that are not in the set only wait.
class Crowd {
 public:
  Crowd(int members, int names, const Ranks& ranks)
      : set_(process_set(members)),
        is_member_(ranks.rank() < members),
        members_(ranks.split(is_member_)) {
    for (int i = 0; is_member_ && i < names; ++i) tensors_.push_back(torch::zeros({1}));
  }

  /// Under names that nobody has used before.
  double new_names() { return submit(fmt::format("new.{}.{}", set_.id(), next_++)); }

  /// Under the same names as the last time.
  double known_names() { return submit(fmt::format("known.{}", set_.id())); }

  /// By the very calls that are timed then.
  void check(const Method& method, const Ranks& ranks) {
    std::vector<double> values(tensors_.size());
    const auto wrong = check_calls(values, members_.rank(), members_.size(), [&] {
      for (std::size_t i = 0; i < values.size(); ++i) tensors_[i].fill_(values[i]);
      method.sample();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = tensors_[i].item<float>();
    });
    require_right("kolo, " + method.name, wrong, ranks);
    for (torch::Tensor& tensor : tensors_) tensor.zero_();
  }

 private:
  static ProcessSet process_set(int members) {
    std::vector<int> all(static_cast<std::size_t>(members));
    std::iota(all.begin(), all.end(), 0);
    return add_process_set(all);
  }

  double submit(const std::string& prefix) {
    const double seconds = is_member_ ? time(prefix) : 0;
    // Here the others sleep meanwhile: there may be more of them than cores.
    kolo::barrier();
    return seconds;
  }

  double time(const std::string& prefix) {
    members_.barrier();
    const auto begin = std::chrono::steady_clock::now();
    std::vector<Work> works;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      works.push_back(allreduce_async_(
          tensors_[i],
          {.name = fmt::format("{}.{}", prefix, i), .op = ReduceOp::Sum, .process_set = set_}));
    }
    for (Work& work : works) work.wait();
    return Seconds(std::chrono::steady_clock::now() - begin).count();
  }

  const ProcessSet set_;
  const bool is_member_;
  const Ranks members_;
  /// None where this rank is not a member.
  std::vector<torch::Tensor> tensors_;
  std::int64_t next_ = 0;
};

std::vector<int> set_sizes(const Options& options, const Ranks& ranks) {
  if (!options.set_sizes.empty()) return options.set_sizes;
  std::vector<int> sizes;
  for (int size = std::min(2, ranks.size()); size < ranks.size(); size *= 2) sizes.push_back(size);
  sizes.push_back(ranks.size());
  return sizes;
}

}  // namespace

void measure_negotiate(const Options& options, const Ranks& ranks, Report& report) {
  for (const int members : set_sizes(options, ranks)) {
    if (members > ranks.size()) {
      throw UsageError(fmt::format("--ranks has {}, but there are {}: start more with kolorun -np",
                                   members, ranks.size()));
    }
    const Labels labels = {{"members", members}, {"names", options.names}};
    report.announce(labels);
    Crowd crowd(members, options.names, ranks);
    const std::vector<Method> methods = {{"new names", [&] { return crowd.new_names(); }},
                                         {"known names", [&] { return crowd.known_names(); }}};
    for (const Method& method : methods) crowd.check(method, ranks);
    for (const Series& one :
         scaled(take_samples(methods, {.seconds = options.seconds}, ranks), 1e3)) {
      report.add({.labels = labels,
                  .method = one.method,
                  .quantity = "time",
                  .unit = "ms",
                  .value = summary_of(one.samples)});
    }
  }
}

}  // namespace kolo::bench

#include <fmt/format.h>
#include <kolo/ops.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bench/check.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"

namespace kolo::bench {
namespace {

/// The least that agreeing takes: all ask the first rank, which answers all, and the values are
/// summed up; by MPI's own calls, with nothing else.
class BareExchange {
 public:
  explicit BareExchange(const Ranks& ranks) : ranks_(ranks) {}

  void operator()(const std::string& requests, std::span<float> values) {
    const auto bytes = static_cast<int>(requests.size());
    const auto size = static_cast<std::size_t>(ranks_.size());
    if (ranks_.rank() == 0) all_requests_.resize(size * requests.size());
    require_mpi(MPI_Gather(requests.data(), bytes, MPI_CHAR, all_requests_.data(), bytes, MPI_CHAR,
                           0, ranks_.comm()),
                "MPI_Gather");
    int agreed = ranks_.rank() == 0 ? static_cast<int>(all_ask_for(requests)) : 0;
    require_mpi(MPI_Bcast(&agreed, 1, MPI_INT, 0, ranks_.comm()), "MPI_Bcast");
    if (agreed == 0) throw std::runtime_error("the ranks ask for different tensors");
    require_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()),
                              MPI_FLOAT, MPI_SUM, ranks_.comm()),
                "MPI_Allreduce");
  }

 private:
  bool all_ask_for(const std::string& requests) const {
    for (std::size_t i = 0; i < all_requests_.size(); i += requests.size()) {
      if (std::memcmp(&all_requests_[i], requests.data(), requests.size()) != 0) return false;
    }
    return true;
  }

  const Ranks& ranks_;
  std::vector<char> all_requests_;
};

/// Many small tensors on the first ranks of the job, which are a process set. All ranks make each
/// call; those that are not in the set only wait.
class Crowd {
 public:
  Crowd(int members, int names, const Ranks& ranks)
      : set_(process_set(members)),
        is_member_(ranks.rank() < members),
        members_(ranks.split(is_member_)),
        exchange_(members_) {
    for (int i = 0; is_member_ && i < names; ++i) tensors_.push_back(torch::zeros({1}));
  }

  /// Under names that nobody has used before.
  double new_names() {
    return time([this] { submit(new_prefix()); });
  }

  /// Under the same names as the last time.
  double known_names() {
    return time([this] { submit(fmt::format("known.{}", set_.id())); });
  }

  /// Under names that nobody has used before, without Kolo.
  double by_mpi() {
    return time([this] { exchange(new_prefix()); });
  }

  /// The same, where who asks gets a future of each result first, as with any asynchronous calls.
  double by_mpi_with_futures() {
    return time([this] {
      std::vector<std::promise<torch::Tensor>> promises(tensors_.size());
      std::vector<std::future<torch::Tensor>> futures;
      for (auto& promise : promises) futures.push_back(promise.get_future());
      exchange(new_prefix());
      for (std::size_t i = 0; i < promises.size(); ++i) promises[i].set_value(tensors_[i]);
      for (auto& future : futures) future.get();
    });
  }

  /// By the very calls that are timed then.
  void check(const Method& method, const Ranks& ranks) {
    std::vector<double> values(tensors_.size());
    const auto wrong = check_calls(values, members_.rank(), members_.size(), [&] {
      for (std::size_t i = 0; i < values.size(); ++i) tensors_[i].fill_(values[i]);
      method.sample();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = tensors_[i].item<float>();
    });
    require_right(method.name, wrong, ranks);
    for (torch::Tensor& tensor : tensors_) tensor.zero_();
  }

 private:
  static ProcessSet process_set(int members) {
    std::vector<int> all(static_cast<std::size_t>(members));
    std::iota(all.begin(), all.end(), 0);
    return add_process_set(all);
  }

  template <class Call>
  double time(const Call& call) {
    double seconds = 0;
    if (is_member_) {
      members_.barrier();
      const auto begin = std::chrono::steady_clock::now();
      call();
      seconds = Seconds(std::chrono::steady_clock::now() - begin).count();
    }
    // Here the others sleep meanwhile: there may be more of them than cores.
    kolo::barrier();
    return seconds;
  }

  std::string new_prefix() { return fmt::format("new.{}.{}", set_.id(), next_++); }

  void submit(const std::string& prefix) {
    std::vector<Work> works;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      works.push_back(allreduce_async_(
          tensors_[i],
          {.name = fmt::format("{}.{}", prefix, i), .op = ReduceOp::Sum, .process_set = set_}));
    }
    for (Work& work : works) work.wait();
  }

  void exchange(const std::string& prefix) {
    std::string requests;
    std::vector<float> values;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      requests += fmt::format("{}.{} float32 sum 1;", prefix, i);
      values.push_back(*tensors_[i].data_ptr<float>());
    }
    exchange_(requests, values);
    for (std::size_t i = 0; i < tensors_.size(); ++i) *tensors_[i].data_ptr<float>() = values[i];
  }

  const ProcessSet set_;
  const bool is_member_;
  const Ranks members_;
  BareExchange exchange_;
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
    std::vector<Method> methods = {{"new names", [&] { return crowd.new_names(); }},
                                   {"known names", [&] { return crowd.known_names(); }}};
    for (const Contender contender : options.against) {
      methods.push_back({name_of(contender), [&] { return crowd.by_mpi(); }});
      methods.push_back({fmt::format("{}, futures", name_of(contender)),
                         [&] { return crowd.by_mpi_with_futures(); }});
    }
    for (const Method& method : methods) crowd.check(method, ranks);
    const std::vector<Series> series =
        scaled(take_samples(methods, {.seconds = options.seconds}, ranks), 1e3);
    constexpr std::size_t own = 2;
    for (std::size_t i = 0; i < series.size(); ++i) {
      Result result{.labels = labels,
                    .method = series[i].method,
                    .quantity = "time",
                    .unit = "ms",
                    .value = summary_of(series[i].samples)};
      if (i >= own) result.ratio = summary_of(ratios(series.front().samples, series[i].samples));
      report.add(result);
    }
  }
}

}  // namespace kolo::bench

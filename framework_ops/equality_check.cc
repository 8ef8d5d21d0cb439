#include "equality_check.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "digest.h"
#include "same_on_all_ranks.h"

namespace kolo {
namespace {

constexpr std::int64_t kFirstSteps = 3;
constexpr std::int64_t kThenEach = 256;
/// Of a parameter, in elements: the one with the first difference is found by digests.
constexpr std::int64_t kBlock = 4096;

std::uint64_t digest_of_all(const EqualityCheck::Options& options) {
  std::uint64_t digest = options.size();
  for (const std::vector<OptionValue>& group : options) {
    for (const OptionValue& value : group) digest = digest_of(value, digest);
  }
  return digest;
}

torch::Tensor flat(const torch::Tensor& parameter) {
  return parameter.detach().cpu().contiguous().view({-1});
}

/// So that values which differ are written differently.
std::string to_text(double value, torch::ScalarType dtype) {
  return dtype == torch::kFloat64 ? fmt::format("{:.17g}", value) : fmt::format("{:.9g}", value);
}

/// Where the processors of ranks, or the kernels for them, round differently.
bool differ_in_last_bits(double a, double b, torch::ScalarType dtype) {
  const double tolerance = c10::elementSize(dtype) < 4 ? 2e-2 : 1e-4;
  return std::abs(a - b) <= tolerance * std::max(std::abs(a), std::abs(b));
}

constexpr std::string_view kCauseInLastBits =
    "That little comes of processors that round differently, as those with AVX2 and AVX-512 do: "
    "give all ranks "
    "the same ATEN_CPU_CAPABILITY (avx2, for example), or call broadcast_parameters() now and "
    "then, with "
    "KOLO_CHECK_EQUAL=off.";
constexpr std::string_view kCause =
    "Call broadcast_parameters() after whatever gives them their first values, also where that is "
    "the first forward, "
    "from a rank's own batch; and change them, and their gradients, on all ranks alike.";

}  // namespace

EqualityCheck::EqualityCheck(std::shared_ptr<core::Context> context, Optimizer optimizer)
    : context_(std::move(context)), optimizer_(std::move(optimizer)) {}

void EqualityCheck::describe(ClosingHead& head) {
  options_ = optimizer_.options();
  head.options = digest_of_all(options_);
  // Other ranks may have made a step that this one has not.
  if (last_step_ == head.step - 1) head.options_used = digest_of_all(used_);
  const bool due = head.step < kFirstSteps || head.step % kThenEach == kThenEach - 1;
  if (!due || compared_in_ == head.step) return;
  digests_.clear();
  for (const torch::Tensor& parameter : optimizer_.parameters) {
    digests_.push_back(digest_of(parameter));
  }
  head.parameters = digest_of(digests_.data(), digests_.size() * sizeof(std::uint64_t));
}

void EqualityCheck::note_step(std::int64_t step) {
  used_ = optimizer_.options();
  last_step_ = step;
}

std::string EqualityCheck::find_difference(std::span<const ClosingWord> words) {
  const std::string error = find(words);
  if (error.empty()) compared_in_ = words.front().head.step;
  return error;
}

std::string EqualityCheck::find(std::span<const ClosingWord> words) {
  const ClosingHead& first = words.front().head;
  const auto differ = [&](std::uint64_t ClosingHead::*digest) {
    const auto of = [&](const ClosingWord& word) { return word.head.*digest; };
    return std::ranges::find(words, std::uint64_t{0}, of) == words.end() &&
           std::ranges::any_of(words,
                               [&](const ClosingWord& word) { return of(word) != first.*digest; });
  };
  std::string error;
  if (differ(&ClosingHead::options)) {
    error = judge(warned_of_options_, first.rank, [&] { return explain_options(options_, "is"); });
  } else if (differ(&ClosingHead::options_used)) {
    error = judge(warned_of_options_, first.rank,
                  [&] { return explain_options(used_, "was, in the last step,"); });
  }
  if (error.empty() && differ(&ClosingHead::parameters)) {
    error =
        judge(warned_of_parameters_, first.rank, [&] { return explain_parameters(first.step); });
  }
  return error;
}

/// All ranks take the same way.
std::string EqualityCheck::judge(bool& warned, int first_rank,
                                 const std::function<std::string()>& explain) const {
  if (context_->config().check_equal == core::CheckEqual::Error) return explain();
  if (std::exchange(warned, true)) return {};
  const std::string text = explain();
  if (context_->topology().rank == first_rank) context_->warn(text);
  return {};
}

std::string EqualityCheck::explain_options(const Options& options, const char* verb) const {
  std::vector<std::string> names;
  std::vector<std::string> values;
  for (std::size_t group = 0; group < options.size(); ++group) {
    for (const OptionValue& value : options[group]) {
      names.push_back(fmt::format("the {} of group {}", value.name, group));
      values.push_back(to_string(value));
    }
  }
  const auto found =
      detail::find_difference(optimizer_.prefix + "options", values, optimizer_.process_set);
  std::string which = "it is not known which";
  if (found) {
    const std::string name =
        found->line < names.size() ? names[found->line] : "the number of options";
    which = fmt::format("{} {} {} on rank {}, but {} on rank {}", name, verb, found->value,
                        found->rank, found->other_value, found->other_rank);
  }
  return fmt::format(
      "{}: the options of the ranks' optimizers differ: {}. Parameters would part: decide on them "
      "by what is the "
      "same on all ranks, as the mean of all ranks' losses is. KOLO_CHECK_EQUAL=off lets them "
      "differ.",
      optimizer_.prefix.substr(0, optimizer_.prefix.size() - 1), which);
}

/// First which parameter, then which part of it, then which value.
std::string EqualityCheck::explain_parameters(std::int64_t step) const {
  const auto ask = [this](const std::vector<std::string>& lines) {
    return detail::find_difference(optimizer_.prefix + "difference", lines, optimizer_.process_set);
  };
  const std::string begin = fmt::format("the parameters of the ranks differ in step {}: ", step);
  std::vector<std::string> lines;
  for (const torch::Tensor& parameter : optimizer_.parameters) {
    lines.push_back(c10::str(parameter.scalar_type(), " ", parameter.sizes()));
  }
  if (const auto shapes = ask(lines)) {
    return fmt::format("{}'{}' is {} on rank {}, but {} on rank {}. {}", begin,
                       optimizer_.names[shapes->line], shapes->value, shapes->rank,
                       shapes->other_value, shapes->other_rank, kCause);
  }
  lines.clear();
  for (const std::uint64_t digest : digests_) lines.push_back(fmt::format("{:x}", digest));
  const auto which = ask(lines);
  if (!which) return begin + "they have changed since.";
  const torch::Tensor& parameter = optimizer_.parameters[which->line];
  const std::string& name = optimizer_.names[which->line];
  const torch::Tensor values = flat(parameter);
  lines.clear();
  for (const torch::Tensor& block : values.split(kBlock)) {
    lines.push_back(fmt::format("{:x}", digest_of(block)));
  }
  const auto part = ask(lines);
  const auto first = part ? static_cast<std::int64_t>(part->line) * kBlock : 0;
  const torch::Tensor block = values.slice(0, first, first + kBlock).to(torch::kFloat64);
  lines.clear();
  for (std::int64_t i = 0; i < block.numel(); ++i) {
    lines.push_back(to_text(block[i].item<double>(), parameter.scalar_type()));
  }
  const auto value = ask(lines);
  if (!value)
    return fmt::format("{}'{}' on ranks {} and {}. {}", begin, name, which->rank, which->other_rank,
                       kCause);
  const bool last_bits = differ_in_last_bits(std::stod(value->value), std::stod(value->other_value),
                                             parameter.scalar_type());
  return fmt::format("{}'{}' first at element {}, which is {} on rank {}, but {} on rank {}. {}",
                     begin, name, first + static_cast<std::int64_t>(value->line), value->value,
                     value->rank, value->other_value, value->other_rank,
                     last_bits ? kCauseInLastBits : kCause);
}

}  // namespace kolo

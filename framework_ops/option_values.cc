#include "option_values.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <tuple>

#include "digest.h"

namespace kolo {
namespace {

using Values = std::vector<OptionValue>;

Values list(const torch::optim::SGDOptions& of) {
  return {{"lr", of.lr()},
          {"momentum", of.momentum()},
          {"dampening", of.dampening()},
          {"weight_decay", of.weight_decay()},
          {"nesterov", static_cast<double>(of.nesterov())}};
}

/// Adam's and AdamW's.
template <typename AdamOptions>
Values list_adam(const AdamOptions& of) {
  return {{"lr", of.lr()},
          {"first of betas", std::get<0>(of.betas())},
          {"second of betas", std::get<1>(of.betas())},
          {"eps", of.eps()},
          {"weight_decay", of.weight_decay()},
          {"amsgrad", static_cast<double>(of.amsgrad())}};
}

Values list(const torch::optim::AdamOptions& of) { return list_adam(of); }
Values list(const torch::optim::AdamWOptions& of) { return list_adam(of); }

Values list(const torch::optim::RMSpropOptions& of) {
  return {{"lr", of.lr()},
          {"alpha", of.alpha()},
          {"eps", of.eps()},
          {"weight_decay", of.weight_decay()},
          {"momentum", of.momentum()},
          {"centered", static_cast<double>(of.centered())}};
}

Values list(const torch::optim::AdagradOptions& of) {
  return {{"lr", of.lr()},
          {"lr_decay", of.lr_decay()},
          {"weight_decay", of.weight_decay()},
          {"initial_accumulator_value", of.initial_accumulator_value()},
          {"eps", of.eps()}};
}

Values list(const torch::optim::LBFGSOptions& of) {
  return {{"lr", of.lr()},
          {"max_iter", static_cast<double>(of.max_iter())},
          {"max_eval", static_cast<double>(of.max_eval().value_or(-1))},
          {"tolerance_grad", of.tolerance_grad()},
          {"tolerance_change", of.tolerance_change()},
          {"history_size", static_cast<double>(of.history_size())},
          {"line_search_fn", 0, of.line_search_fn().value_or("none")}};
}

template <typename T>
bool list_if(const torch::optim::OptimizerOptions& options, Values& values) {
  const auto* typed = dynamic_cast<const T*>(&options);
  if (typed != nullptr) values = list(*typed);
  return typed != nullptr;
}

}  // namespace

std::vector<OptionValue> values_of(const torch::optim::OptimizerOptions& options) {
  Values values;
  if (list_if<torch::optim::SGDOptions>(options, values) ||
      list_if<torch::optim::AdamOptions>(options, values) ||
      list_if<torch::optim::AdamWOptions>(options, values) ||
      list_if<torch::optim::RMSpropOptions>(options, values) ||
      list_if<torch::optim::AdagradOptions>(options, values) ||
      list_if<torch::optim::LBFGSOptions>(options, values)) {
    return values;
  }
  try {
    return {{"lr", options.get_lr()}};
  } catch (const c10::Error&) {  // what the base class does
    return {};
  }
}

std::uint64_t digest_of(const OptionValue& value, std::uint64_t seed) {
  const std::uint64_t number = digest_of(&value.number, sizeof(value.number), seed);
  return digest_of(value.text.data(), value.text.size(), number);
}

std::string to_string(const OptionValue& value) {
  return value.text.empty() ? fmt::format("{}", value.number) : value.text;
}

}  // namespace kolo

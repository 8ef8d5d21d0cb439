#include <c10/util/Exception.h>
#include <c10/util/Type.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <kolo/agree.h>
#include <kolo/error.h>
#include <kolo/init.h>

#include <algorithm>
#include <exception>
#include <typeinfo>
#include <vector>

#include "same_on_all_ranks.h"

namespace kolo {
namespace {

struct Outcome {
  /// Null: none was thrown.
  std::exception_ptr exception;
  std::string message;
};

std::string message_of(const std::exception& exception) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&exception);
  const std::string text =
      of_torch != nullptr ? of_torch->what_without_backtrace() : exception.what();
  return text.empty() ? c10::demangle(typeid(exception).name()) : text;
}

Outcome outcome_of(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const std::exception& exception) {
    return {std::current_exception(), message_of(exception)};
  } catch (...) {
    return {std::current_exception(), "an exception that is no std::exception"};
  }
}

/// Returns the ranks of the set if all have ended well.
std::vector<int> tell_all(const std::string& name, const std::string& what, const std::string& line,
                          const Outcome& outcome, const ProcessSet& process_set) {
  try {
    return detail::require_same_on_all_ranks(name, what, {line}, outcome.message, process_set);
  } catch (const Error&) {
    if (outcome.exception != nullptr) std::rethrow_exception(outcome.exception);
    throw;
  }
}

}  // namespace

void agree(const std::function<void()>& work, const ProcessSet& process_set) {
  (void)rank();  // throws where Kolo is not running, before anything is done
  tell_all("kolo::agree", "", "", outcome_of(work), process_set);
}

void on_rank(int chosen, const std::function<void()>& work, const ProcessSet& process_set) {
  const Outcome outcome = rank() == chosen ? outcome_of(work) : Outcome();
  const std::vector<int> ranks = tell_all("kolo::on_rank", "on_rank(): the chosen ranks",
                                          std::to_string(chosen), outcome, process_set);
  if (std::find(ranks.begin(), ranks.end(), chosen) == ranks.end()) {
    throw Error(
        fmt::format("on_rank(): rank {} is to run it, but only ranks {} call it: name one of "
                    "these",
                    chosen, fmt::join(ranks, ", ")));
  }
}

void require_same(const std::string& what, const std::string& text, const ProcessSet& process_set) {
  detail::require_same_on_all_ranks("kolo::require_same", what, detail::split_lines(text), {},
                                    process_set);
}

}  // namespace kolo

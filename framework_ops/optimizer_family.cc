#include "optimizer_family.h"

#include <fmt/format.h>
#include <kolo/error.h>
#include <kolo/ops.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "bridge.h"
#include "global.h"

namespace kolo {
namespace {

/// An optimizer has two: for its rounds, and for the calls of the family that may begin with it.
constexpr core::PlanId kMostOptimizers = core::kMostPlans / 2;

}  // namespace

OptimizerFamily::Place OptimizerFamily::enter(const std::shared_ptr<core::Context>& context,
                                              const ProcessSet& process_set) {
  std::shared_ptr<OptimizerFamily> family = detail::latest_family(process_set.id());
  torch::Tensor most = torch::tensor(
      {static_cast<std::int64_t>(context->take_number()), std::int64_t{family == nullptr}});
  allreduce_(most, {.name = "optimizer_number", .op = ReduceOp::Max, .process_set = process_set});
  const auto number = most[0].item<std::int64_t>();
  if (number >= kMostOptimizers) {
    throw Error(fmt::format(
        "DistributedOptimizer: a process set can have {} of them in the life of a program. Make it "
        "once, not in every epoch.",
        kMostOptimizers));
  }
  const auto plan = static_cast<core::PlanId>(2 * number + 1);
  const bool begins = most[1].item<std::int64_t>() != 0;
  if (begins) {
    family = std::make_shared<OptimizerFamily>(context, process_set, plan + 1);
    detail::set_latest_family(process_set.id(), family);
  }
  const Turn turn(*family);
  family->members_.push_back(nullptr);
  return {.family = family, .number = family->members_.size() - 1, .plan = plan};
}

OptimizerFamily::OptimizerFamily(const std::shared_ptr<core::Context>& context,
                                 const ProcessSet& process_set, core::PlanId plan)
    : context_(context), process_set_(process_set), plan_(context, process_set.id(), plan) {}

// ---- one thread at a time ----

/// threads_mutex_ is held.
void OptimizerFamily::require_one_thread() {
  const std::thread::id self = std::this_thread::get_id();
  const auto other = [self](const auto& backward) { return backward.second != self; };
  if ((turns_ == 0 || caller_ == self) && std::ranges::none_of(backwards_, other)) return;
  const std::string error =
      "two threads use optimizers of one process set at the same time (in backward(), in step(), or when one is "
      "made or destroyed). Let one thread train with all of them, or give each thread a process set of "
      "its own (kolo::add_process_set())";
  context_->give_up(error);
  throw Error(fmt::format("rank {}: {}", context_->topology().rank, error));
}

void OptimizerFamily::begin_backward(std::size_t number) {
  const std::lock_guard lock(threads_mutex_);
  require_one_thread();
  backwards_[number] = std::this_thread::get_id();
}

void OptimizerFamily::end_backward(std::size_t number) noexcept {
  const std::lock_guard lock(threads_mutex_);
  backwards_.erase(number);
}

OptimizerFamily::Turn::Turn(OptimizerFamily& family) : family_(family) {
  const std::lock_guard lock(family_.threads_mutex_);
  family_.require_one_thread();
  family_.caller_ = std::this_thread::get_id();
  ++family_.turns_;
}

OptimizerFamily::Turn::~Turn() {
  const std::lock_guard lock(family_.threads_mutex_);
  --family_.turns_;
}

void OptimizerFamily::add(std::size_t number, Member& member) { members_[number] = &member; }

void OptimizerFamily::remove(std::size_t number) noexcept {
  try {
    const Turn turn(*this);
    members_[number] = nullptr;
  } catch (const std::exception&) {
    // All fails, and the other thread is told.
    members_[number] = nullptr;
    return;
  }
  const auto there = [](const Member* member) { return member != nullptr; };
  // With the last of them the plan of the calls ends.
  if (std::ranges::none_of(members_, there)) return;
  try {
    RoundCall word{
        .head = {.rank = context_->topology().rank, .gone = static_cast<std::int32_t>(number)},
        .flags = std::vector<bool>(members_.size())};
    farewells_.push_back({.word = word, .work = say(word)});
  } catch (const std::exception& failure) {
    context_->warn(fmt::format("an optimizer that is destroyed: {}", failure.what()));
  }
}

// ---- calls ----

bool OptimizerFamily::calls() const {
  return members_.size() > 1 || std::ranges::any_of(members_, [](const Member* member) {
           return member != nullptr && member->latecomer();
         });
}

void OptimizerFamily::call() {
  const Turn turn(*this);
  const auto closed = [](const Member* member) { return member != nullptr && member->closed(); };
  // What others have said to a farewell comes first.
  if (call_ || !farewells_.empty() || std::ranges::none_of(members_, closed)) return;
  call_ = make_call(/*stepping=*/-1);
}

OptimizerFamily::Call OptimizerFamily::make_call(std::int32_t stepping) const {
  RoundCall word{.head = {.rank = context_->topology().rank, .stepping = stepping}};
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const auto number = static_cast<std::int32_t>(i);
    Member* const member = members_[i];
    word.flags.push_back(member != nullptr && member->closed());
    const bool concerned =
        member != nullptr && member->latecomer() && (stepping < 0 || stepping == number);
    if (!concerned || word.head.altered_optimizer >= 0) continue;
    if (const std::optional<std::size_t> altered = member->altered()) {
      word.head.altered_optimizer = number;
      word.head.altered_parameter = static_cast<std::int32_t>(*altered);
    }
  }
  return {.word = word, .work = calls() ? std::optional(say(word)) : std::nullopt};
}

Work OptimizerFamily::say(const RoundCall& word) const {
  return detail::submit(context_,
                        {.kind = core::CollectiveKind::Allgather,
                         .name = fmt::format("optimizers{}/call", plan_.id() / 2 - 1),
                         .process_set = process_set_,
                         .plan = plan_.id()},
                        word.to_bytes(), torch::Tensor());
}

// ---- what follows from them ----

void OptimizerFamily::meet(ClosedIn where) {
  const Turn turn(*this);
  std::string error;
  conclude_farewells(where, error);
  call();
  if (call_) conclude(*std::exchange(call_, std::nullopt), where, error);
  if (!error.empty()) throw Error(error);
}

void OptimizerFamily::meet_in_step(std::size_t number) {
  const Turn turn(*this);
  std::string error;
  conclude_farewells(ClosedIn::Step, error);
  const Member& member = *members_[number];
  while (member.closed() || (member.latecomer() && error.empty())) {
    conclude(make_call(static_cast<std::int32_t>(number)), ClosedIn::Step, error);
  }
  if (!error.empty()) throw Error(error);
}

void OptimizerFamily::conclude_farewells(ClosedIn where, std::string& error) {
  for (const Call& farewell : std::exchange(farewells_, {})) conclude(farewell, where, error);
}

void OptimizerFamily::conclude(const Call& own, ClosedIn where, std::string& error) {
  const auto note = [&error](const auto& action) {
    try {
      action();
    } catch (const std::exception& failure) {
      if (error.empty()) error = failure.what();
    }
  };
  std::vector<RoundCall> calls = {own.word};
  if (own.work) {
    note([&] {
      Work work = *own.work;
      calls = RoundCall::from_bytes(work.result(), own.word.flags.size());
    });
  }
  const std::string disagreement = find_disagreement(calls);
  std::vector<Member*> late;
  std::vector<Member*> meeting;
  for (std::size_t number = 0; number < members_.size(); ++number) {
    Member* const member = members_[number];
    if (member == nullptr) continue;
    if (member->latecomer()) late.push_back(member);
    if (std::ranges::any_of(calls, [&](const RoundCall& call) { return call.flags[number]; })) {
      meeting.push_back(member);
    }
  }
  for (Member* member : meeting) {
    if (!member->closed()) note([&] { member->join_round(where); });
  }
  for (Member* member : meeting) {
    if (member->closed()) note([&] { member->finish_rounds(where); });
  }
  if (error.empty()) error = disagreement;
  const bool all_step = std::ranges::all_of(calls, [&](const RoundCall& call) {
    return call.head.stepping >= 0 && std::ranges::find(call.flags, true) == call.flags.end();
  });
  if (all_step) late = {members_[static_cast<std::size_t>(own.word.head.stepping)]};
  if (all_step || !disagreement.empty()) {
    for (Member* member : late) member->settle_latecomer(error);
  }
}

/// Why the step is not to be made; empty when nothing is wrong. The same on each rank.
std::string OptimizerFamily::find_disagreement(const std::vector<RoundCall>& calls) const {
  const CallHead& first = calls.front().head;
  for (const RoundCall& call : calls) {
    if (call.head.gone < 0) continue;
    const Member* const member = members_[static_cast<std::size_t>(call.head.gone)];
    if (member == nullptr || !member->latecomer()) continue;
    return fmt::format(
        "rank {} has destroyed its optimizer, whose gradients others are to step with",
        call.head.rank);
  }
  const auto altered = std::ranges::find_if(
      calls, [](const RoundCall& call) { return call.head.altered_optimizer >= 0; });
  const bool alike = std::ranges::all_of(calls, [&](const RoundCall& call) {
    return call.head.altered_optimizer == first.altered_optimizer;
  });
  if (altered != calls.end() && !alike) {
    const CallHead& head = altered->head;
    const Member* const member = members_[static_cast<std::size_t>(head.altered_optimizer)];
    if (member == nullptr) {
      return "the gradients of an optimizer that is destroyed here were altered";
    }
    return fmt::format(
        "rank {} has altered the gradient of '{}' since it was reduced, by clipping or scaling it, for "
        "example. The same was not done on rank {}, where backward() had reached no parameter, so that "
        "the gradients were reduced only in step(). Let backward() reach a parameter on every rank (add "
        "0 * output.sum() to the loss), or leave the gradients as they are.",
        head.rank, member->name_of(static_cast<std::size_t>(head.altered_parameter)),
        member->latecomer().value_or(first.rank));
  }
  const auto other = std::ranges::find_if(
      calls, [&](const RoundCall& call) { return call.head.stepping != first.stepping; });
  const bool any_elsewhere =
      std::ranges::any_of(calls, [](const RoundCall& call) { return call.head.stepping < 0; });
  const bool rounds = std::ranges::any_of(calls, [](const RoundCall& call) {
    return std::ranges::find(call.flags, true) != call.flags.end();
  });
  if (other == calls.end() || any_elsewhere || rounds) return {};
  return fmt::format(
      "rank {} calls step() of optimizer {} while rank {} calls that of optimizer {}, after a step in "
      "which backward() has reached no parameter on a rank: call them in the same order on all ranks",
      first.rank, first.stepping, other->head.rank, other->head.stepping);
}

}  // namespace kolo

#pragma once

#include <memory>
#include <utility>

#include "context/context.h"

namespace kolo {

/// A plan of a process set (engine/plans.h) that belongs to one object, and ends with it.
class OwnedPlan {
 public:
  OwnedPlan(std::shared_ptr<core::Context> context, core::ChannelId process_set, core::PlanId plan)
      : context_(std::move(context)), process_set_(process_set), plan_(plan) {}
  ~OwnedPlan() { context_->end_plan(process_set_, plan_); }
  OwnedPlan(const OwnedPlan&) = delete;
  OwnedPlan& operator=(const OwnedPlan&) = delete;

  core::PlanId id() const { return plan_; }

 private:
  const std::shared_ptr<core::Context> context_;
  const core::ChannelId process_set_;
  const core::PlanId plan_;
};

}  // namespace kolo

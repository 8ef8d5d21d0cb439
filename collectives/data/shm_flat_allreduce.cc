#include <array>
#include <cstring>
#include <vector>

#include "data/reduce.h"
#include "data/shm_operations.h"

namespace kolo::core {
namespace {

/// Whose vectors travel within signals.
class FlatAllreduce : public ShmOperation {
 public:
  bool begin_again(std::uint64_t sequence, void* output) final {
    reset(sequence, output);
    arrive();
    return true;
  }

 protected:
  FlatAllreduce(const ShmSetup& setup, const Collective& collective)
      : ShmOperation(setup, collective), inputs_(collective.ranks.size()) {}

  /// Tells that this member is there. Called by the constructors, too.
  virtual void arrive() const = 0;

  std::int64_t bytes() const { return bytes_of(collective().count); }

  /// What all others have brought, and the own vector, into the own one.
  Status reduce_all() {
    inputs_[static_cast<std::size_t>(self())] = collective().output;
    for (const int member : peers()) {
      if (Status status = check_arrival(member, bytes()); !status.ok()) return status;
      inputs_[static_cast<std::size_t>(member)] = told_by(member).payload();
    }
    const std::array<void*, 1> output = {collective().output};
    reduce(collective().dtype, collective().op, inputs_, output, collective().count,
           collective().prescale, collective().postscale);
    return {};
  }

 private:
  std::vector<const void*> inputs_;
};

/// Each tells each.
///
///   state      leaves it
///   ---------  ----------------------------------------------------------------
///   Announced  all others have arrived: if any declines, leaves its output as it is, or else
///              reduces into it -> Done
class ExchangedAllreduce final : public FlatAllreduce {
 public:
  ExchangedAllreduce(const ShmSetup& setup, const Collective& collective)
      : FlatAllreduce(setup, collective) {
    arrive();
  }

 private:
  void arrive() const override { announce(peers(), collective().output, bytes()); }

  Result<Progress> advance() override {
    if (!all_have_arrived()) return Progress::Waiting;
    if (any_declines()) return Progress::Done;
    if (Status status = reduce_all(); !status.ok()) return status;
    return Progress::Done;
  }
};

/// All tell the first one, which tells all others what it has made of it. That takes one latency
/// more, but n members tell 2 (n - 1) times instead of n (n - 1), and each is woken once.
///
///   state      the first member leaves it            any other leaves it
///   ---------  ------------------------------------  --------------------------------------------
///   Announced  all others have arrived: if any       the first one declines: leaves its output as
///              declines, tells so; or else reduces,  it is -> Done; or has told the result: takes
///              and tells the result -> Done          that -> Done
///
/// The first one arrives quietly: others know by it who is missing, and need not wake for it.
class GatheredAllreduce final : public FlatAllreduce {
 public:
  GatheredAllreduce(const ShmSetup& setup, const Collective& collective)
      : FlatAllreduce(setup, collective) {
    arrive();
  }

  /// Only the first one knows of the others.
  std::vector<int> missing() const override {
    std::vector<int> missing = ShmOperation::missing();
    if (self() != kFirst) std::erase_if(missing, [](int member) { return member != kFirst; });
    return missing;
  }

 private:
  static constexpr int kFirst = 0;

  void arrive() const override {
    if (self() != kFirst) {
      return announce(std::array{kFirst}, collective().output, bytes());
    }
    for (const int member : peers()) tell_quietly(member, ShmSignal::Kind::ArrivedStaged);
  }

  Result<Progress> advance() override { return self() == kFirst ? give() : take(); }

  Result<Progress> give() {
    if (!all_have_arrived()) return Progress::Waiting;
    if (any_declines()) {
      for (const int member : peers()) tell(member, ShmSignal::Kind::ArrivedDeclining);
      return Progress::Done;
    }
    if (Status status = reduce_all(); !status.ok()) return status;
    const auto* const result = static_cast<const std::byte*>(collective().output);
    for (const int member : peers()) {
      tell_result(member, {result, static_cast<std::size_t>(bytes())});
    }
    return Progress::Done;
  }

  Result<Progress> take() {
    const ShmMember& first = told_by(kFirst);
    if (first.declined && any_declines()) return Progress::Done;
    if (first.finished == 0) return Progress::Waiting;
    if (bytes() > 0) {
      std::memcpy(collective().output, first.payload(), static_cast<std::size_t>(bytes()));
    }
    return Progress::Done;
  }
};

}  // namespace

StartedOperation start_flat_allreduce(const ShmSetup& setup, const Collective& collective) {
  if (std::ssize(collective.ranks) >= setup.options.many_members) {
    return ShmOperation::begin(std::make_unique<GatheredAllreduce>(setup, collective));
  }
  return ShmOperation::begin(std::make_unique<ExchangedAllreduce>(setup, collective));
}

}  // namespace kolo::core

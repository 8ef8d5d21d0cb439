#include "job.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "support/threads.h"

namespace kolo::core::job {
namespace {

/// Delivers messages of each sender in order, those of different senders in random order, and each
/// after some looks that find nothing.
class SilentControl final : public ForwardingControl {
 public:
  SilentControl(std::unique_ptr<ControlPlane> plane, std::uint64_t seed)
      : ForwardingControl(std::move(plane)), random_(seed) {}

  Result<std::optional<Envelope>> receive() override {
    while (true) {
      Result<std::optional<Envelope>> envelope = ForwardingControl::receive();
      if (!envelope.ok()) return envelope.status();
      if (!envelope.value()) break;
      const int source = envelope.value()->source;
      arrived_[source].push_back(std::move(*envelope.value()));
    }
    if (arrived_.empty() || random_() % 4 == 0) return std::optional<Envelope>();
    const auto index = static_cast<std::ptrdiff_t>(random_() % arrived_.size());
    const auto source = std::next(arrived_.begin(), index);
    std::optional<Envelope> next(std::move(source->second.front()));
    source->second.pop_front();
    if (source->second.empty()) arrived_.erase(source);
    return next;
  }
  bool rings() const override { return false; }

 private:
  std::mt19937_64 random_;
  std::map<int, std::deque<Envelope>> arrived_;
};

class SilentData final : public ForwardingData {
 public:
  using ForwardingData::ForwardingData;
  bool rings() const override { return false; }
};

}  // namespace

Job::Job(int size, Planes planes)
    : size_(size),
      kind_(planes),
      control_hub_(InprocControlHub::create(size)),
      data_hub_(InprocDataHub::create(size)) {}

Result<std::unique_ptr<Context>> Job::create(int rank) {
  const auto connect = [&](Doorbell& own) -> Result<core::Planes> {
    const bool silent = kind_ == Planes::Silent;
    Doorbell& doorbell = silent ? unheard_ : own;
    core::Planes planes;
    planes.control = control_hub_->connect(rank, doorbell);
    planes.data = data_hub_->connect(rank, doorbell);
    if (silent) {
      const auto seed = static_cast<std::uint64_t>(rank);
      planes.control = std::make_unique<SilentControl>(std::move(planes.control), seed);
      planes.data = std::make_unique<SilentData>(std::move(planes.data));
    }
    if (wrap_control) planes.control = wrap_control(rank, std::move(planes.control));
    if (wrap_data) planes.data = wrap_data(rank, std::move(planes.data));
    return planes;
  };
  return Context::create(change_config ? change_config(rank, config) : config, connect);
}

void Job::run(const std::function<void(Context&)>& body) {
  testing::run_ranks(size_, [&](int rank) {
    const Result<std::unique_ptr<Context>> context = create(rank);
    ASSERT_TRUE(context.ok()) << context.status().message();
    body(*context.value());
  });
}

bool ends_soon(const Work& work) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!work.done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::string error_of(const Work& work) {
  if (!ends_soon(work)) {
    ADD_FAILURE() << "no end within 5 seconds";
    return {};
  }
  const Status status = work.wait();
  EXPECT_FALSE(status.ok()) << "should have failed";
  return status.ok() ? std::string() : status.message();
}

}  // namespace kolo::core::job

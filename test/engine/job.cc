#include "job.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "control/shm_control.h"
#include "data/shm_data.h"
#include "support/threads.h"

namespace kolo::core::job {
namespace {

constexpr std::size_t kArenaBytes = std::size_t{512} << 20;

/// Delivers messages of each sender in order, but keeps some senders' back for a while.
class SilentControl final : public ForwardingControl {
 public:
  SilentControl(std::unique_ptr<ControlPlane> plane, std::uint64_t seed)
      : ForwardingControl(std::move(plane)), random_(seed) {}

  Result<std::optional<Envelope>> receive() override {
    while (true) {
      Result<std::optional<Envelope>> envelope = ForwardingControl::receive();
      if (!envelope.ok()) return envelope.status();
      if (!envelope.value()) break;
      Sender& sender = senders_[envelope.value()->source];
      if (sender.arrived.empty() && random_() % 2 == 0) sender.looks = random_() % 6;
      sender.arrived.push_back(std::move(*envelope.value()));
    }
    for (auto& [rank, sender] : senders_) {
      if (sender.arrived.empty() || sender.looks-- > 0) continue;
      sender.looks = 0;
      std::optional<Envelope> next(std::move(sender.arrived.front()));
      sender.arrived.pop_front();
      return next;
    }
    return std::optional<Envelope>();
  }
  bool rings() const override { return false; }

 private:
  struct Sender {
    std::deque<Envelope> arrived;
    /// That find nothing yet.
    std::uint64_t looks = 0;
  };

  std::mt19937_64 random_;
  std::map<int, Sender> senders_;
};

class SilentData final : public ForwardingData {
 public:
  using ForwardingData::ForwardingData;
  bool rings() const override { return false; }
};

}  // namespace

Job::Job(int size, Planes planes, std::uint64_t seed)
    : size_(size),
      kind_(planes),
      seed_(seed),
      control_hub_(InprocControlHub::create(size)),
      data_hub_(InprocDataHub::create(size)),
      meeting_(size) {}

Result<std::unique_ptr<Context>> Job::create(int rank) {
  const auto connect_wrapped = [&](const Config& /*config*/, Doorbell& own) {
    Result<core::Planes> planes = connect(rank, own);
    if (!planes.ok()) return planes;
    if (wrap_control) {
      planes.value().control = wrap_control(rank, std::move(planes.value().control));
    }
    if (wrap_data) planes.value().data = wrap_data(rank, std::move(planes.value().data));
    return planes;
  };
  return Context::create(change_config ? change_config(rank, config) : config, connect_wrapped);
}

Result<core::Planes> Job::connect(int rank, Doorbell& own) {
  if (kind_ == Planes::Shared) return share_memory(rank, own);
  const bool silent = kind_ == Planes::Silent;
  Doorbell& doorbell = silent ? unheard_ : own;
  core::Planes planes;
  planes.control = control_hub_->connect(rank, doorbell);
  planes.data = data_hub_->connect(rank, doorbell);
  if (silent) {
    const std::uint64_t seed = seed_ + static_cast<unsigned>(rank);
    planes.control = std::make_unique<SilentControl>(std::move(planes.control), seed);
    planes.data = std::make_unique<SilentData>(std::move(planes.data));
  }
  return planes;
}

Result<core::Planes> Job::share_memory(int rank, Doorbell& own) {
  testing::ThreadBootstrap bootstrap(meeting_, rank);
  auto host = shm::Host::join(bootstrap, {.global_rank = rank, .capacity = kArenaBytes});
  if (!host.ok()) return host.status();
  own.move_to(host.value()->own_doorbell());
  Topology topology;
  topology.rank = topology.local_rank = rank;
  topology.size = topology.local_size = size_;
  core::Planes planes;
  planes.control = std::make_unique<ShmControlPlane>(host.value(), topology);
  planes.data = std::make_unique<ShmDataPlane>(std::move(host).value());
  return planes;
}

std::string name_of(Job::Planes planes) {
  switch (planes) {
    case Job::Planes::Ringing:
      return "ringing";
    case Job::Planes::Silent:
      return "silent";
    case Job::Planes::Shared:
      return "shared";
  }
  return "";
}

void Job::run(const std::function<void(Context&)>& body) {
  testing::run_ranks(size_, [&](int rank) {
    const Result<std::unique_ptr<Context>> context = create(rank);
    ASSERT_TRUE(context.ok()) << context.status().message();
    body(*context.value());
  });
}

void poll_until_done(const Work& work) {
  while (!work.done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

std::string error_of(const Work& work) {
  poll_until_done(work);
  const Status status = work.wait();
  EXPECT_FALSE(status.ok()) << "should have failed";
  return status.ok() ? std::string() : status.message();
}

}  // namespace kolo::core::job

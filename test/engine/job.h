#pragma once

/// Ranks as threads of one process, each with a Context of its own, and what a test puts between a
/// rank and its planes.

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "context/context.h"
#include "control/inproc_control.h"
#include "data/inproc_data.h"
#include "support/thread_bootstrap.h"

namespace kolo::core::job {

class Job {
 public:
  /// Ringing: messages wake the rank they are for. Silent: nothing rings, as over MPI, so that a
  /// rank that does not look hears nothing; and messages from different ranks overtake each other.
  /// Shared: shared memory, as within a host.
  enum class Planes { Ringing, Silent, Shared };

  /// `seed`: of the order in which silent messages arrive.
  explicit Job(int size, Planes planes = Planes::Ringing, std::uint64_t seed = 0);

  int size() const { return size_; }

  /// To be set before the ranks start. Those that take a rank are called on its thread.
  Config config;
  std::function<Config(int rank, Config)> change_config;
  std::function<std::unique_ptr<ControlPlane>(int rank, std::unique_ptr<ControlPlane>)>
      wrap_control;
  std::function<std::unique_ptr<DataPlane>(int rank, std::unique_ptr<DataPlane>)> wrap_data;

  Result<std::unique_ptr<Context>> create(int rank);

  /// `body` on each rank, in a thread of its own; all leave when it returns.
  void run(const std::function<void(Context&)>& body);

 private:
  Result<core::Planes> connect(int rank, Doorbell& own);
  Result<core::Planes> share_memory(int rank, Doorbell& own);

  const int size_;
  const Planes kind_;
  const std::uint64_t seed_;
  /// Rung by silent planes; nobody waits for it.
  Doorbell unheard_;
  std::shared_ptr<InprocControlHub> control_hub_;
  std::shared_ptr<InprocDataHub> data_hub_;
  testing::Meeting meeting_;
};

inline const auto kAllPlanes =
    ::testing::Values(Job::Planes::Ringing, Job::Planes::Silent, Job::Planes::Shared);
std::string name_of(Job::Planes planes);

/// Passes everything on.
class ForwardingControl : public ControlPlane {
 public:
  explicit ForwardingControl(std::unique_ptr<ControlPlane> plane) : plane_(std::move(plane)) {}
  const Topology& topology() const override { return plane_->topology(); }
  Status send(int destination, std::span<const std::byte> bytes) override {
    return plane_->send(destination, bytes);
  }
  Result<std::optional<Envelope>> receive() override { return plane_->receive(); }
  bool sending() const override { return plane_->sending(); }
  bool rings() const override { return plane_->rings(); }

 private:
  std::unique_ptr<ControlPlane> plane_;
};

class ForwardingOperation : public Operation {
 public:
  explicit ForwardingOperation(std::unique_ptr<Operation> operation)
      : operation_(std::move(operation)) {}
  Result<Progress> progress() override { return operation_->progress(); }
  bool begin_again(std::uint64_t sequence, void* output) override {
    return operation_->begin_again(sequence, output);
  }
  std::vector<int> missing() const override { return operation_->missing(); }
  bool declined() const override { return operation_->declined(); }
  std::shared_ptr<DeviceEvent> issued() const override { return operation_->issued(); }
  std::optional<DeviceTimes> device_times() const override { return operation_->device_times(); }

 private:
  std::unique_ptr<Operation> operation_;
};

class ForwardingData : public DataPlane {
 public:
  explicit ForwardingData(std::unique_ptr<DataPlane> plane) : plane_(std::move(plane)) {}
  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    return plane_->start(collective);
  }
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override {
    return plane_->allocate(device, bytes);
  }
  bool carries_declines(const std::vector<int>& ranks) const override {
    return plane_->carries_declines(ranks);
  }
  void end_channel(ChannelId channel) override { plane_->end_channel(channel); }
  bool rings() const override { return plane_->rings(); }
  void drain() override { plane_->drain(); }

 private:
  std::unique_ptr<DataPlane> plane_;
};

/// Returns when the operation has ended. Who calls does none of its work.
void poll_until_done(const Work& work);

/// The error of an operation that must fail; empty, with a test failure, when it does not.
std::string error_of(const Work& work);

}  // namespace kolo::core::job

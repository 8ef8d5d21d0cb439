// GPUs between hosts over MPI: each process is a host with one GPU, a double of its own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "data/hierarchical_data.h"
#include "data/mpi_data.h"
#include "data/staged_data.h"
#include "gpu_ranks.h"

namespace kolo::core {
namespace {

using oracle::Bytes;

constexpr int kDevice = 0;

/// The planes of this process.
class Hosts {
 public:
  explicit Hosts(const mpi::Session& session) : topology_(session.topology().value()) {
    std::vector<int> hosts(static_cast<std::size_t>(topology_.size));
    std::iota(hosts.begin(), hosts.end(), 0);
    const std::shared_ptr<DataPlane> any = MpiDataPlane::create(session).value();
    const std::shared_ptr<DataPlane> far = MpiDataPlane::create(session).value();
    plane_ = std::make_unique<HierarchicalDataPlane>(
        std::make_shared<NcclDataPlane>(any, NcclDataPlane::Settings{.device = kDevice}),
        std::make_shared<StagedDataPlane>(far, kDevice), hosts,
        HierarchicalOptions{.chunk_bytes = 1000});
  }

  int size() const { return topology_.size; }
  int rank() const { return topology_.rank; }
  DataPlane& plane() { return *plane_; }

 private:
  Topology topology_;
  std::unique_ptr<DataPlane> plane_;
};

/// One operation on its way.
struct Part {
  Part(Hosts& hosts, Collective described) : collective(std::move(described)) {
    for (int member = 0; member < hosts.size(); ++member) collective.ranks.push_back(member);
    collective.member = hosts.rank();
    collective.device = DeviceType::Cuda;
    inputs = gpus::inputs_of(collective, collective.sequence);
    const Bytes& own = inputs[static_cast<std::size_t>(hosts.rank())];
    memory = gpus::cuda_memory(kDevice, own.size());
    std::ranges::copy(own, memory.get());
    collective.input = collective.output = memory.get();
    operation = hosts.plane().start(collective).value();
  }

  Collective collective;
  std::vector<Bytes> inputs;
  std::shared_ptr<std::byte> memory;
  std::unique_ptr<Operation> operation;
};

std::vector<Collective> collectives(DataType dtype, int members) {
  std::vector<Collective> all;
  for (const std::int64_t count : {0, 1, 1023, 10'000}) {
    for (int op = 0; op < kReduceOpCount; ++op) {
      if (dtype == DataType::Bool && static_cast<ReduceOp>(op) == ReduceOp::Average) continue;
      all.push_back({.dtype = dtype, .op = static_cast<ReduceOp>(op), .count = count});
      if (!is_floating(dtype)) continue;
      all.back().prescale = 0.3;
      all.back().postscale = 1.7;
    }
    for (int root = 0; root < members; ++root) {
      all.push_back(
          {.kind = CollectiveKind::Broadcast, .dtype = dtype, .root_member = root, .count = count});
    }
  }
  return all;
}

TEST(MpiGpuHosts, Collectives) {
  const mpi::Session session = mpi::Session::open().value();
  doubles::reset({.seed = static_cast<std::uint64_t>(session.topology().value().rank)});
  {
    Hosts hosts(session);
    for (const DataType dtype :
         {DataType::Int32, DataType::Bool, DataType::BFloat16, DataType::Float64}) {
      std::vector<Part> parts;
      for (Collective& collective : collectives(dtype, hosts.size())) {
        collective.channel = static_cast<ChannelId>(dtype);
        collective.sequence = parts.size();
        parts.emplace_back(hosts, std::move(collective));
      }
      for (Part& part : parts) {
        Result<Operation::Progress> progress = part.operation->progress();
        while (progress.ok() && progress.value() != Operation::Progress::Done) {
          for (Part& other : parts) {
            if (&other > &part && other.operation != nullptr) (void)other.operation->progress();
          }
          std::this_thread::yield();
          progress = part.operation->progress();
        }
        ASSERT_TRUE(progress.ok()) << progress.status().message();
        const std::size_t bytes =
            static_cast<std::size_t>(part.collective.count) * size_of(part.collective.dtype);
        const Bytes result(part.memory.get(), part.memory.get() + bytes);
        EXPECT_EQ(gpus::find_error(part.collective, part.inputs, result), "");
      }
    }
  }
  EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
  EXPECT_EQ(doubles::live(), doubles::Live());
}

}  // namespace
}  // namespace kolo::core

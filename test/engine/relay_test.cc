// The timeline of ranks that are not on rank 0's host.

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "engine/job.h"

namespace kolo::core::job {
namespace {

/// Each rank on a host of its own.
class FarApart final : public ForwardingControl {
 public:
  explicit FarApart(std::unique_ptr<ControlPlane> plane)
      : ForwardingControl(std::move(plane)), topology_(ForwardingControl::topology()) {
    topology_.local_rank = 0;
    topology_.local_size = 1;
    topology_.cross_rank = topology_.rank;
    topology_.cross_size = topology_.size;
    topology_.with_rank_0 = topology_.rank == 0;
  }
  const Topology& topology() const override { return topology_; }

 private:
  Topology topology_;
};

TEST(Relay, BringsEveryRanksEventsIntoOneFile) {
  std::array<char, 32> folder{"/tmp/kolo-relay-XXXXXX"};
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = std::string(folder.data()) + "/t.json";

  Job job(3);
  job.config.timeline = path;
  job.wrap_control = [](int, std::unique_ptr<ControlPlane> plane) {
    return std::make_unique<FarApart>(std::move(plane));
  };
  constexpr int kOperations = 20;
  job.run([](Context& context) {
    for (int i = 0; i < kOperations; ++i) {
      float value = 1;
      Submission submission;
      submission.request.name = "x" + std::to_string(i);
      submission.request.shape = {1};
      submission.input = &value;
      submission.output = &value;
      ASSERT_TRUE(context.submit(std::move(submission))->wait().ok());
      ASSERT_EQ(value, 3);
    }
  });

  // By rank: reductions that the file tells of.
  std::map<std::string, int> reductions;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto at = line.find(R"("name":"reduce")");
    if (at == std::string::npos) continue;
    const auto pid = line.find(R"("pid":)");
    ASSERT_NE(pid, std::string::npos) << line;
    ++reductions[line.substr(pid + 6, 1)];
  }
  for (const char* rank : {"0", "1", "2"}) EXPECT_EQ(reductions[rank], kOperations) << rank;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.data()), {}), 1);
  std::filesystem::remove_all(folder.data());
}

}  // namespace
}  // namespace kolo::core::job

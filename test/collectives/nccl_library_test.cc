// NCCL found when it is first called: which one is there is said by LD_LIBRARY_PATH.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <string>

namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(NcclLibrary, whole) {
  int version = 0;
  EXPECT_EQ(ncclGetVersion(&version), ncclSuccess);
  EXPECT_EQ(version, NCCL_VERSION_CODE);
  EXPECT_STREQ(ncclGetErrorString(ncclRemoteError),
               "remote process exited or there was a network error");
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t communicator = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&communicator, 1, id, 1, &config), ncclInvalidArgument);
  EXPECT_STREQ(ncclGetLastError(nullptr), "rank 1 of 1");
  ASSERT_EQ(ncclCommInitRankConfig(&communicator, 1, id, 0, &config), ncclSuccess);
  EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
}

void expect_all_calls_to_say(const auto& matches) {
  int version = 0;
  EXPECT_EQ(ncclGetVersion(&version), ncclSystemError);
  void* memory = nullptr;
  EXPECT_EQ(ncclMemAlloc(&memory, 8), ncclSystemError);
  EXPECT_EQ(ncclGroupStart(), ncclSystemError);
  EXPECT_THAT(ncclGetErrorString(ncclSystemError), matches);
  EXPECT_STREQ(ncclGetLastError(nullptr), "");
}

TEST(NcclLibrary, unreadable) {
  expect_all_calls_to_say(AllOf(HasSubstr("NCCL cannot be loaded ("), HasSubstr("libnccl.so.2"),
                                HasSubstr("LD_LIBRARY_PATH")));
}

TEST(NcclLibrary, part) {
  expect_all_calls_to_say(AllOf(HasSubstr("libnccl.so.2 has no ncclGetUniqueId"),
                                HasSubstr("compiled with"), HasSubstr("LD_LIBRARY_PATH")));
}

}  // namespace

// Goal: device memory is counted and given back, and a machine without a GPU hears what is missing.
#include "kernels/cuda/runtime.h"

#include "gmock/gmock.h"
#include "tests/gpu/kernels/twin.h"

namespace espalier::kernels::cuda {
namespace {

TEST(Runtime, NamesWhatIsMissingWithoutAGpu) {
  if (DeviceCount() > 0) GTEST_SKIP() << "this machine has a GPU";
  const auto info = UseDevice(0);
  EXPECT_EQ(absl::StatusCode::kUnavailable, info.status().code());
  EXPECT_THAT(std::string(info.status().message()), ::testing::HasSubstr("--device cpu"));
}

TEST(Runtime, RefusesADeviceThatIsNotThere) {
  SKIP_WITHOUT_GPU();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, UseDevice(DeviceCount()).status().code());
  EXPECT_TRUE(UseDevice(0).ok());
}

TEST(Runtime, CountsTheBytesThatAreHeld) {
  SKIP_WITHOUT_GPU();
  const int64_t before = DeviceBytes();
  {
    Buffer<float> buffer;
    ASSERT_TRUE(buffer.Reserve(1 << 20).ok());
    EXPECT_EQ(before + (int64_t{4} << 20), DeviceBytes());
    EXPECT_GE(DeviceBytesPeak(), DeviceBytes());
  }
  EXPECT_EQ(before, DeviceBytes());
}

TEST(Runtime, SaysWhenMemoryRunsOut) {
  SKIP_WITHOUT_GPU();
  const auto memory = Memory::Allocate(int64_t{1} << 50);
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, memory.status().code());
}

}  // namespace
}  // namespace espalier::kernels::cuda

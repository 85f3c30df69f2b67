// Goal: --device means one device or is refused by name.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/worker/worker.h"

namespace espalier::worker {
namespace {

TEST(ParseDevice, ReadsCpuAndGpus) {
  model::Device device;
  int index = -1;
  ASSERT_TRUE(ParseDevice("cpu", &device, &index).ok());
  EXPECT_EQ(model::Device::kCpu, device);
  ASSERT_TRUE(ParseDevice("cuda", &device, &index).ok());
  EXPECT_EQ(model::Device::kCuda, device);
  EXPECT_EQ(0, index);
  ASSERT_TRUE(ParseDevice("cuda:3", &device, &index).ok());
  EXPECT_EQ(3, index);
}

TEST(ParseDevice, NamesWhatItCannotRead) {
  model::Device device;
  int index = 0;
  for (const char* bad : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:99999", "CUDA"}) {
    const absl::Status status = ParseDevice(bad, &device, &index);
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, status.code()) << bad;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("--device")) << bad;
  }
}

}  // namespace
}  // namespace espalier::worker

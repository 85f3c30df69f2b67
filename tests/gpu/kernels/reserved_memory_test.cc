// Goal: what stands in reserved addresses stays where and what it is while segments grow and shrink, memory is really taken and given back,
// and too much is refused without harm. Method: the driver's own figure of free memory beside ours.
#include "kernels/cuda/reserved_memory.h"

#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t FreeBytes() {
  size_t free = 0, total = 0;
  EXPECT_EQ(cudaSuccess, cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

TEST(ReservedMemory, GrowsAndShrinksInPlace) {
  SKIP_WITHOUT_GPU();
  const int64_t before = DeviceBytes();
  {
    auto memory = ReservedMemory::Reserve(1024 * kMiB);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(before, DeviceBytes()) << "addresses cost nothing";
    const int64_t second = 512 * kMiB;
    ASSERT_TRUE(memory->Resize(0, 160 * kMiB).ok());
    ASSERT_TRUE(memory->Resize(second, 3 * kMiB).ok());
    EXPECT_EQ(before + 164 * kMiB, DeviceBytes()) << "a segment is a whole number of granules";
    const auto values = RandomValues<float>(16 * kMiB);
    auto* data = reinterpret_cast<float*>(memory->data());
    ASSERT_EQ(cudaSuccess, cudaMemcpy(data, values.data(), 64 * kMiB, cudaMemcpyHostToDevice));
    const int64_t free = FreeBytes();
    ASSERT_TRUE(memory->Resize(0, 100 * kMiB).ok());
    EXPECT_EQ(before + 104 * kMiB, DeviceBytes());
    EXPECT_GE(FreeBytes() - free, 56 * kMiB) << "the driver has it back";
    EXPECT_TRUE(memory->ShrinkOnce(0, 80 * kMiB));
    EXPECT_EQ(before + 94 * kMiB, DeviceBytes()) << "a piece is a sixteenth of what it first held";
    EXPECT_TRUE(memory->ShrinkOnce(0, 80 * kMiB));
    EXPECT_FALSE(memory->ShrinkOnce(0, 80 * kMiB));
    ASSERT_TRUE(memory->Resize(0, 500 * kMiB).ok());
    ASSERT_EQ(cudaSuccess, cudaMemset(memory->data() + 64 * kMiB, 1, 436 * kMiB));
    std::vector<float> found(values.size());
    ASSERT_EQ(cudaSuccess, cudaMemcpy(found.data(), data, 64 * kMiB, cudaMemcpyDeviceToHost));
    EXPECT_TRUE(SameBits(values, found));
    ASSERT_TRUE(memory->Resize(0, 0).ok());
    ASSERT_TRUE(memory->Resize(0, 1).ok());
    EXPECT_EQ(before + 6 * kMiB, DeviceBytes());
  }
  EXPECT_EQ(before, DeviceBytes());
}

TEST(ReservedMemory, TooMuchIsRefusedAndLeavesWhatWasThere) {
  SKIP_WITHOUT_GPU();
  const int64_t before = DeviceBytes(), all = FreeBytes();
  auto memory = ReservedMemory::Reserve(all + 4096 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE(memory->Resize(0, 64 * kMiB).ok());
  const absl::Status status = memory->Resize(0, all + 1024 * kMiB);
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, status.code()) << status;
  EXPECT_EQ(before + 64 * kMiB, DeviceBytes());
  EXPECT_EQ(cudaSuccess, cudaMemset(memory->data(), 0, 64 * kMiB));
  EXPECT_FALSE(memory->Resize(all + 4096 * kMiB, kMiB).ok()) << "beyond what was reserved";
}

}  // namespace
}  // namespace espalier::kernels::cuda

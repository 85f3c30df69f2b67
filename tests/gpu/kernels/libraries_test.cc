// Goal: a library that is not there is named, with the places and the remedy; the bounded map forgets the oldest. No GPU needed.
#include "kernels/cuda/libraries.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/recent.h"

namespace espalier::kernels::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Libraries, LooksInThePlainPlaceFirst) {
  EXPECT_THAT(LibraryPaths("libx.so.1", nullptr), ElementsAre("libx.so.1", "/usr/local/cuda/lib64/libx.so.1"));
  EXPECT_THAT(LibraryPaths("libx.so.1", "/opt/cuda"),
              ElementsAre("libx.so.1", "/usr/local/cuda/lib64/libx.so.1", "/opt/cuda/lib64/libx.so.1",
                          "/opt/cuda/lib/libx.so.1"));
}

TEST(Libraries, NamesWhatIsMissingAndTheRemedy) {
  const auto library = OpenLibrary("libnothere.so.3", {"libnothere.so.3", "/nowhere/libnothere.so.3"});
  EXPECT_EQ(absl::StatusCode::kUnavailable, library.status().code());
  const std::string message(library.status().message());
  EXPECT_THAT(message, HasSubstr("libnothere.so.3 cannot be opened"));
  EXPECT_THAT(message, HasSubstr("/nowhere/libnothere.so.3"));
  EXPECT_THAT(message, HasSubstr("LD_LIBRARY_PATH"));
}

TEST(Libraries, OpensTheFirstThatIsThere) {
  EXPECT_TRUE(OpenLibrary("libm.so.6", {"/nowhere/libm.so.6", "libm.so.6"}).ok());
}

// Where CUDA's libraries are installed, every function of the tables is there.
TEST(Libraries, FindsEveryFunction) {
  const auto lt = LoadCublasLt();
  const auto cudnn = LoadCudnn();
  for (const absl::Status& status : {lt.status(), cudnn.status()}) {
    EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("has no function")));
  }
  if (lt.ok()) {
    EXPECT_EQ(*lt, *LoadCublasLt());
  }
  if (cudnn.ok()) {
    EXPECT_GE((*cudnn)->cudnnGetVersion(), 90000u);
  }
}

TEST(Recent, ForgetsTheOneUsedLongestAgo) {
  Recent<int, std::string> recent(2);
  recent.Insert(1, "one");
  recent.Insert(2, "two");
  EXPECT_TRUE(recent.full());
  ASSERT_NE(nullptr, recent.Find(1));
  recent.Insert(3, "three");
  EXPECT_EQ(2u, recent.size());
  EXPECT_EQ(nullptr, recent.Find(2));
  EXPECT_EQ("one", *recent.Find(1));
  EXPECT_EQ("three", *recent.Find(3));
}

}  // namespace
}  // namespace espalier::kernels::cuda

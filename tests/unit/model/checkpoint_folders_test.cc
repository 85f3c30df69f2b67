// Goal: the rotation removes what it should and never what is pinned or what the run stands on.
// Method: copies of one tiny checkpoint under the names of many.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;

class CheckpointFolders : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        ("folders_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "checkpoints");
    auto communicator = collective::MakeSingleCommunicator();
    const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
    auto model = MakeModel<float>(config, InitialLayout(config, 1), *communicator);
    const CheckpointState state{
        .config = config, .layout = model->layout(), .tokenizer_json = "{}", .trainer_json = "{}"};
    ASSERT_TRUE(WriteCheckpoint(*model, state, (folder_ / "original").string()).ok());
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Directory() const { return folder_ / "checkpoints"; }
  std::string Path(uint64_t step, uint64_t revision = 1) const {
    return Directory() + "/" + CheckpointName(step, revision);
  }
  void Put(uint64_t step, uint64_t revision = 1) {
    fs::copy(folder_ / "original", Path(step, revision), fs::copy_options::recursive);
  }
  std::set<std::string> Names() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(Directory())) {
      names.insert(entry.path().filename());
    }
    return names;
  }

  fs::path folder_;
};

using Set = std::set<std::string>;

TEST_F(CheckpointFolders, ThePinnedAreNeitherCountedNorRemoved) {
  for (const uint64_t step : {2, 4, 6, 8}) Put(step);
  ASSERT_TRUE(PinCheckpoint(Path(2)).ok());
  ASSERT_TRUE(PinCheckpoint(Path(8)).ok());
  ASSERT_TRUE(PinCheckpoint(Path(8)).ok());
  ASSERT_TRUE(PruneCheckpoints(Directory(), 1).ok());
  EXPECT_EQ(Names(), (Set{"step-00000002", "step-00000006", "step-00000008"}));
  EXPECT_TRUE(ReadCheckpointState(Path(2)).ok());  // a pin is no damage
  EXPECT_EQ(NewestCheckpoint(Directory()), Path(8));
  ASSERT_TRUE(UnpinCheckpoint(Path(8)).ok());
  ASSERT_TRUE(UnpinCheckpoint(Path(2)).ok());
  ASSERT_TRUE(UnpinCheckpoint(Path(2)).ok());
  ASSERT_TRUE(UnpinCheckpoint(Path(1)).ok());  // gone: nothing to do
  ASSERT_TRUE(PruneCheckpoints(Directory(), 1).ok());
  EXPECT_EQ(Names(), Set{"step-00000008"});
}

TEST_F(CheckpointFolders, WhatIsNewerThanThePresentOneIsNotCounted) {
  for (const uint64_t step : {2, 4, 6, 8}) Put(step);
  ASSERT_TRUE(PruneCheckpoints(Directory(), 1, Path(4)).ok());
  EXPECT_EQ(Names(), (Set{"step-00000004", "step-00000006", "step-00000008"}));
  ASSERT_TRUE(PinCheckpoint(Path(8)).ok());
  ASSERT_TRUE(RemoveNewerCheckpoints(Directory(), Path(4)).ok());
  EXPECT_EQ(Names(), Set{"step-00000004"});
  EXPECT_EQ(RemoveNewerCheckpoints(Directory(), Directory()).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CheckpointFolders, OnlyTheLastOfAStepCounts) {
  EXPECT_EQ(NextCheckpointPath(Directory(), 4), Path(4));
  for (const uint64_t step : {2, 4}) Put(step);
  EXPECT_EQ(NextCheckpointPath(Directory(), 4), Path(4, 2));
  for (const uint64_t revision : {2, 3, 10}) Put(4, revision);
  EXPECT_EQ(NextCheckpointPath(Directory(), 4), Path(4, 11));
  EXPECT_EQ(NewestCheckpoint(Directory()), Path(4, 10));
  ASSERT_TRUE(PinCheckpoint(Path(4, 2)).ok());
  ASSERT_TRUE(PruneCheckpoints(Directory(), 3).ok());
  EXPECT_EQ(Names(), (Set{"step-00000002", "step-00000004.10", "step-00000004.2"}));
}

TEST_F(CheckpointFolders, ADamagedSecondOneLeavesTheFirst) {
  Put(4);
  Put(4, 2);
  fs::resize_file(Path(4, 2) + "/manifest.json", 10);
  EXPECT_EQ(NewestCheckpoint(Directory()), Path(4));
  ASSERT_TRUE(PruneCheckpoints(Directory(), 1).ok());
  EXPECT_TRUE(ReadCheckpointState(Path(4)).ok());
}

TEST_F(CheckpointFolders, OnlyNamesOfCheckpointsAreTheirPaths) {
  EXPECT_TRUE(IsCheckpointPath(Directory(), Path(4)));
  EXPECT_TRUE(IsCheckpointPath(Directory(), Directory() + "/./x/../step-00000004.12"));
  for (const std::string& path :
       {Directory(), Directory() + "/step-4x", Directory() + "/step-4.", Directory() + "/step-4.1",
        Directory() + "/step-4.tmp", Directory() + "/step-", Directory() + "/step--4",
        Directory() + "/../step-4", std::string("step-4"), std::string(), Directory() + "/step-4/",
        Directory() + "/step-4/pinned"}) {
    EXPECT_FALSE(IsCheckpointPath(Directory(), path)) << path;
  }
}

TEST_F(CheckpointFolders, APinThatCannotBeWrittenIsAnError) {
  EXPECT_FALSE(PinCheckpoint(Path(4)).ok());  // no such checkpoint
  EXPECT_FALSE(IsPinned(Path(4)));
}

}  // namespace
}  // namespace espalier::model

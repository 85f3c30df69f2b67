// Goal: a checkpoint gives back every bit, for any number of ranks; whatever is damaged is named; a
// failed write leaves nothing behind and the older checkpoint usable. Method: tiny models on
// in-process ranks; files flipped, cut, removed; a tmpfs too small or a file-size limit as full
// disk.
#include "libs/model/checkpoint.h"

#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/model/checkpoint_manifest.h"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Layers with different experts alive, one masked, spread over `ranks`.
ExpertLayout PrunedLayout(int ranks) {
  ExpertLayout layout;
  layout.layers.resize(3);
  layout.layers[1] = {.ids = {0, 2, 4}, .ranks = {0, 0, 0}, .masked = {0, 1, 0}};
  layout.layers[2] = {.ids = {0, 1, 2, 4}, .ranks = {0, 0, 0, 0}, .masked = {0, 0, 0, 0}};
  int next = 0;
  for (LayerLayout& layer : layout.layers) {
    for (int& rank : layer.ranks) rank = next++ % ranks;
  }
  return layout;
}

// Values of every tensor by name, moments and biases included, over all ranks.
using Tensors = std::map<std::string, std::vector<float>>;

void Collect(Model<float>& model, Tensors* tensors) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  for (const Parameter<float>* p : model.parameters()) {
    (*tensors)[p->name] = p->value;
    (*tensors)[p->name + ".m1"] = p->moment1;
    (*tensors)[p->name + ".m2"] = p->moment2;
  }
  for (int layer = 1; layer < 3; ++layer) {
    (*tensors)["bias" + std::to_string(layer)] = model.selection_bias(layer);
  }
}

// Moments and biases that differ from element to element.
void Perturb(Model<float>& model) {
  for (Parameter<float>* p : model.parameters()) {
    p->moment1.resize(p->value.size());
    p->moment2.resize(p->value.size());
    for (size_t i = 0; i < p->value.size(); ++i) {
      p->moment1[i] = p->value[i] * 0.25f + 1e-3f;
      p->moment2[i] = p->value[i] * p->value[i] + 1e-6f;
    }
  }
  for (int layer = 1; layer < 3; ++layer) {
    float value = 0.01f * static_cast<float>(layer);
    for (float& bias : model.selection_bias(layer)) bias = (value += 0.125f);
  }
}

CheckpointState StateOf(Model<float>& model, uint64_t step) {
  return {.config = model.config(),
          .layout = model.layout(),
          .step = step,
          .last_applied_sequence = 9,
          .tokenizer_json = R"({"model":"bytes \u00e9"})",
          .trainer_json = R"({"stage":1})"};
}

class Checkpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ("checkpoint_" +
               std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(uint64_t step = 7) const { return folder_ / CheckpointName(step); }

  // Writes a checkpoint from `ranks` ranks and returns what it should hold.
  Tensors Write(int ranks, uint64_t step = 7, bool moments = true) {
    Tensors tensors;
    OnRanks(ranks, [&](int, collective::Communicator& communicator) {
      auto model =
          MakeModel<float>(TinyConfig(RouterKind::kSigmoid), PrunedLayout(ranks), communicator);
      if (moments) Perturb(*model);
      const absl::Status status = WriteCheckpoint(*model, StateOf(*model, step), Path(step));
      EXPECT_TRUE(status.ok()) << status;
      Collect(*model, &tensors);
    });
    return tensors;
  }

  // Loads into a model drawn from another seed.
  absl::Status Load(const ExpertLayout& layout, int ranks, Tensors* tensors) {
    std::mutex mutex;
    absl::Status all;
    OnRanks(ranks, [&](int, collective::Communicator& communicator) {
      auto model = MakeModel<float>(TinyConfig(RouterKind::kSigmoid), layout, communicator, 1, 99);
      const absl::Status status = LoadCheckpoint(*model, Path());
      {
        std::lock_guard<std::mutex> lock(mutex);
        all.Update(status);
      }
      if (tensors != nullptr) Collect(*model, tensors);
    });
    return all;
  }

  void FlipByte(const std::string& file, int64_t offset) {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_TRUE(f) << file;
    f.seekg(offset);
    const char c = static_cast<char>(f.get() ^ 0x10);
    f.seekp(offset);
    f.put(c);
  }

  fs::path folder_;
};

class CheckpointRanks : public Checkpoint,
                        public ::testing::WithParamInterface<std::pair<int, int>> {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) / ("checkpoint_ranks_" + std::to_string(GetParam().first) +
                                          std::to_string(GetParam().second));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
};

TEST_P(CheckpointRanks, GivesBackEveryBitOnAnyNumberOfRanks) {
  const auto [writers, readers] = GetParam();
  const Tensors written = Write(writers);
  const auto state = ReadCheckpointState(Path());
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->layout, PrunedLayout(writers));
  EXPECT_EQ(state->step, 7);
  EXPECT_EQ(state->last_applied_sequence, 9);
  EXPECT_EQ(state->tokenizer_json, R"({"model":"bytes \u00e9"})");
  EXPECT_EQ(state->trainer_json, R"({"stage":1})");
  EXPECT_EQ(state->config.routed_scaling, 1.3);
  Tensors read;
  ASSERT_TRUE(Load(FitLayout(state->layout, readers), readers, &read).ok());
  EXPECT_EQ(read, written);
  EXPECT_FALSE(fs::exists(Path() + ".tmp"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, CheckpointRanks,
                         ::testing::Values(std::pair(1, 1), std::pair(2, 2), std::pair(4, 4),
                                           std::pair(1, 2), std::pair(2, 1), std::pair(4, 2),
                                           std::pair(2, 4)));

TEST_F(Checkpoint, WithoutMomentsLeavesThemEmpty) {
  const Tensors written = Write(1, 7, false);
  Tensors read;
  ASSERT_TRUE(Load(PrunedLayout(1), 1, &read).ok());
  EXPECT_EQ(read, written);
  EXPECT_TRUE(read.at("model.norm.weight.m1").empty());
}

TEST_F(Checkpoint, FlippedByteIsDataLossThatNamesTheFileAndChangesNothing) {
  Write(2);
  const std::string name = RankFileName(1, 2);
  FlipByte(Path() + "/" + name, static_cast<int64_t>(fs::file_size(Path() + "/" + name)) - 3);
  EXPECT_TRUE(ReadCheckpointState(Path()).ok());  // sizes are right: only reading the file can tell
  Tensors before, after;
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model =
        MakeModel<float>(TinyConfig(RouterKind::kSigmoid), PrunedLayout(1), communicator, 1, 99);
    Collect(*model, &before);
    const absl::Status status = LoadCheckpoint(*model, Path());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    Collect(*model, &after);
  });
  EXPECT_EQ(before, after);
}

TEST_F(Checkpoint, FlippedByteOfTheManifestIsDataLoss) {
  Write(1);
  const std::string manifest = Path() + "/manifest.json";
  const int64_t size = static_cast<int64_t>(fs::file_size(manifest));
  for (int64_t offset = 0; offset < size; offset += 7) {
    FlipByte(manifest, offset);
    const auto state = ReadCheckpointState(Path());
    // A flip between blank and blank-like bytes may leave the same content; anything else must be
    // noticed.
    if (!state.ok()) {
      EXPECT_EQ(state.status().code(), absl::StatusCode::kDataLoss) << offset;
      EXPECT_THAT(std::string(state.status().message()), HasSubstr("manifest.json"));
    } else {
      EXPECT_EQ(state->step, 7) << offset;
      EXPECT_EQ(state->layout, PrunedLayout(1)) << offset;
    }
    FlipByte(manifest, offset);
  }
  EXPECT_TRUE(ReadCheckpointState(Path()).ok());
}

TEST_F(Checkpoint, TruncatedOrMissingFileIsDataLossThatNamesIt) {
  Write(2);
  const std::string name = RankFileName(0, 2), file = Path() + "/" + name;
  fs::resize_file(file, fs::file_size(file) - 1);
  for (const absl::Status& status :
       {ReadCheckpointState(Path()).status(), Load(PrunedLayout(2), 2, nullptr)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
  fs::remove(file);
  for (const absl::Status& status :
       {ReadCheckpointState(Path()).status(), Load(PrunedLayout(2), 2, nullptr)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
  fs::remove(Path() + "/manifest.json");
  EXPECT_EQ(ReadCheckpointState(Path()).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReadCheckpointState(Path(8)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Checkpoint, RefusesAModelWithOtherExpertsOrAnotherShape) {
  Write(1);
  ExpertLayout other = PrunedLayout(1);
  other.layers[1] = {.ids = {0, 1, 4}, .ranks = {0, 0, 0}, .masked = {0, 0, 0}};
  const absl::Status status = Load(other, 1, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1"));
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    ModelConfig config = TinyConfig(RouterKind::kSoftmax);
    auto model = MakeModel<float>(config, PrunedLayout(1), communicator);
    EXPECT_EQ(LoadCheckpoint(*model, Path()).code(), absl::StatusCode::kFailedPrecondition);
    // Nor is a checkpoint written whose manifest would describe another model.
    CheckpointState state = StateOf(*model, 8);
    state.layout.layers[1].masked[0] = 1;
    state.layout.layers[1].masked[1] = 0;
    EXPECT_EQ(WriteCheckpoint(*model, state, Path(8)).code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_FALSE(fs::exists(Path(8)));
  });
}

TEST_F(Checkpoint, ExistingFolderIsNeverOverwritten) {
  const Tensors written = Write(1);
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model =
        MakeModel<float>(TinyConfig(RouterKind::kSigmoid), PrunedLayout(1), communicator, 1, 4);
    EXPECT_EQ(WriteCheckpoint(*model, StateOf(*model, 7), Path()).code(),
              absl::StatusCode::kAlreadyExists);
  });
  Tensors read;
  ASSERT_TRUE(Load(PrunedLayout(1), 1, &read).ok());
  EXPECT_EQ(read, written);
}

// Writes with 2 ranks under `folder` and expects the same error everywhere and no trace of it.
void ExpectFullDisk(const fs::path& folder) {
  std::mutex mutex;
  std::vector<absl::Status> errors;
  OnRanks(2, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(TinyConfig(RouterKind::kSigmoid), PrunedLayout(2), communicator);
    Perturb(*model);
    const absl::Status status =
        WriteCheckpoint(*model, StateOf(*model, 9), folder / CheckpointName(9));
    std::lock_guard<std::mutex> lock(mutex);
    errors.push_back(status);
  });
  ASSERT_EQ(errors.size(), 2);
  EXPECT_EQ(errors[0].code(), absl::StatusCode::kResourceExhausted) << errors[0];
  EXPECT_THAT(std::string(errors[0].message()),
              AllOf(HasSubstr("rank-0000"), HasSubstr("free space")));
  EXPECT_EQ(errors[0], errors[1]);
  EXPECT_FALSE(fs::exists(folder / CheckpointName(9)));
  EXPECT_FALSE(fs::exists(folder / (CheckpointName(9) + ".tmp")));
}

TEST_F(Checkpoint, FileThatCannotGrowIsTheSameErrorOnEveryRankAndLeavesTheOlderOne) {
  const Tensors written = Write(2);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  ExpectFullDisk(folder_);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(NewestCheckpoint(folder_), Path());
  Tensors read;
  ASSERT_TRUE(Load(PrunedLayout(2), 2, &read).ok());
  EXPECT_EQ(read, written);
}

TEST_F(Checkpoint, FullDiskLeavesNothingBehind) {
  const fs::path disk = folder_ / "disk";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=20k") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root";
  }
  ExpectFullDisk(disk);
  EXPECT_EQ(umount2(disk.c_str(), MNT_DETACH), 0);
}

TEST_F(Checkpoint, InterruptedWriteLeavesTheOlderCheckpointInUse) {
  Write(1, 7);
  fs::create_directories(Path(9) + ".tmp");  // killed before the manifest
  std::ofstream(Path(9) + ".tmp/" + RankFileName(0, 1)) << "half";
  EXPECT_EQ(NewestCheckpoint(folder_), Path(7));
  EXPECT_TRUE(PruneCheckpoints(folder_, 1).ok());
  EXPECT_TRUE(fs::exists(Path(9) + ".tmp"));  // newer than the newest: may be in progress
  Write(1, 9);                                // the next write clears it away
  EXPECT_EQ(NewestCheckpoint(folder_), Path(9));
}

TEST_F(Checkpoint, NewestSkipsDamagedOnesAndPruningKeepsTheNewestComplete) {
  for (const uint64_t step : {5, 7, 9, 100}) Write(1, step);
  fs::remove(Path(100) + "/" + RankFileName(0, 1));
  fs::create_directories(Path(6) + ".tmp");
  fs::create_directories(folder_ / "notes");
  EXPECT_EQ(NewestCheckpoint(folder_), Path(9));
  ASSERT_TRUE(PruneCheckpoints(folder_, 2).ok());
  EXPECT_FALSE(fs::exists(Path(5)));
  EXPECT_FALSE(fs::exists(Path(6) + ".tmp"));
  EXPECT_TRUE(ReadCheckpointState(Path(7)).ok());
  EXPECT_TRUE(ReadCheckpointState(Path(9)).ok());
  EXPECT_TRUE(fs::exists(folder_ / "notes"));
  EXPECT_EQ(NewestCheckpoint((folder_ / "none").string()), "");
}

TEST(FitLayout, KeepsALayoutThatUsesTheRanksAndElseSharesEqually) {
  const ExpertLayout layout = PrunedLayout(2);
  EXPECT_EQ(FitLayout(layout, 2), layout);
  const ExpertLayout wide = FitLayout(layout, 3);
  EXPECT_EQ(wide.layers[1].ranks, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(wide.layers[2].ranks, (std::vector<int>{0, 0, 1, 2}));
  EXPECT_EQ(wide.layers[1].masked, layout.layers[1].masked);
  EXPECT_EQ(FitLayout(layout, 1).layers[2].ranks, (std::vector<int>{0, 0, 0, 0}));
  EXPECT_EQ(FitLayout(layout, 8).layers[1].ranks, (std::vector<int>{0, 1, 2}));
}

}  // namespace
}  // namespace espalier::model

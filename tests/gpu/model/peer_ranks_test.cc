// Goal: ranks that exchange through device memory train as those that go through the host: in fp32 the same bits, with uneven layouts, moves, prunes,
// unequal batches and recomputation; a rank that is killed ends the others' step soon. Method: threads of this process, and processes of their own
// (this program again, joined by TCP links and CUDA IPC), on one GPU.
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"
#include "libs/model/model.h"
#include "libs/train/optimizer.h"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

#define SKIP_WITHOUT_GPU() \
  if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "no GPU on this machine"

constexpr int kSteps = 8;

ModelConfig Config(bool bf16) {
  ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  config.experts = 8;
  config.aux_loss = 0.01;
  if (bf16) {
    config.vocabulary = 128;
    config.width = 128;
    config.heads = config.kv_heads = 2;
    config.head_dim = 64;
    config.expert_width = config.shared_expert_width = config.dense_width = 64;
    config.init_std = 0.05;
  }
  return config;
}

// Rank r gets (r + 1) sequences of its own length, the last rank none in every third step.
Batch BatchOf(const ModelConfig& config, int rank, int ranks, int step) {
  if (ranks > 1 && rank == ranks - 1 && step % 3 == 2) return RandomBatch({}, config.vocabulary, 1);
  return RandomBatch(std::vector<int>(rank + 1, 9 + 5 * rank), config.vocabulary, 100 * step + rank);
}

// Uneven: most of the experts on rank 0, differently by layer.
ExpertLayout Uneven(ExpertLayout layout, int ranks, int shift) {
  for (size_t l = 0; l < layout.layers.size(); ++l) {
    for (size_t i = 0; i < layout.layers[l].ranks.size(); ++i) {
      layout.layers[l].ranks[i] = i < 4 ? 0 : static_cast<int>((i + l + shift) % ranks);
    }
  }
  return layout;
}

struct Figures {
  std::vector<double> losses, norms;
  std::vector<LayerOutputNorms> output_norms;
  double exposed = 0;
  absl::Status status;
};

// Called before a step, and when its backward pass is on the device but not reduced yet.
using Hook = std::function<void(int step, bool reduce)>;

absl::Status RunSteps(Model<float>& model, collective::Communicator& communicator, int steps, const Hook& hook,
                      Figures* figures) {
  const ModelConfig config = model.config();
  train::Optimizer optimizer(model);
  v1::OptimizerSpec spec;
  spec.set_beta1(0.9);
  spec.set_beta2(0.95);
  spec.set_epsilon(1e-8);
  spec.set_weight_decay(0.1);
  const int rank = communicator.rank(), ranks = communicator.size();
  model.MeasureOutputNorms(true);
  for (int step = 0; step < steps; ++step) {
    if (hook) hook(step, false);
    if (step == 0 || step == 3) {
      RETURN_IF_ERROR(model.ApplyLayout(Uneven(model.layout(), ranks, step)).status());
      optimizer.ParametersChanged();
    }
    if (step == 5) {
      ExpertLayout layout = model.layout();
      LayerLayout& layer = layout.layers[1];
      layer.ids.erase(layer.ids.begin() + 5);
      layer.ranks.erase(layer.ranks.begin() + 5);
      layer.masked.erase(layer.masked.begin() + 5);
      layout.layers[2].masked[6] = 1;
      RETURN_IF_ERROR(model.ApplyLayout(layout).status());
      optimizer.ParametersChanged();
    }
    const Batch batch = BatchOf(config, rank, ranks, step);
    const std::vector<float> slopes(batch.tokens.size(), -0.01f);
    std::vector<float> logps;
    model.ZeroGradients();
    RETURN_IF_ERROR(model.ForwardBackwardLinear(batch, slopes, 0.5f, &logps));
    if (hook) hook(step, true);
    RETURN_IF_ERROR(optimizer.ReduceDense());
    ASSIGN_OR_RETURN(const train::Optimizer::SquaredNorms norms, optimizer.MeasureNorms());
    RETURN_IF_ERROR(optimizer.Apply(spec, 1e-3, step + 1, 1.0));
    double loss = 0;
    for (const float logp : logps) loss -= logp;
    figures->losses.push_back(loss);
    figures->norms.push_back(norms.dense);
    if (!std::isfinite(loss)) return absl::InternalError("a loss is not finite");
  }
  figures->output_norms = model.output_norms();
  figures->exposed = model.phase_seconds().exposed;
  return communicator.Barrier();
}

std::vector<Figures> RunThreads(int ranks, ModelOptions options) {
  options.device = Device::kCuda;
  std::vector<Figures> all(ranks);
  const ModelConfig config = Config(options.precision == Precision::kBf16);
  OnRanks(ranks, [&](int rank, collective::Communicator& communicator) {
    all[rank].status = [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto model, CreateModel(config, InitialLayout(config, ranks), &communicator, 7, options));
      return RunSteps(*model, communicator, kSteps, nullptr, &all[rank]);
    }();
    if (!all[rank].status.ok()) communicator.Abort(all[rank].status);
  });
  for (const Figures& figures : all) EXPECT_TRUE(figures.status.ok()) << figures.status;
  return all;
}

class PeerRanks : public ::testing::TestWithParam<int> {};

TEST_P(PeerRanks, TrainBitForBitLikeRanksThatGoThroughTheHost) {
  SKIP_WITHOUT_GPU();
  const auto host = RunThreads(GetParam(), {.peer_memory = false});
  const auto peers = RunThreads(GetParam(), {});
  const auto recomputed = RunThreads(GetParam(), {.recompute = true});
  std::vector<LayerOutputNorms> host_norms, peer_norms;
  for (int rank = 0; rank < GetParam(); ++rank) {
    EXPECT_EQ(host[rank].losses, peers[rank].losses) << rank;
    EXPECT_EQ(host[rank].norms, peers[rank].norms) << rank;
    EXPECT_EQ(host[rank].losses, recomputed[rank].losses) << rank;
    EXPECT_EQ(0, host[rank].exposed);
    EXPECT_GT(peers[rank].exposed, 0);
    for (const auto& [from, to] : {std::pair(&host, &host_norms), std::pair(&peers, &peer_norms)}) {
      const auto& norms = (*from)[rank].output_norms;
      to->resize(norms.size());
      for (size_t l = 0; l < norms.size(); ++l) {
        (*to)[l].resize(norms[l].size());
        for (size_t i = 0; i < norms[l].size(); ++i) (*to)[l][i] += norms[l][i];
      }
    }
  }
  EXPECT_EQ(host_norms, peer_norms);  // in all; each rank adds its experts' instead of its tokens'
}

TEST_P(PeerRanks, TrainInBf16WithinItsRounding) {
  SKIP_WITHOUT_GPU();
  const auto host = RunThreads(GetParam(), {.precision = Precision::kBf16, .peer_memory = false});
  const auto peers = RunThreads(GetParam(), {.precision = Precision::kBf16});
  for (int rank = 0; rank < GetParam(); ++rank) {
    for (int step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(peers[rank].losses[step], host[rank].losses[step], 1e-2 * host[rank].losses[step] + 1e-6)
          << rank << " " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, PeerRanks, ::testing::Values(2, 4));

// ---- ranks as processes

std::string Shared(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path + ".tmp") << text;
  std::filesystem::rename(path + ".tmp", path);
}

std::string WaitForFile(const std::string& path) {
  for (const absl::Time end = absl::Now() + absl::Seconds(60); absl::Now() < end;) {
    if (std::filesystem::exists(path)) {
      std::string text;
      std::getline(std::ifstream(path), text);
      return text;
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  return "";
}

// One rank; started by the tests below.
TEST(PeerProcess, Rank) {
  const std::string folder = Shared("ESPALIER_PEER_FOLDER");
  if (folder.empty()) GTEST_SKIP() << "runs as a process of the tests beside it";
  const int rank = std::stoi(Shared("ESPALIER_PEER_RANK")), ranks = std::stoi(Shared("ESPALIER_PEER_RANKS"));
  const std::string dies = rank == 1 ? Shared("ESPALIER_PEER_DIES") : "";
  const auto listener = collective::LinkListener::Bind("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << listener.status();
  WriteFile(absl::StrCat(folder, "/endpoint", rank), (*listener)->endpoint());
  collective::LinkOptions links{.rank = rank, .key = "peers"};
  for (int r = 0; r < ranks; ++r) links.peers.push_back(WaitForFile(absl::StrCat(folder, "/endpoint", r)));
  auto communicator = collective::ConnectLinks(**listener, links);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  const ModelConfig config = Config(false);
  Figures figures;
  absl::Time started;
  const absl::Status status = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto model, CreateModel(config, InitialLayout(config, ranks), communicator->get(), 7,
                                                   {.device = Device::kCuda}));
    return RunSteps(*model, **communicator, kSteps,
                    [&](int step, bool reduce) {
                      // Before a step: the others' hosts miss it. Before the reduction: their devices wait for its flag.
                      if (step == 4 && dies == (reduce ? "reduce" : "step")) {
                        absl::SleepFor(absl::Milliseconds(500));
                        kill(getpid(), SIGKILL);
                      }
                      started = absl::Now();
                    },
                    &figures);
  }();
  std::string text = status.ok() ? "ok" : absl::StrCat(absl::StatusCodeToString(status.code()), " after ",
                                                       absl::ToInt64Seconds(absl::Now() - started), " s: ", status.message());
  for (const double loss : figures.losses) absl::StrAppend(&text, absl::StrFormat(" %a", loss));
  if (figures.exposed > 0) text += " exposed";
  WriteFile(absl::StrCat(folder, "/result", rank), text);
}

// What each rank wrote; "" for one that died, which rank 1 does where `dies` says.
std::vector<std::string> RunProcesses(int ranks, const std::string& dies) {
  std::string folder = ::testing::TempDir() + "/peersXXXXXX";
  EXPECT_NE(nullptr, mkdtemp(folder.data()));
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<std::string> texts = {absl::StrCat("ESPALIER_PEER_FOLDER=", folder), absl::StrCat("ESPALIER_PEER_RANK=", rank),
                                      absl::StrCat("ESPALIER_PEER_RANKS=", ranks), absl::StrCat("ESPALIER_PEER_DIES=", dies)};
    std::vector<char*> environment;
    for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
    for (std::string& text : texts) environment.push_back(text.data());
    environment.push_back(nullptr);
    std::string program = std::filesystem::read_symlink("/proc/self/exe"), filter = "--gtest_filter=PeerProcess.Rank",
                output = "--gtest_output=";
    char* arguments[] = {program.data(), filter.data(), output.data(), nullptr};
    pid_t process = 0;
    EXPECT_EQ(0, posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments, environment.data()));
    processes.push_back(process);
  }
  std::vector<std::string> results;
  for (int rank = 0; rank < ranks; ++rank) {
    int code = 0;
    EXPECT_EQ(processes[rank], waitpid(processes[rank], &code, 0));
    const std::string path = absl::StrCat(folder, "/result", rank);
    results.push_back(std::filesystem::exists(path) ? WaitForFile(path) : "");
    std::printf("rank %d: %s\n", rank, results.back().c_str());
  }
  std::filesystem::remove_all(folder);
  return results;
}

TEST_P(PeerRanks, AsProcessesGiveTheBitsOfThreads) {
  SKIP_WITHOUT_GPU();
  const auto host = RunThreads(GetParam(), {.peer_memory = false});
  const auto results = RunProcesses(GetParam(), "");
  for (int rank = 0; rank < GetParam(); ++rank) {
    std::string want = "ok";
    for (const double loss : host[rank].losses) absl::StrAppend(&want, absl::StrFormat(" %a", loss));
    EXPECT_EQ(want + " exposed", results[rank]);
  }
}

TEST(PeerProcess, AKilledRankEndsTheOthersStep) {
  SKIP_WITHOUT_GPU();
  for (const char* dies : {"step", "reduce"}) {
    const auto results = RunProcesses(2, dies);
    EXPECT_EQ("", results[1]);
    EXPECT_TRUE(results[0].starts_with("UNAVAILABLE after ")) << results[0];
    EXPECT_LT(std::atoi(results[0].c_str() + 18), 20) << results[0];  // far below the limit of a wait
    EXPECT_NE(std::string::npos, results[0].find("rank 1")) << results[0];
    EXPECT_EQ(dies == std::string("reduce"), results[0].find("device memory") != std::string::npos) << results[0];
  }
}

// More ranks than windows are made for: all agree on the host.
TEST(PeerProcess, NineRanksGoThroughTheHost) {
  SKIP_WITHOUT_GPU();
  for (const Figures& figures : RunThreads(9, {})) {
    EXPECT_EQ(kSteps, static_cast<int>(figures.losses.size()));
    EXPECT_EQ(0, figures.exposed);
  }
}

}  // namespace
}  // namespace espalier::model

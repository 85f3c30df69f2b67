// Goal: whatever the network and the processes do, every step that the fleet took is recorded once
// and as it was drawn. Method: small simulated fleets against a real coordinator process, with
// streams cut and workers replaced.
#include <cstdlib>

#include "gtest/gtest.h"
#include "services/fleetsim/simulation.h"

namespace espalier::fleetsim {
namespace {

SimulationOptions Small(uint64_t seed) {
  const char* bin = std::getenv("ESPALIER_BIN");
  SimulationOptions options;
  options.spawn_coordinator =
      std::string(bin == nullptr ? "build/release/bin" : bin) + "/espalier-coordinator";
  options.lease_seconds = 2;
  options.workers = 20;
  options.ranks_per_run = 8;  // 8, 8 and 4
  options.layers = 4;
  options.experts = 32;
  options.top_k = 4;
  options.step_seconds = 0.05;
  options.steps = 100;
  options.seed = seed;
  options.phase_change_step = 30;
  options.checkpoint_every = 10;
  options.check_layers = 0;
  return options;
}

SimulationResult Play(const SimulationOptions& options) {
  Simulation simulation(options, [](const std::string& line) { std::puts(line.c_str()); });
  auto result = simulation.Run();
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {};
  SCOPED_TRACE(ToText(options, *result));
  EXPECT_TRUE(result->ok());
  EXPECT_EQ(result->reports_lost, 0u);
  EXPECT_EQ(result->runs.size(), 3u);
  for (const RunOutcome& run : result->runs) {
    EXPECT_EQ(run.state, "COMPLETED") << run.detail;
    EXPECT_EQ(run.recorded_steps, options.steps);
    EXPECT_EQ(run.values_wrong, 0u);
    EXPECT_EQ(run.values_compared, options.steps * options.layers * options.experts);
  }
  return *std::move(result);
}

TEST(Fleet, LosesNothingWhileStreamsBreakAndWorkersAreReplaced) {
  SimulationOptions options = Small(1);
  options.disconnect_rate = 0.1;
  options.cut = {"0@0.7", "1@0.7", "9@1.3"};
  options.restart = {"3@1.5", "12@2.5"};
  const SimulationResult result = Play(options);
  EXPECT_GE(result.stats.disconnects, 3u);
  EXPECT_EQ(result.stats.restarts, 2u);
  EXPECT_GE(result.stats.reattached, 3u);
  uint64_t epochs = 0;
  for (const RunOutcome& run : result.runs) epochs += run.epochs;
  EXPECT_GT(epochs, result.runs.size()) << "a replaced worker begins an epoch";
  EXPECT_GT(result.stats.kept_max, 1u) << "reports are kept while a stream is broken";
  // Steps since a checkpoint are retaken: none, where a worker goes just after one was written.
  EXPECT_GE(result.stats.reports_said, 20 * options.steps);
  EXPECT_FALSE(result.decisions.empty()) << "stable loads are pruned and placed";
  for (const DecisionOutcome& decision : result.decisions)
    EXPECT_NE(decision.state, "FAILED") << decision.error;
  EXPECT_EQ(result.stats.commands_refused, 0u);
}

TEST(Fleet, SameSeedGivesTheSameRecordWhateverBreaks) {
  // When a prune takes effect is a matter of timing; without prunes the loads are the seed's alone.
  SimulationOptions options = Small(2);
  options.prune = false;
  options.steps = 60;
  const SimulationResult calm = Play(options);
  options.cut = {"2@0.5", "11@0.9", "19@1.2"};
  options.restart = {"5@1.1"};
  const SimulationResult rough = Play(options);
  options.seed = 3;
  const SimulationResult other = Play(options);
  ASSERT_EQ(calm.runs.size(), rough.runs.size());
  for (size_t i = 0; i < calm.runs.size(); ++i) {
    EXPECT_EQ(calm.runs[i].digest, rough.runs[i].digest);
    EXPECT_NE(calm.runs[i].digest, other.runs[i].digest);
  }
}

TEST(Fleet, SaysWhatIsWrongWithItsFlags) {
  SimulationOptions options = Small(1);
  options.coordinator = "127.0.0.1:1";
  EXPECT_FALSE(Simulation(options, {}).Run().ok());
  options = Small(1);
  options.cut = {"3 at noon"};
  const auto refused = Simulation(options, {}).Run();
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("WORKER@SECONDS"), std::string::npos);
  options = Small(1);
  options.spawn_coordinator = "/bin/false";
  EXPECT_FALSE(Simulation(options, {}).Run().ok());
}

}  // namespace
}  // namespace espalier::fleetsim

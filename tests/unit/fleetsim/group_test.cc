// Goal: a command takes effect on all ranks after the same step, or on none, whatever order and
// delay the ranks hear it in; a recovery goes back to the checkpoint and replays.
#include "services/fleetsim/group.h"

#include <random>

#include "gtest/gtest.h"

namespace espalier::fleetsim {
namespace {

GroupOptions Options(uint32_t ranks, uint64_t steps = 1000) {
  GroupOptions options;
  options.run_id = "r";
  options.ranks = ranks;
  options.layers = 1;
  options.experts = 4 * ranks;
  options.top_k = 2;
  options.steps = steps;
  return options;
}

v1::Assignment Assign(uint64_t epoch, uint32_t rank, const std::string& checkpoint = "",
                      const std::vector<v1::Command>& commands = {}) {
  v1::Assignment assignment;
  assignment.set_run_id("r");
  assignment.set_epoch(epoch);
  assignment.set_rank(rank);
  assignment.set_checkpoint(checkpoint);
  for (const v1::Command& command : commands) *assignment.add_commands() = command;
  return assignment;
}

void EnterAll(Group* group, uint64_t epoch, const std::string& checkpoint = "",
              const std::vector<v1::Command>& commands = {}) {
  for (uint32_t rank = 0; rank < group->options().ranks; ++rank)
    ASSERT_TRUE(group->Enter(Assign(epoch, rank, checkpoint, commands)).ok());
  ASSERT_TRUE(group->whole());
}

v1::Command Evaluate(uint64_t sequence) {
  v1::Command command;
  command.set_sequence(sequence);
  command.mutable_evaluate();
  return command;
}

// Keeps the first `kept` experts, on rank 0.
v1::Command Prune(uint64_t sequence, uint32_t kept) {
  v1::Command command;
  command.set_sequence(sequence);
  v1::LayerLayout* layer = command.mutable_set_layout()->add_layers();
  for (uint32_t expert = 0; expert < kept; ++expert) {
    layer->add_experts(expert);
    layer->add_ranks(0);
  }
  return command;
}

v1::Command Of(uint64_t sequence, void (*set)(v1::Command*)) {
  v1::Command command;
  command.set_sequence(sequence);
  set(&command);
  return command;
}

TEST(Group, TakesNoStepUntilEveryRankIsThere) {
  Group group(Options(3));
  ASSERT_TRUE(group.Enter(Assign(1, 0)).ok());
  ASSERT_TRUE(group.Enter(Assign(1, 2)).ok());
  EXPECT_FALSE(group.whole());
  ASSERT_TRUE(group.Enter(Assign(1, 1)).ok());
  EXPECT_TRUE(group.whole());
  group.Leave(1, 2);
  EXPECT_FALSE(group.whole());
  ASSERT_TRUE(group.Enter(Assign(1, 2)).ok());
  EXPECT_FALSE(group.whole()) << "an epoch that lost a rank is over";
  EnterAll(&group, 2);
  group.Leave(1, 0);
  EXPECT_TRUE(group.whole()) << "words of an older epoch change nothing";
}

TEST(Group, AppliesACommandWhenTheLastRankHoldsIt) {
  Group group(Options(3));
  EnterAll(&group, 1);
  group.Advance();
  group.Receive(1, 0, Evaluate(1));
  group.Receive(1, 1, Evaluate(1));
  EXPECT_TRUE(group.Advance().applied.empty());
  group.Receive(1, 2, Evaluate(2));  // ahead of what it lacks
  EXPECT_TRUE(group.Advance().applied.empty());
  group.Receive(1, 2, Evaluate(1));
  const Progress progress = group.Advance();
  ASSERT_EQ(progress.applied.size(), 1u) << "2 is not held by all";
  EXPECT_EQ(progress.applied[0].command.sequence(), 1u);
  EXPECT_EQ(progress.applied[0].step, 3u) << "right after the step that was complete by then";
}

TEST(Group, AppliesEverythingOnceInOrderUnderRandomDelays) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    constexpr uint32_t kRanks = 4;
    constexpr uint64_t kCommands = 20;
    Group group(Options(kRanks));
    EnterAll(&group, 1);
    std::vector<uint64_t> next(kRanks, 1);
    std::vector<uint64_t> applied;
    while (applied.size() < kCommands) {
      for (uint32_t rank = 0; rank < kRanks; ++rank) {
        while (next[rank] <= kCommands && random() % 3 == 0) {
          group.Receive(1, rank, Evaluate(next[rank]++));
          // A broken stream says some of it again.
          if (random() % 4 == 0) next[rank] -= std::min<uint64_t>(next[rank] - 1, random() % 3);
        }
      }
      const uint64_t held = *std::min_element(next.begin(), next.end());
      for (const Applied& one : group.Advance().applied) {
        applied.push_back(one.command.sequence());
        EXPECT_LT(one.command.sequence(), std::max<uint64_t>(held, kCommands + 1));
      }
    }
    for (uint64_t i = 0; i < kCommands; ++i) EXPECT_EQ(applied[i], i + 1);
  }
}

TEST(Group, PauseStopsStepsAndResumeIsHeardMeanwhile) {
  Group group(Options(1));
  EnterAll(&group, 1);
  group.Advance();
  group.Receive(1, 0, Of(1, [](v1::Command* c) { c->mutable_pause(); }));
  group.Advance();
  EXPECT_TRUE(group.paused());
  EXPECT_FALSE(group.Advance().stepped);
  const uint64_t step = group.step();
  group.Receive(1, 0, Of(2, [](v1::Command* c) { c->mutable_resume(); }));
  const Progress progress = group.Advance();
  EXPECT_TRUE(progress.stepped);
  EXPECT_EQ(group.step(), step + 1);
  ASSERT_EQ(progress.applied.size(), 1u);
  EXPECT_EQ(progress.applied[0].step, step);
}

TEST(Group, GoesBackToItsCheckpointAndReplaysAtTheSameStep) {
  Group group(Options(2));
  EnterAll(&group, 1);
  for (int i = 0; i < 3; ++i) group.Advance();
  for (uint32_t rank = 0; rank < 2; ++rank)
    group.Receive(1, rank, Of(1, [](v1::Command* c) { c->mutable_checkpoint(); }));
  Progress progress = group.Advance();
  ASSERT_EQ(progress.applied.size(), 1u);
  const std::string checkpoint = progress.applied[0].path;
  ASSERT_EQ(progress.applied[0].step, 3u);
  for (uint32_t rank = 0; rank < 2; ++rank) group.Receive(1, rank, Prune(2, 5));
  group.Advance();
  group.Advance();
  EXPECT_EQ(group.step(), 6u);
  EXPECT_EQ(group.LayoutAt(4)->rank(0, 7), 1);
  EXPECT_EQ(group.LayoutAt(5)->rank(0, 7), -1) << "applied right after step 4";

  v1::Command first = Of(1, [](v1::Command* c) { c->mutable_checkpoint(); });
  first.set_applied_step(3);
  v1::Command second = Prune(2, 5);
  second.set_applied_step(4);
  EnterAll(&group, 2, checkpoint, {first, second});
  EXPECT_EQ(group.step(), 3u);
  progress = group.Advance();
  EXPECT_EQ(group.step(), 4u);
  ASSERT_EQ(progress.applied.size(), 1u) << "the checkpoint is contained, the prune is not";
  EXPECT_EQ(progress.applied[0].command.sequence(), 2u);
  EXPECT_EQ(progress.applied[0].step, 4u);
  EXPECT_EQ(group.LayoutAt(5)->rank(0, 7), -1);
  EXPECT_FALSE(group.Enter(Assign(3, 0, "elsewhere")).ok()) << "no such checkpoint";
}

TEST(Group, APinnedCheckpointOutlivesTheRotation) {
  GroupOptions options = Options(1);
  options.checkpoint_every = 1;
  options.checkpoints_kept = 2;
  Group group(options);
  EnterAll(&group, 1);
  group.Receive(1, 0, Of(1, [](v1::Command* c) { c->mutable_checkpoint()->set_pin(true); }));
  const std::string pinned = group.Advance().applied[0].path;
  std::string newest;
  for (int i = 0; i < 5; ++i) newest = group.Advance().checkpoint;
  ASSERT_TRUE(group.Enter(Assign(2, 0, pinned)).ok());
  EXPECT_EQ(group.step(), 0u);
  ASSERT_TRUE(group.Enter(Assign(3, 0, newest)).ok());
  v1::Command unpin;
  unpin.set_sequence(2);
  unpin.mutable_checkpoint()->set_unpin(pinned);
  group.Receive(3, 0, Of(1, [](v1::Command* c) { c->mutable_checkpoint(); }));
  group.Receive(3, 0, unpin);
  group.Advance();
  EXPECT_FALSE(group.Enter(Assign(4, 0, pinned)).ok());
}

TEST(Group, ARefusedOrderChangesNothing) {
  Group group(Options(1));
  EnterAll(&group, 1);
  const auto before = group.LayoutAt(1);
  group.Receive(1, 0, Prune(1, 1));  // fewer than top_k
  const Progress progress = group.Advance();
  EXPECT_FALSE(progress.applied[0].error.empty());
  EXPECT_EQ(group.LayoutAt(2), before);
  EXPECT_EQ(group.last_applied_sequence(), 1u) << "it keeps its place in the order";
}

TEST(Group, EndsAtItsLastStepOrWhenStopped) {
  Group done(Options(1, 2));
  EnterAll(&done, 1);
  EXPECT_FALSE(done.Advance().completed);
  EXPECT_TRUE(done.Advance().completed);
  EXPECT_TRUE(done.over());
  Group stopped(Options(1));
  EnterAll(&stopped, 1);
  stopped.Receive(1, 0, Of(1, [](v1::Command* c) { c->mutable_stop(); }));
  const Progress progress = stopped.Advance();
  EXPECT_TRUE(progress.stopped);
  EXPECT_FALSE(progress.applied[0].path.empty()) << "a checkpoint comes first";
}

}  // namespace
}  // namespace espalier::fleetsim

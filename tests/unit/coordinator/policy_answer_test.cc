// Goal: a policy's answer becomes a plan only when it is safe to command, and what is wrong with one is named. Method: one good answer,
// and each fault by itself.
#include "services/coordinator/policy_answer.h"

#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

using ::testing::HasSubstr;

// Two layers of eight experts on two ranks; layer 1 may not be pruned; expert 7 is protected.
PlanInput Input() {
  PlanInput input;
  input.model.set_experts(8);
  input.model.set_top_k(2);
  input.model.set_width(16);
  input.model.set_expert_width(8);
  input.rank_count = 2;
  input.prunable = {0};
  input.prune.set_keep_min(4);
  input.prune.set_keep_multiple_of(2);
  input.prune.add_protected_experts(7);
  input.placement.set_extra_slots(1);
  input.placement.set_moves_max_share(0.5);
  input.placement.set_bytes_per_second(1e9);
  input.first_step = 11;
  input.last_step = 20;
  for (int layer = 0; layer < 2; ++layer) {
    planner::LayerState state;
    state.layer = layer;
    for (int expert = 0; expert < 8; ++expert) {
      state.experts.push_back(expert);
      state.ranks.push_back(expert / 4);
      state.loads.push_back(100 - 10 * expert);
    }
    input.layers.push_back(state);
  }
  return input;
}

v1::LayerLayout Layer(uint32_t layer, const std::vector<std::pair<uint32_t, uint32_t>>& placed) {
  v1::LayerLayout layout;
  layout.set_layer(layer);
  for (const auto& [expert, rank] : placed) {
    layout.add_experts(expert);
    layout.add_ranks(rank);
  }
  return layout;
}

TEST(PolicyAnswer, AGoodOneIsCertified) {
  v1::DecidePlanResponse answer;
  // In any order; 5 and 6 go, 1 moves to rank 1.
  *answer.add_layers() = Layer(0, {{7, 1}, {0, 0}, {1, 1}, {2, 0}, {3, 0}, {4, 1}});
  const auto plan = PlanOfAnswer(Input(), answer);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->empty());
  EXPECT_EQ(plan->experts_pruned(), 2u);
  EXPECT_EQ(plan->experts_moved(), 1u);
  ASSERT_EQ(plan->layout().layers_size(), 2);
  EXPECT_EQ(plan->layout().layers(0).experts_size(), 6);
  EXPECT_EQ(plan->layout().layers(0).ranks(1), 1u);
  EXPECT_EQ(plan->layout().layers(1).experts_size(), 8) << "not named: as it is";
  // Loads kept 100 90 80 70 60 30: rank 0 has 250 of 430, before 340 of 520.
  EXPECT_NEAR(plan->layers(0).max_over_mean_before(), 340 / 260.0, 1e-9);
  EXPECT_NEAR(plan->layers(0).max_over_mean_after(), 250 / 215.0, 1e-9);
  EXPECT_NEAR(plan->layers(0).pruned_load_share(), 90 / 520.0, 1e-9);
  EXPECT_EQ(plan->first_step(), 11u);
}

TEST(PolicyAnswer, NothingNewIsAnEmptyPlanWithTheReason) {
  v1::DecidePlanResponse answer;
  answer.set_reason("all is well");
  auto plan = PlanOfAnswer(Input(), answer);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->empty());
  EXPECT_EQ(plan->reason(), "all is well");
  *answer.add_layers() =
      Layer(1, {{0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 1}, {5, 1}, {6, 1}, {7, 1}});
  plan = PlanOfAnswer(Input(), answer);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->empty());
}

TEST(PolicyAnswer, EveryFaultIsNamed) {
  const std::vector<std::pair<uint32_t, uint32_t>> all = {{0, 0}, {1, 0}, {2, 0}, {3, 0},
                                                          {4, 1}, {5, 1}, {6, 1}, {7, 1}};
  const std::vector<std::pair<v1::LayerLayout, const char*>> faults = {
      {Layer(5, all), "layer 5: the run has no such MoE layer"},
      {Layer(0, {{0, 0}, {1, 0}, {2, 2}, {7, 1}}), "expert 2 is put on rank 2; there are 2 ranks"},
      {Layer(0, {{0, 0}, {1, 0}, {1, 1}, {7, 1}}), "expert 1 is named twice"},
      {Layer(0, {{0, 0}, {1, 0}, {9, 1}, {7, 1}}), "expert 9 is not alive"},
      {Layer(0, {{0, 0}, {7, 1}}), "at least 4 must stay"},
      {Layer(0, {{0, 0}, {1, 0}, {2, 0}, {4, 1}, {7, 1}}), "prune.keep_multiple_of is 2"},
      {Layer(0, {{0, 0}, {1, 0}, {4, 1}, {5, 1}}), "expert 7 would go; prune.protected_experts"},
      {Layer(1, {{0, 0}, {1, 0}, {2, 0}, {4, 1}, {5, 1}, {7, 1}}), "may not be pruned now"},
      {Layer(0, {{0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {6, 1}, {7, 1}}),
       "rank 0 would hold 6 experts; an even share is 4 and placement.extra_slots is 1"},
      {Layer(0, {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 0}, {5, 0}, {6, 0}, {7, 0}}),
       "it would move 8 experts; placement.moves_max_share 0.5 allows 4"},
  };
  for (const auto& [layer, text] : faults) {
    v1::DecidePlanResponse answer;
    *answer.add_layers() = layer;
    const auto plan = PlanOfAnswer(Input(), answer);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(text));
  }
  v1::DecidePlanResponse answer;
  *answer.add_layers() = Layer(0, all);
  *answer.add_layers() = Layer(0, all);
  EXPECT_THAT(std::string(PlanOfAnswer(Input(), answer).status().message()),
              HasSubstr("named twice"));
  answer.mutable_layers()->RemoveLast();
  answer.set_no_change(true);
  EXPECT_THAT(std::string(PlanOfAnswer(Input(), answer).status().message()),
              HasSubstr("no_change"));
  answer.set_no_change(false);
  answer.mutable_layers(0)->mutable_ranks()->RemoveLast();
  EXPECT_THAT(std::string(PlanOfAnswer(Input(), answer).status().message()),
              HasSubstr("8 experts but 7 ranks"));
  answer.mutable_layers(0)->add_ranks(1);
  answer.mutable_layers(0)->add_masked(1);
  EXPECT_THAT(std::string(PlanOfAnswer(Input(), answer).status().message()), HasSubstr("masked"));
  answer.mutable_layers(0)->clear_masked();
  answer.mutable_layers(0)->set_ranks(0, 1);
  PlanInput still = Input();
  still.place = false;
  EXPECT_THAT(std::string(PlanOfAnswer(still, answer).status().message()),
              HasSubstr("placement.enabled is false"));
}

TEST(PolicyAnswer, TheQuestionHoldsWhatThePlannerKnows) {
  PlanInput input = Input();
  input.layers[0].scores = {8, 7, 6, 5, 4, 3, 2, 1};
  input.masked[1] = {3};
  input.step_seconds = 0.25;
  const v1::DecidePlanRequest question = ToQuestion(input);
  ASSERT_EQ(question.layers_size(), 2);
  EXPECT_TRUE(question.layers(0).prunable());
  EXPECT_FALSE(question.layers(1).prunable());
  EXPECT_EQ(question.layers(0).output_norms(0), 8);
  EXPECT_EQ(question.layers(1).output_norms_size(), 0);
  EXPECT_EQ(question.layers(1).masked(0), 3u);
  EXPECT_EQ(question.layers(0).keep_min(), 4u);
  EXPECT_EQ(question.step_seconds(), 0.25);
  EXPECT_EQ(question.bytes_per_second(), 1e9);
  EXPECT_EQ(question.expert_bytes(), 3 * 16 * 8 * 12);
}

}  // namespace
}  // namespace espalier::coordinator

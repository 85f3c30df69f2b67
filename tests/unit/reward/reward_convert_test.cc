// Goal: a preset means the same to a run's spec and to the service, and the reply says all that was
// found. Method: the conversion of the service against libs/spec's defaults and by hand.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/reward/presets.h"
#include "libs/spec/reward_options.h"
#include "libs/spec/spec.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

using testing::HasSubstr;

v1::RewardSpec Sized(const std::string& preset) {
  v1::RewardSpec spec;
  spec.set_preset(preset);
  spec.set_length_max(100);
  spec.set_length_target(50);
  return spec;
}

TEST(RewardConvert, EveryPresetSurvivesItsWayThroughASpec) {
  for (const Preset& preset : Presets()) {
    const absl::StatusOr<RewardOptions> options = ToOptions(Sized(preset.name));
    ASSERT_TRUE(options.ok()) << preset.name << ": " << options.status();
    EXPECT_EQ(preset.name, ConfigurationName(preset.name, *options));
    EXPECT_EQ(100, options->length_max);
    // As a run does: its defaults are filled before the worker sends the spec.
    v1::RunSpec run;
    *run.add_stages()->mutable_reinforce()->mutable_reward() = Sized(preset.name);
    spec::FillDefaults(&run);
    const absl::StatusOr<RewardOptions> later = ToOptions(run.stages(0).reinforce().reward());
    ASSERT_TRUE(later.ok()) << preset.name << ": " << later.status();
    EXPECT_EQ(preset.name, ConfigurationName(preset.name, *later));
    EXPECT_EQ(options->length_shaping, later->length_shaping);
  }
}

TEST(RewardConvert, GivenFieldsWinOverThePreset) {
  v1::RewardSpec spec;
  spec.set_preset("correctness/1");
  spec.set_accuracy_weight(0);
  spec.set_reflection_weight(0.5);
  const absl::StatusOr<RewardOptions> options = ToOptions(spec);
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(0, options->accuracy_weight);
  EXPECT_EQ(0.5, options->reflection_weight);
  EXPECT_EQ(0, options->answer_weight);
  EXPECT_THAT(ConfigurationName(spec.preset(), *options), HasSubstr("custom/"));
}

TEST(RewardConvert, BadRewardsAreNamed) {
  const auto error = [](const v1::RewardSpec& spec) {
    return std::string(ToOptions(spec).status().message());
  };
  v1::RewardSpec spec;
  spec.set_preset("rirm");
  for (const Preset& preset : Presets()) EXPECT_THAT(error(spec), HasSubstr(preset.name));
  EXPECT_THAT(error(spec), HasSubstr("reward.preset: found \"rirm\""));
  spec.set_preset("cosine/1");
  EXPECT_THAT(error(spec), HasSubstr("reward.length_max: found 0"));
  spec.set_preset("l1/1");
  EXPECT_THAT(error(spec), HasSubstr("reward.length_target: found 0"));
  spec.set_length_scale(-1);
  EXPECT_THAT(error(spec), HasSubstr("reward.length_scale: found -1"));
}

TEST(RewardConvert, TheReplyHoldsPlacesPartsAndTheGroup) {
  v1::ScoreBatchRequest request;
  request.set_reference("14");
  request.set_prompt("How many?");
  const std::string text = "9 + 5 = 14. The answer is 14. Wait, is it? Yes, 14. I am done.";
  request.add_traces()->set_text(text);
  request.add_traces()->set_text("The answer is 13.");
  const absl::StatusOr<v1::ScoreBatchResponse> response = ScoreBatch(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ("rirm-safe/1", response->configuration());
  const v1::Score& score = response->scores(0);
  const auto at = [&](const v1::Span& span) {
    return text.substr(span.begin(), span.end() - span.begin());
  };
  EXPECT_EQ("The answer is 14.", at(score.first_correct_span()));
  ASSERT_EQ(1, score.reflection_spans_size());
  EXPECT_EQ("Yes, 14.", at(score.reflection_spans(0)));
  ASSERT_EQ(1, score.hesitation_spans_size());
  EXPECT_EQ("Wait", at(score.hesitation_spans(0)));
  EXPECT_DOUBLE_EQ(1 - 29.0 / static_cast<double>(text.size()), score.tail_share());
  EXPECT_NEAR(score.raw_total() + score.parts().length(), score.total(), 1e-12);
  EXPECT_EQ(1, score.raw_parts().accuracy());
  EXPECT_TRUE(score.language_ok());
  EXPECT_EQ(1, score.advantage());
  EXPECT_EQ(-1, response->scores(1).advantage());
  const v1::GroupStatistics& group = response->group();
  EXPECT_EQ(2u, group.scored());
  EXPECT_EQ(0.5, group.pass_rate());
  EXPECT_FALSE(group.uniform());
  EXPECT_DOUBLE_EQ(score.tail_share(), group.mean_tail_share());
}

TEST(RewardConvert, AUniformGroupIsFlagged) {
  v1::ScoreBatchRequest request;
  request.set_reference("14");
  for (int i = 0; i < 3; ++i) request.add_traces()->set_text("The answer is 14.");
  const absl::StatusOr<v1::ScoreBatchResponse> response = ScoreBatch(request);
  ASSERT_TRUE(response.ok());
  EXPECT_TRUE(response->group().uniform());
  EXPECT_EQ(0, response->group().std_total());
  for (const v1::Score& score : response->scores()) EXPECT_EQ(0, score.advantage());
}

TEST(RewardConvert, AnAbsurdPromptIsRefused) {
  v1::ScoreTraceRequest request;
  request.set_reference("14");
  request.set_prompt(std::string(kTraceBytesMax + 1, 'x'));
  EXPECT_THAT(std::string(ScoreTrace(request).status().message()), HasSubstr("prompt: found"));
}

}  // namespace
}  // namespace espalier::reward

// Goal: a file of traces gets one answer a line, and a bad line stops nothing. Method: small files,
// their output parsed as JSON and their complaints read.
#include "services/cli/reward_jsonl.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::json;

struct Scored {
  std::vector<Json> out;
  std::vector<std::string> complaints;
  absl::StatusOr<JsonlCounts> counts;
};

Scored Score(const std::string& text, const v1::RewardSpec& reward = {}) {
  Scored run;
  run.counts = ScoreJsonl(
      text, reward, [&](const std::string& line) { run.out.push_back(Json::parse(line)); },
      [&](const std::string& problem) { run.complaints.push_back(problem); });
  return run;
}

v1::RewardSpec Preset(const std::string& name) {
  v1::RewardSpec reward;
  reward.set_preset(name);
  return reward;
}

TEST(RewardJsonl, BadLinesAreNamedAndTheRestIsScored) {
  const Scored run = Score(
      "{\"id\":\"a\",\"gold\":\"5\",\"trace\":\"The answer is 5.\"}\n"
      "no json\n"
      "[1]\n"
      "\n"
      "{\"id\":\"b\",\"trace\":\"5\"}\n"
      "{\"id\":\"c\",\"gold\":\"5\"}\n"
      "{\"id\":\"d\",\"gold\":\"\",\"trace\":\"5\"}\n"
      "{\"id\":\"e\",\"gold\":true,\"trace\":\"5\"}\n"
      "{\"id\":\"f\",\"gold\":5,\"trace\":\"5\",\"token_count\":-1}\n"
      "{\"id\":\"g\",\"gold\":5,\"trace\":\"5\",\"truncated\":1}\n"
      "{\"id\":{},\"gold\":5,\"trace\":\"5\"}\n"
      "{\"gold\":5,\"trace\":\"5\"}");
  ASSERT_TRUE(run.counts.ok());
  EXPECT_EQ(2, run.counts->scored);
  EXPECT_EQ(2, run.counts->correct);
  EXPECT_EQ(9, run.counts->bad);
  EXPECT_THAT(
      run.complaints,
      ElementsAre(HasSubstr("line 2: "), HasSubstr("line 3: found array"),
                  HasSubstr("line 5: gold: missing"), HasSubstr("line 6: trace: missing"),
                  HasSubstr("line 7: gold: empty"), HasSubstr("line 8: gold: found boolean"),
                  HasSubstr("line 9: token_count"), HasSubstr("line 10: truncated"),
                  HasSubstr("line 11: id")));
  ASSERT_EQ(2u, run.out.size());
  EXPECT_EQ("a", run.out[0]["id"]);
  EXPECT_EQ(12, run.out[1]["id"]) << "a line without an id has its number";
}

TEST(RewardJsonl, PlacesAreInCodePoints) {
  const Scored run = Score(
      "{\"id\":1,\"gold\":\"6\",\"trace\":\"每个 3 元。答案是6。等等，让我再检查。答案是6。\"}\n"
      "{\"id\":2,\"gold\":\"6\",\"trace\":\"I give up.\"}\n");
  ASSERT_EQ(2u, run.out.size());
  EXPECT_EQ(7, run.out[0]["first_correct"]);
  EXPECT_EQ(1, run.out[0]["restatements"]);
  EXPECT_EQ(1, run.out[0]["hesitations"]);
  EXPECT_GT(run.out[0]["share_after_first_correct"], 0.5);
  EXPECT_EQ("correct", run.out[0]["verdict"]);
  EXPECT_TRUE(run.out[1]["first_correct"].is_null());
  EXPECT_TRUE(run.out[1]["share_after_first_correct"].is_null());
  EXPECT_EQ("wrong", run.out[1]["verdict"]);
  const Json& parts = run.out[0]["components"];
  double sum = 0;
  for (const char* part : {"answer", "accuracy", "reflection", "length", "side"}) {
    sum += parts.at(part).get<double>();
  }
  EXPECT_DOUBLE_EQ(sum, run.out[0]["total"].get<double>());
}

TEST(RewardJsonl, LinesOfOnePromptAreAGroup) {
  const std::string group =
      "{\"prompt\":\"p\",\"gold\":5,\"trace\":\"The answer is 5.\",\"token_count\":10}\n"
      "{\"prompt\":\"p\",\"gold\":5,\"trace\":\"The answer is 5.\",\"token_count\":20}\n";
  const Scored together = Score(group, Preset("kimi/1"));
  EXPECT_EQ(1.25, together.out[0]["total"]);
  EXPECT_EQ(0.75, together.out[1]["total"]);
  const Scored apart = Score(
      "{\"gold\":5,\"trace\":\"The answer is 5.\",\"token_count\":10}\n"
      "{\"gold\":5,\"trace\":\"The answer is 5.\",\"token_count\":20}\n",
      Preset("kimi/1"));
  EXPECT_EQ(1, apart.out[0]["total"]) << "without a prompt each is by itself";
}

TEST(RewardJsonl, AWrongRewardIsRefusedBeforeAnyLine) {
  const Scored run = Score("{\"gold\":5,\"trace\":\"5\"}\n", Preset("rirm/9"));
  ASSERT_FALSE(run.counts.ok());
  EXPECT_THAT(run.counts.status().message(), HasSubstr("rirm-safe/1"));
  EXPECT_TRUE(run.out.empty());
  EXPECT_THAT(Score("", Preset("dapo/1")).counts.status().message(), HasSubstr("length_max"));
  EXPECT_TRUE(Score("").counts.ok());
}

}  // namespace
}  // namespace espalier::cli

// Goal: the reward's formulas, and that no form of bad trace pays. Method: traces of the reasoning
// task with parts worked out by hand, properties over all options, hostile traces last.
#include <chrono>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/reward/reward.h"
#include "libs/reward/shape.h"

namespace espalier::reward {
namespace {

using testing::DoubleNear;

constexpr char kWork[] = "12 + 7 = 19. 19 - 5 = 14. ";
constexpr char kSays[] = "The answer is 14.";

TraceScore ScoreOne(const std::string& trace, const RewardOptions& options = {},
                    const std::string& reference = "14") {
  return ScoreGroup(reference, {{trace, 0, false}}, options)[0];
}

std::string Rechecked(int times) {
  std::string trace = std::string(kWork) + kSays;
  for (int i = 0; i < times; ++i) trace += std::string(" Wait, let me check. ") + kWork + kSays;
  return trace;
}

TEST(ScoreGroup, AnUnreadableReferenceAbstainsWithTotalZero) {
  for (const TraceScore& score : ScoreGroup("\\frac{1}{", {{"The answer is 14."}, {""}}, {})) {
    EXPECT_EQ(Verdict::kAbstain, score.verification.verdict);
    EXPECT_EQ(0, score.total);
    EXPECT_FALSE(score.verification.reason.empty());
  }
}

TEST(ScoreGroup, ReflectionsCostARightTraceOneThirdEach) {
  for (int v = 0; v <= 5; ++v) {
    const TraceScore score = ScoreOne(Rechecked(v));
    EXPECT_EQ(v, score.reflections);
    EXPECT_EQ(v, score.hesitations);
    EXPECT_THAT(score.parts.reflection, DoubleNear(std::max(0.0, 1 - v / 3.0), 1e-12));
    EXPECT_EQ(1, score.parts.answer);
    EXPECT_EQ(1, score.parts.accuracy);
    EXPECT_TRUE(score.first_answer_correct);
  }
}

TEST(ScoreGroup, TailShareIsTheTextBehindTheFirstRightStatement) {
  EXPECT_EQ(0, *ScoreOne(Rechecked(0)).tail_share);
  const std::string trace = Rechecked(2);
  const double first = static_cast<double>((std::string(kWork) + kSays).size());
  EXPECT_THAT(*ScoreOne(trace).tail_share,
              DoubleNear(1 - first / static_cast<double>(trace.size()), 1e-12));
  EXPECT_FALSE(ScoreOne("The answer is 15.").tail_share.has_value());
}

TEST(ScoreGroup, ACorrectedSlipIsRightButNotAtFirst) {
  const TraceScore score = ScoreOne(
      "12 + 7 = 18. 18 - 5 = 13. The answer is 13. Hmm, let me verify. 12 + 7 = 19. 19 - 5 = 14. "
      "The answer is 14.");
  EXPECT_EQ(Verdict::kCorrect, score.verification.verdict);
  EXPECT_FALSE(score.first_answer_correct);
  EXPECT_EQ(0, score.reflections);
  EXPECT_EQ(1, score.parts.reflection);
  EXPECT_EQ(0, *score.tail_share);
}

TEST(ScoreGroup, ARightAnswerThatIsTakenBackIsWrong) {
  const TraceScore score =
      ScoreOne("The answer is 14. Wait. The answer is 14. No. The answer is 13.");
  EXPECT_EQ(Verdict::kWrong, score.verification.verdict);
  EXPECT_TRUE(score.first_answer_correct);
  EXPECT_EQ(1, score.reflections);
  EXPECT_THAT(score.parts.reflection, DoubleNear(-1 / 3.0, 1e-12));
  EXPECT_LT(score.total, 0);
}

TEST(ScoreGroup, NoStatementLosesAllThree) {
  const TraceScore score = ScoreOne("I do not know.");
  EXPECT_EQ(-1, score.parts.answer);
  EXPECT_EQ(-1, score.parts.accuracy);
  EXPECT_EQ(-1, score.parts.reflection);
  EXPECT_EQ("no_answer", score.verification.rule);
}

TEST(ScoreGroup, ATraceCutOffBeforeItsAnswerHasNone) {
  const TraceScore score = ScoreGroup("14", {{"12 + 2 = 14", 5, true}}, {})[0];
  EXPECT_FALSE(score.extraction.found);
  EXPECT_EQ(Verdict::kWrong, score.verification.verdict);
  // Cut off behind the answer it still has one.
  EXPECT_EQ(
      Verdict::kCorrect,
      ScoreGroup("14", {{"The answer is 14. Wait, le", 5, true}}, {})[0].verification.verdict);
}

TEST(ScoreGroup, TheSafeFormNeverPaysAWrongTrace) {
  const std::vector<std::string> wrong = {"The answer is 13.", "13", "",
                                          "The answer is 14. The answer is 13.",
                                          "\\boxed{13} \\boxed{14}"};
  for (const LengthShaping shaping :
       {LengthShaping::kNone, LengthShaping::kOverlong, LengthShaping::kGroup}) {
    for (const double weight : {0.0, 1.0, 100.0}) {
      RewardOptions options;
      options.length_shaping = shaping;
      options.length_max = 100;
      options.answer_weight = options.reflection_weight = options.length_weight = weight;
      std::vector<TraceInput> traces;
      for (const std::string& text : wrong) traces.push_back({text, 0, false});
      traces.push_back({Rechecked(4), 0, false});
      const std::vector<TraceScore> scores = ScoreGroup("14", traces, options);
      for (size_t i = 0; i < wrong.size(); ++i) {
        EXPECT_NE(Verdict::kCorrect, scores[i].verification.verdict) << wrong[i];
        EXPECT_LE(scores[i].total, 0) << wrong[i];
      }
    }
  }
}

TEST(ScoreGroup, ThePaperFormPaysForHavingAnswered) {
  RewardOptions paper;
  paper.safe = false;
  EXPECT_EQ(1, ScoreOne("The answer is 13.", paper).parts.answer);
  EXPECT_EQ(0, ScoreOne("The answer is 13.").parts.answer);
}

TEST(ScoreGroup, TheTotalIsTheSumOfTheParts) {
  RewardOptions options;
  options.answer_weight = 0.3, options.accuracy_weight = 2, options.reflection_weight = 0.7,
  options.side_weight = 1.5;
  options.length_shaping = LengthShaping::kGroup;
  options.length_weight = 0.25;
  for (const TraceScore& score : ScoreGroup(
           "14", {{Rechecked(0)}, {Rechecked(1)}, {Rechecked(3)}, {"13"}, {"no"}}, options)) {
    const RewardParts& parts = score.parts;
    EXPECT_THAT(score.total, DoubleNear(parts.answer + parts.accuracy + parts.reflection +
                                            parts.length + parts.side,
                                        1e-12));
  }
}

TEST(ScoreGroup, GroupShapingPrefersTheShorterOfTwoRightTraces) {
  RewardOptions options;
  options.length_shaping = LengthShaping::kGroup;
  options.length_weight = 1;
  const std::vector<TraceScore> scores = ScoreGroup("14",
                                                    {{"The answer is 14.", 10},
                                                     {"The answer is 14.", 20},
                                                     {"The answer is 13.", 10},
                                                     {"The answer is 13.", 30}},
                                                    options);
  EXPECT_DOUBLE_EQ(0.5, scores[0].parts.length);
  EXPECT_DOUBLE_EQ(0.0, scores[1].parts.length);
  EXPECT_DOUBLE_EQ(0.0, scores[2].parts.length);
  EXPECT_DOUBLE_EQ(-0.5, scores[3].parts.length);
}

TEST(ScoreGroup, FormatWantsAnExplicitAnswer) {
  EXPECT_TRUE(ScoreOne("14").format_ok);
  EXPECT_TRUE(ScoreOne("The answer is 14.").format_ok);
  EXPECT_FALSE(ScoreOne("She then has got 14 of them left").format_ok);
  EXPECT_FALSE(ScoreOne("<think>a</think><think>b</think>The answer is 14.").format_ok);
  EXPECT_FALSE(ScoreOne("The answer is 14. <answer>14").format_ok);
}

TEST(ScoreGroup, RepetitionFailsTheSideCheck) {
  std::string trace;
  for (int i = 0; i < 60; ++i) trace += "so we add one and one and get two ";
  const TraceScore score = ScoreOne(trace + "The answer is 14.");
  EXPECT_FALSE(score.repetition_ok);
  EXPECT_EQ(-1, score.parts.side);
  EXPECT_TRUE(ScoreOne(Rechecked(1)).repetition_ok);
}

TEST(ScoreGroup, HackedTracesDoNotScore) {
  for (const std::string trace :
       {"\\boxed{12} \\boxed{13} \\boxed{14}", "The answer is 12, 13, 14 or 15.",
        "<think>The answer is 14.</think>", "<think>\\boxed{14}",
        "The answer is 14 bananas or 15 pears.", "The answer is one of 13 and 14.", "\\boxed{}",
        "The answer is .", "The answer is either 14 or 15.", "#### 13 14",
        "<answer>13</answer> <answer></answer>", "The answer is not 14."}) {
    EXPECT_NE(Verdict::kCorrect, ScoreOne(trace).verification.verdict) << trace;
  }
}

TEST(ScoreGroup, StatementsInTheThinkingAreReflections) {
  const TraceScore score =
      ScoreOne("<think>The answer is 14. Let me check: The answer is 14.</think>The answer is 14.");
  EXPECT_EQ(Verdict::kCorrect, score.verification.verdict);
  EXPECT_EQ(2, score.reflections);
}

TEST(ScoreGroup, HostileMegabytesTakeLinearTime) {
  for (const char* piece : {"\\boxed{",
                            "The answer is ",
                            "answer: ",
                            "\\(",
                            "$",
                            "<answer>",
                            "1 ",
                            "\\boxed{1} ",
                            "#### ",
                            "#### 1\n",
                            "wait. ",
                            "{",
                            "(",
                            "The answer is 5 ",
                            "The answer is $",
                            "\\[ \\boxed{7",
                            "答案是5。",
                            "answer to ",
                            "the answer is x+1. ",
                            "</think>",
                            "\\\\"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += piece;
    const auto start = std::chrono::steady_clock::now();
    const TraceScore score = ScoreOne(text);
    const double took =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    EXPECT_NE(Verdict::kCorrect, score.verification.verdict) << piece;
    EXPECT_LT(took, 20 * ESPALIER_HOSTILE_SECONDS) << piece;
  }
}

TEST(Shape, ReflectionPartIsALineBetweenItsBounds) {
  EXPECT_EQ(1, ReflectionPart(1, 1, 3, true));
  EXPECT_EQ(0.5, ReflectionPart(2, 1, 3, true));
  EXPECT_EQ(0, ReflectionPart(9, 1, 3, true));
  EXPECT_EQ(0, ReflectionPart(1, 1, 3, false));
  EXPECT_EQ(-0.5, ReflectionPart(2, 1, 3, false));
  EXPECT_EQ(-1, ReflectionPart(9, 1, 3, false));
  EXPECT_EQ(0, ReflectionPart(2, 1, 1, true));
}

TEST(Shape, OverlongPartFollowsDapo) {
  EXPECT_EQ(0, OverlongPart(75, 100, 25));
  EXPECT_EQ(-0.2, OverlongPart(80, 100, 25));
  EXPECT_EQ(-1, OverlongPart(100, 100, 25));
  EXPECT_EQ(-1, OverlongPart(500, 100, 25));
  EXPECT_EQ(0, OverlongPart(500, 0, 25));
  EXPECT_EQ(0, OverlongPart(100, 100, 0));
  EXPECT_EQ(-1, OverlongPart(101, 100, 0));
}

TEST(Shape, GroupLengthPartFollowsKimi) {
  EXPECT_EQ(0.5, GroupLengthPart(10, 10, 20, true));
  EXPECT_EQ(-0.5, GroupLengthPart(20, 10, 20, true));
  EXPECT_EQ(0, GroupLengthPart(10, 10, 20, false));
  EXPECT_EQ(-0.5, GroupLengthPart(20, 10, 20, false));
  EXPECT_EQ(0, GroupLengthPart(10, 10, 10, true));
}

TEST(Shape, WordsOfScriptsWithoutSpacesCount) {
  EXPECT_EQ(0, CountWords(""));
  EXPECT_EQ(3, CountWords("  one two\nthree "));
  EXPECT_EQ(4, CountWords("答案是5"));
}

}  // namespace
}  // namespace espalier::reward

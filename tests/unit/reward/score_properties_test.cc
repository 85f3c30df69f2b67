// Goal: no setting of the reward pays for what it should not. Method: seeded random options, traces
// and groups against invariants and a plain reference; a failure prints the seed.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"

namespace espalier::reward {
namespace {

constexpr int kRounds = 2000;

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  double Weight() {
    return Below(4) == 0 ? 0 : std::uniform_real_distribution<double>(0, 100)(random_);
  }

  RewardOptions Options() {
    RewardOptions options;
    options.reflection_min = Below(4);
    options.reflection_max = options.reflection_min + Below(5);
    options.answer_weight = Weight();
    options.accuracy_weight = Weight();
    options.reflection_weight = Weight();
    options.side_weight = Weight();
    options.length_weight = Weight();
    options.length_shaping = static_cast<LengthShaping>(Below(6));
    options.length_max = 1 + Below(300);
    options.length_buffer = Below(static_cast<int>(options.length_max));
    options.length_target = 1 + Below(300);
    options.length_scale = Weight() / 100;
    options.count_hesitations = Below(2) == 0;
    options.check_language = Below(2) == 0;
    return options;
  }

  std::string Trace() {
    static const char* const kPieces[] = {"12 + 2 = 14. ",
                                          "The answer is 13. ",
                                          "The answer is 14. ",
                                          "Wait, let me check. ",
                                          "\\boxed{14} ",
                                          "\\boxed{12} ",
                                          "So x = 14. ",
                                          "<think>",
                                          "</think>",
                                          "#### 14\n",
                                          "#### 15\n",
                                          "答案是14。",
                                          "It is 14 or 15. ",
                                          "Hmm. ",
                                          "14 ",
                                          "<answer>14</answer>"};
    std::string trace;
    for (int i = Below(8); i > 0; --i)
      trace += kPieces[Below(static_cast<int>(std::size(kPieces)))];
    return trace;
  }

  std::vector<TraceInput> Traces() {
    std::vector<TraceInput> traces;
    for (int i = 0; i <= Below(8); ++i) traces.push_back({Trace(), Below(400), Below(5) == 0});
    return traces;
  }

 private:
  std::mt19937_64 random_;
};

TEST(ScoreProperties, TheSafeFormNeverPaysATraceThatIsNotCorrect) {
  int not_correct = 0;
  for (uint64_t seed = 0; seed < kRounds; ++seed) {
    Draw draw(seed);
    const RewardOptions options = draw.Options();
    for (const TraceScore& score : ScoreGroup("14", draw.Traces(), options)) {
      if (score.verification.verdict == Verdict::kCorrect) continue;
      ++not_correct;
      const RewardParts& parts = score.parts;
      for (const double part : {parts.answer, parts.accuracy, parts.reflection, parts.length,
                                parts.side, score.total, score.raw_total}) {
        ASSERT_LE(part, 0) << "seed " << seed;
      }
    }
  }
  EXPECT_GT(not_correct, kRounds / 2);
}

TEST(ScoreProperties, AnotherRestatementNeverPaysARightTrace) {
  for (uint64_t seed = 0; seed < kRounds; ++seed) {
    Draw draw(seed);
    RewardOptions options = draw.Options();
    // Lengths have a wish of their own under L1, and lead the group's comparison.
    options.length_shaping = LengthShaping::kNone;
    // The share of repeated runs is not monotone in their number.
    options.side_weight = 0;
    std::string trace = "12 + 2 = 14. The answer is 14.";
    double before = ScoreGroup("14", {{trace}}, options)[0].total;
    for (int v = 1; v <= 6; ++v) {
      trace += draw.Below(2) == 0 ? " Wait, let me check. The answer is 14." : " So \\boxed{14}.";
      const TraceScore score = ScoreGroup("14", {{trace}}, options)[0];
      ASSERT_EQ(Verdict::kCorrect, score.verification.verdict);
      ASSERT_EQ(v, score.reflections) << trace;
      ASSERT_LE(score.total, before) << "seed " << seed << ", restatement " << v;
      before = score.total;
    }
  }
}

TEST(ScoreProperties, TotalsAreTheSumsOfTheirParts) {
  for (uint64_t seed = 0; seed < kRounds; ++seed) {
    Draw draw(seed);
    RewardOptions options = draw.Options();
    options.safe = draw.Below(2) == 0;
    for (const TraceScore& score : ScoreGroup("14", draw.Traces(), options)) {
      const RewardParts& parts = score.parts;
      const double raw = parts.answer + parts.accuracy + parts.reflection + parts.side;
      ASSERT_NEAR(raw, score.raw_total, 1e-9) << "seed " << seed;
      ASSERT_NEAR(raw + parts.length, score.total, 1e-9) << "seed " << seed;
      ASSERT_FALSE(std::signbit(parts.side) && parts.side == 0) << "a negative zero";
    }
  }
}

TEST(ScoreProperties, PlacesAreOrderedAndInsideTheTrace) {
  for (uint64_t seed = 0; seed < kRounds; ++seed) {
    Draw draw(seed);
    const std::string trace = draw.Trace() + draw.Trace();
    const TraceScore score = ScoreGroup("14", {{trace}}, {})[0];
    const auto size = static_cast<int64_t>(trace.size());
    std::vector<TextSpan> said;
    if (score.first_correct) said.push_back(*score.first_correct);
    said.insert(said.end(), score.restatements.begin(), score.restatements.end());
    ASSERT_EQ(score.reflections, static_cast<int>(score.restatements.size()));
    ASSERT_EQ(score.first_correct.has_value(), score.tail_share.has_value());
    for (const std::vector<TextSpan>* list : {&std::as_const(said), &score.hesitation_cues}) {
      for (size_t i = 0; i < list->size(); ++i) {
        ASSERT_LT((*list)[i].begin, (*list)[i].end) << trace;
        ASSERT_LE((*list)[i].end, size) << trace;
        if (i > 0) ASSERT_GE((*list)[i].begin, (*list)[i - 1].begin) << trace;
      }
    }
  }
}

// The group's statistics as one would write them down.
TEST(ScoreProperties, GroupStatisticsAgreeWithAPlainReference) {
  int uniform = 0;
  for (uint64_t seed = 0; seed < kRounds; ++seed) {
    Draw draw(seed);
    const std::vector<TraceScore> scores = ScoreGroup("14", draw.Traces(), draw.Options());
    const GroupStatistics group = Summarize(scores);
    std::vector<double> totals, tails;
    int correct = 0;
    for (const TraceScore& score : scores) {
      if (score.verification.verdict == Verdict::kAbstain) continue;
      totals.push_back(score.total);
      correct += score.verification.verdict == Verdict::kCorrect;
      if (score.tail_share) tails.push_back(*score.tail_share);
    }
    const auto mean = [](const std::vector<double>& values) {
      double sum = 0;
      for (const double value : values) sum += value;
      return values.empty() ? 0 : sum / static_cast<double>(values.size());
    };
    std::vector<double> squares;
    for (const double total : totals) squares.push_back(std::pow(total - mean(totals), 2));
    ASSERT_EQ(static_cast<int>(totals.size()), group.scored) << "seed " << seed;
    ASSERT_EQ(scores.size() - totals.size(), static_cast<size_t>(group.abstained));
    ASSERT_NEAR(mean(totals), group.mean_total, 1e-9) << "seed " << seed;
    ASSERT_NEAR(std::sqrt(mean(squares)), group.std_total, 1e-9) << "seed " << seed;
    ASSERT_NEAR(mean(tails), group.mean_tail_share, 1e-9) << "seed " << seed;
    ASSERT_NEAR(totals.empty() ? 0 : correct / static_cast<double>(totals.size()), group.pass_rate,
                1e-9);
    const bool same =
        std::all_of(totals.begin(), totals.end(), [&](double total) { return total == totals[0]; });
    ASSERT_EQ(same, group.uniform) << "seed " << seed;
    uniform += same;
    for (const TraceScore& score : scores) {
      const bool counts = score.verification.verdict != Verdict::kAbstain && !same;
      ASSERT_NEAR(counts ? (score.total - group.mean_total) / group.std_total : 0, score.advantage,
                  1e-9)
          << "seed " << seed;
    }
  }
  EXPECT_GT(uniform, 0);
  EXPECT_LT(uniform, kRounds);
}

TEST(ScoreProperties, AGroupThatCannotBeReadIsAllAbstention) {
  const std::vector<TraceScore> scores = ScoreGroup("\\frac{1}{", {{"14"}, {"15"}}, {});
  const GroupStatistics group = Summarize(scores);
  EXPECT_EQ(0, group.scored);
  EXPECT_EQ(2, group.abstained);
  EXPECT_EQ(0, group.pass_rate);
  EXPECT_TRUE(group.uniform);
}

}  // namespace
}  // namespace espalier::reward

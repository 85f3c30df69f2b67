// Goal: over every kind of answer, what a careful mathematician accepts is accepted and nothing
// else. Method: a table of labelled pairs by kind (tests/data/verify_cases.jsonl, hard negatives
// beside every kind), read the way a trace is: extracted, then verified. The agreement is printed
// by kind and must be whole. The same pairs are turned round, and changed so that their value
// changes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libs/reward/plain_number.h"
#include "libs/reward/reward.h"

namespace espalier::reward {
namespace {

struct Case {
  std::string kind, gold, answer;
  bool expected = false;
};

const std::vector<Case>& Cases() {
  static const auto* const kCases = [] {
    auto* cases = new std::vector<Case>;
    const char* path = std::getenv("ESPALIER_VERIFY_CASES");
    std::ifstream in(path != nullptr ? path : "tests/data/verify_cases.jsonl");
    for (std::string line; std::getline(in, line);) {
      const nlohmann::json parsed = nlohmann::json::parse(line);
      cases->push_back({parsed["kind"], parsed["gold"], parsed["answer"], parsed["expected"] == 1});
    }
    return cases;
  }();
  return *kCases;
}

Verification Judge(const std::string& gold, const std::string& answer) {
  const Extraction extraction = ExtractAnswer(answer);
  if (extraction.found) return VerifyAnswer(gold, extraction.text);
  Verification nothing;
  nothing.verdict = Verdict::kWrong;
  nothing.rule = "no_answer";
  return nothing;
}

bool Correct(const std::string& gold, const std::string& answer) {
  return VerifyAnswer(gold, answer).verdict == Verdict::kCorrect;
}

TEST(VerifyCases, TheTableIsBroad) {
  std::map<std::string, int> positive, negative;
  for (const Case& one : Cases()) ++(one.expected ? positive : negative)[one.kind];
  EXPECT_GE(Cases().size(), 2000u);
  EXPECT_GE(positive.size(), 30u);
  for (const auto& [kind, count] : positive) EXPECT_GE(negative[kind], 3) << kind;
}

TEST(VerifyCases, EveryKindAgrees) {
  std::map<std::string, std::pair<int, int>> kinds;
  for (const Case& one : Cases()) {
    const Verification verification = Judge(one.gold, one.answer);
    const bool agrees = (verification.verdict == Verdict::kCorrect) == one.expected;
    auto& [agreed, all] = kinds[one.kind];
    agreed += agrees, ++all;
    EXPECT_TRUE(agrees) << one.kind << ": " << one.gold << " ~ " << one.answer << " should be "
                        << one.expected << ", rule " << verification.rule << ", "
                        << verification.canonical_reference << " | "
                        << verification.canonical_answer;
  }
  for (const auto& [kind, counts] : kinds)
    std::printf("%-16s %4d of %4d agree\n", kind.c_str(), counts.first, counts.second);
}

TEST(VerifyCases, EveryReferenceEqualsItself) {
  std::set<std::string> golds;
  for (const Case& one : Cases()) golds.insert(one.gold);
  for (const std::string& gold : golds) EXPECT_TRUE(Correct(gold, gold)) << gold;
}

// Kinds in which neither side knows more than the other: no units, no rounding, no letters.
TEST(VerifyCases, EqualityIsSymmetric) {
  const std::set<std::string> kinds = {
      "absolute_floor", "bases",     "complex", "equations", "factorials",  "fractions",
      "inequalities",   "intervals", "logs",    "matrices",  "polynomials", "powers_roots",
      "sets",           "sums",      "trig",    "tuples"};
  int tried = 0;
  for (const Case& one : Cases()) {
    if (kinds.count(one.kind) == 0) continue;
    // A decimal reference stands for what rounds to it, an exact one does not.
    if (one.answer.find('.') != std::string::npos || one.gold.find('.') != std::string::npos ||
        one.answer.find('%') != std::string::npos)
      continue;
    ++tried;
    EXPECT_EQ(one.expected, Correct(one.answer, one.gold))
        << one.kind << ": " << one.answer << " ~ " << one.gold;
  }
  EXPECT_GT(tried, 500);
}

// "(answer) + 1" and the like, where "(answer)" alone is accepted: a scalar, changed.
TEST(VerifyCases, NoChangedValueIsAccepted) {
  int tried = 0;
  for (const Case& one : Cases()) {
    const std::set<std::string> words = {"choice", "words", "languages", "extraction", "times"};
    if (!one.expected || words.count(one.kind) > 0) continue;
    // Multiples of nothing, and decimals to which a change is too small to count.
    if (one.gold == "0" || one.gold == "\\{0\\}" || one.gold == "6.02 \\times 10^{23}") continue;
    if (one.gold.find("infty") != std::string::npos) continue;
    if (one.answer.find_first_of(",;=<>&|$:") != std::string::npos) continue;
    const std::string group = "(" + one.answer + ")";
    if (!Correct(one.gold, group) || !Correct(one.gold, group + " + 0")) continue;
    for (const std::string& changed :
         {group + " + 1", group + " - 1", "1 - " + group + " + \\frac{1}{7}", group + " \\cdot 11",
          group + " \\cdot \\frac{10}{11}", "\\frac{" + group + "}{1000}", group + " + x_{9}",
          group + " + 10^{-1}", group + "^{7} + 13"}) {
      ++tried;
      EXPECT_FALSE(Correct(one.gold, changed)) << one.gold << " ~ " << changed;
    }
  }
  EXPECT_GT(tried, 2000);
}

// One digit of a plain number, one step up.
TEST(VerifyCases, NoChangedDigitIsAccepted) {
  int tried = 0;
  for (const Case& one : Cases()) {
    const PlainNumber gold = ReadPlainNumber(one.gold);
    if (!one.expected || !gold.ok || !ReadPlainNumber(one.answer).ok) continue;
    for (size_t at = 0; at < one.answer.size(); ++at) {
      std::string changed = one.answer;
      if (changed[at] < '0' || changed[at] > '9') continue;
      changed[at] = changed[at] == '9' ? '0' : static_cast<char>(changed[at] + 1);
      const PlainNumber number = ReadPlainNumber(changed);
      if (!number.ok) continue;
      const mpq_class value = number.percent && !gold.percent ? number.value / 100 : number.value;
      const mpq_class half = gold.decimal ? HalfPlace(gold.digits) : mpq_class(0);
      if (value == gold.value || abs(value - gold.value) <= half) continue;
      ++tried;
      EXPECT_FALSE(Correct(one.gold, changed)) << one.gold << " ~ " << changed;
    }
  }
  EXPECT_GT(tried, 300);
}

// Proved where an exact comparison decides, not where points were tried.
TEST(VerifyCases, ProvedIsSaidTruthfully) {
  EXPECT_TRUE(VerifyAnswer("14", "14").proved);
  EXPECT_TRUE(VerifyAnswer("14", "15").proved);
  EXPECT_TRUE(VerifyAnswer("x^2+2x+1", "(x+1)^2").proved);
  EXPECT_TRUE(VerifyAnswer("3\\sqrt{13}", "\\sqrt{117}").proved);
  EXPECT_TRUE(VerifyAnswer("\\sqrt{6}", "\\sqrt{2}\\sqrt{3}").proved);
  EXPECT_TRUE(VerifyAnswer("(1+i)^2", "2i").proved);
  EXPECT_TRUE(VerifyAnswer("\\frac{n(n+1)}{2}", "\\sum_{k=1}^{n} k").proved);
  EXPECT_TRUE(VerifyAnswer("Evelyn", "evelyn").proved);
  EXPECT_TRUE(VerifyAnswer("[0,2]", "[0,1]\\cup[1,2]").proved);
  for (const char* tested : {"1+\\tan^2 x", "\\frac{1}{\\cos^2 x}"}) {
    const Verification verification = VerifyAnswer("\\sec^2 x", tested);
    EXPECT_EQ(Verdict::kCorrect, verification.verdict) << tested;
    EXPECT_FALSE(verification.proved) << tested;
  }
  EXPECT_FALSE(VerifyAnswer("(1, \\sin 2x)", "(1, 2\\sin x\\cos x)").proved);
  EXPECT_FALSE(VerifyAnswer("\\frac{1}{", "5").proved);
}

}  // namespace
}  // namespace espalier::reward

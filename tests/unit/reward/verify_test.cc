// Goal: equal answers are found equal however they are written, and nothing else is. Method: tables
// of pairs; each wrong pair is one that a laxer comparison accepts.
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"
#include "libs/reward/verifier.h"
#include "nlohmann/json.hpp"

namespace espalier::reward {
namespace {

struct Pair {
  const char* reference;
  const char* answer;
};

class Equal : public testing::TestWithParam<Pair> {};
TEST_P(Equal, IsCorrect) {
  const Verification verification = VerifyAnswer(GetParam().reference, GetParam().answer);
  EXPECT_EQ(Verdict::kCorrect, verification.verdict)
      << GetParam().reference << " ~ " << GetParam().answer << ": " << verification.rule << ", "
      << verification.reason << " " << verification.canonical_reference << " | "
      << verification.canonical_answer;
}

class Different : public testing::TestWithParam<Pair> {};
TEST_P(Different, IsNotCorrect) {
  const Verification verification = VerifyAnswer(GetParam().reference, GetParam().answer);
  EXPECT_NE(Verdict::kCorrect, verification.verdict)
      << GetParam().reference << " ~ " << GetParam().answer << ": " << verification.rule << " "
      << verification.canonical_reference << " | " << verification.canonical_answer;
  EXPECT_FALSE(verification.reason.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Numbers, Equal,
    testing::Values(Pair{"14", "14"}, Pair{"14", " 14. "}, Pair{"14", "+14"}, Pair{"-5", "-5"},
                    Pair{"1234", "1,234"}, Pair{"1234567", "1,234,567"}, Pair{"10000", "10{,}000"},
                    Pair{"14", "14.0"}, Pair{"1/2", "0.5"}, Pair{"1/2", "2/4"},
                    Pair{"0.5", "\\frac{1}{2}"}, Pair{"\\frac12", "1/2"},
                    Pair{"\\dfrac{8}{3}", "8/3"}, Pair{"1\\frac{1}{4}", "5/4"},
                    Pair{"1 1/4", "\\frac{5}{4}"}, Pair{"-1\\frac14", "-1.25"}, Pair{"0.33", "1/3"},
                    Pair{"2.74", "2,74"}, Pair{"3.14", "\\pi"},
                    Pair{"1.5 \\times 10^8", "150000000"}, Pair{"0.0000001", "1e-7"},
                    Pair{"0.\\overline{3}", "1/3"}, Pair{"0.1\\overline{6}", "\\frac{1}{6}"},
                    Pair{"2^3", "8"}, Pair{"5!", "120"}, Pair{"\\binom{20}{2}", "190"},
                    Pair{"\\sqrt{16}", "4"}, Pair{"\\sqrt[3]{27}", "3"}, Pair{"|{-3}|", "3"},
                    Pair{"7:32", "7/32"}, Pair{"2^{100}", "1267650600228229401496703205376"}));

INSTANTIATE_TEST_SUITE_P(
    Numbers, Different,
    testing::Values(Pair{"14", "15"}, Pair{"14", "-14"}, Pair{"14", "1.4"}, Pair{"14", "14.001"},
                    Pair{"1/3", "0.3333"}, Pair{"0.33", "0.34"}, Pair{"0.5", "0.54"},
                    Pair{"3.14", "3.1"}, Pair{"2^{100}", "2^{100}+1"},
                    Pair{"\\frac{1}{2004!}", "\\frac{1}{2006!}"},
                    Pair{"\\frac{1}{7000!}", "\\frac{1}{7002!}"}, Pair{"1 - 1/e", "1 + 1/e"},
                    Pair{"0", "\\frac{1}{7000!}"}, Pair{"0.\\overline{3}", "0"}, Pair{"10", "1,0"},
                    Pair{"14", "5 or 14"}, Pair{"14", "13, 14"}, Pair{"14", "either 14 or 15"},
                    Pair{"14", "maybe 14"}, Pair{"14", "not 14"}, Pair{"14", "could be 14"},
                    Pair{"14", "12 apples, 14 pears"}, Pair{"14", ""}, Pair{"14", "\\infty"},
                    Pair{"14", "14x"}, Pair{"10000", "10"}));

INSTANTIATE_TEST_SUITE_P(
    Units, Equal,
    testing::Values(Pair{"125 miles", "125"}, Pair{"$125$ miles", "125\\textnormal{ miles}"},
                    Pair{"125", "125 miles"}, Pair{"2 km", "2000 m"},
                    Pair{"1.5 hours", "90 minutes"}, Pair{"1 square foot", "144 square inches"},
                    Pair{"\\$10", "10"}, Pair{"10.99", "$10.99"}, Pair{"28\\%", "28 percent"},
                    Pair{"28\\%", "28"}, Pair{"28\\%", "0.28"}, Pair{"90^\\circ", "90"},
                    Pair{"90^\\circ", "\\frac{\\pi}{2}"}, Pair{"5", "5 m"},
                    Pair{"6", "6 square units"}));
INSTANTIATE_TEST_SUITE_P(Units, Different,
                         testing::Values(Pair{"125 miles", "125 km"},
                                         Pair{"125 miles", "125 bananas"}, Pair{"2 km", "2 kg"},
                                         Pair{"28\\%", "2800"}, Pair{"28\\%", "2.8"},
                                         Pair{"5", "5x"}));

INSTANTIATE_TEST_SUITE_P(
    Structures, Equal,
    testing::Values(Pair{"(1, 2)", "\\left(1, 2\\right)"}, Pair{"\\{1, 2\\}", "\\{2, 1\\}"},
                    Pair{"1, 2", "2, 1"}, Pair{"(1,3)", "1,3"}, Pair{"[0, 1)", "[0,1)"},
                    Pair{"x \\in [-2, 7]", "-2 \\le x \\le 7"}, Pair{"[2, \\infty)", "x \\ge 2"},
                    Pair{"(-\\infty, 3)", "x < 3"}, Pair{"x < 1", "-x > -1"},
                    Pair{"(0,1) \\cup (2,3)", "(2,3) \\cup (0,1)"}, Pair{"x = 5", "5"},
                    Pair{"5", "x = 5"}, Pair{"(x,y) = (1,2)", "(1,2)"},
                    Pair{"x = 5", "x = 2 + 3 = 5"},
                    Pair{"2x + 4y - 3 = 0", "y = -\\frac{1}{2}x + \\frac{3}{4}"},
                    Pair{"1 \\pm \\sqrt{19}", "1 + \\sqrt{19}, 1 - \\sqrt{19}"},
                    Pair{"\\pm 2", "-2, 2"}, Pair{"p=5,q=2;p=7,q=2", "(5,2),(7,2)"},
                    Pair{"x = 1 \\text{ or } x = 2", "1, 2"},
                    Pair{"\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
                         "\\begin{bmatrix} 1 & 2 \\\\ 3 & \\frac{8}{2} \\end{bmatrix}"}));
INSTANTIATE_TEST_SUITE_P(
    Structures, Different,
    testing::Values(Pair{"(1, 2)", "(2, 1)"}, Pair{"(1, 2)", "[1, 2]"}, Pair{"[0, 1)", "[0, 1]"},
                    Pair{"(1, 2)", "\\{1, 2\\}"}, Pair{"1, 2", "1"}, Pair{"1", "1, 2"},
                    Pair{"1, 2", "1, 2, 3"}, Pair{"x < 1", "x > 1"}, Pair{"x < 1", "x \\le 1"},
                    Pair{"x > 5", "y > 5"}, Pair{"x = 5", "y = 5"}, Pair{"a^2 + b = 0", "0"},
                    Pair{"[2, \\infty)", "x > 2"}, Pair{"1 \\pm \\sqrt{19}", "1 + \\sqrt{19}"},
                    Pair{"p=5,q=2;p=7,q=2", "(2,5),(7,2)"}, Pair{"-1, 1", "-1, -1"},
                    Pair{"\\begin{pmatrix} 1 & 2 \\end{pmatrix}",
                         "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"}));

INSTANTIATE_TEST_SUITE_P(
    Expressions, Equal,
    testing::Values(Pair{"x^2+2x+1", "(x+1)^2"}, Pair{"x^2 + 2*x + 1", "y = x^2+2x+1"},
                    Pair{"\\frac{x^2-1}{x-1}", "x+1"}, Pair{"4a-2", "2(2a-1)"},
                    Pair{"3\\sqrt{13}", "\\sqrt{117}"},
                    Pair{"\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"},
                    Pair{"\\tan^2(y)+1", "\\sec^2(y)"}, Pair{"2\\sin x\\cos x", "\\sin(2x)"},
                    Pair{"\\frac{9}{4}\\pi", "\\frac{9\\pi}{4}"}, Pair{"\\ln 8", "3\\ln 2"},
                    Pair{"\\log_2 8", "3"}, Pair{"0", "\\sin(\\pi)"}, Pair{"e^{2}", "e*e"},
                    Pair{"x y", "yx"}));
INSTANTIATE_TEST_SUITE_P(Expressions, Different,
                         testing::Values(Pair{"x^2+2x+1", "x^3+2x+1"},
                                         Pair{"(a+5)(b+2)", "(+5)(b+2)"}, Pair{"f(x)", "f(y)"},
                                         Pair{"\\sqrt{2}", "1.414"}, Pair{"\\pi", "3.14159"},
                                         Pair{"\\sqrt{x^2}", "x"}, Pair{"\\sin x", "\\cos x"},
                                         Pair{"e^{10}", "22026"}, Pair{"x", "y"}));

INSTANTIATE_TEST_SUITE_P(Words, Equal,
                         testing::Values(Pair{"C", "C"}, Pair{"C", "(C)"}, Pair{"C", "\\text{C}"},
                                         Pair{"D", "D, it can't be A or B"},
                                         Pair{"(C) Cecile", "C"}, Pair{"\\text{odd}", "odd"},
                                         Pair{"C", "c"}));
INSTANTIATE_TEST_SUITE_P(Words, Different,
                         testing::Values(Pair{"C", "B"}, Pair{"C", "B or C"},
                                         Pair{"C", "A, B, C, D"}, Pair{"(A) Cecile", "C"},
                                         Pair{"\\text{odd}", "even"}, Pair{"C", "Cecile"}));

INSTANTIATE_TEST_SUITE_P(Prose, Equal,
                         testing::Values(Pair{"14", "14 apples"},
                                         Pair{"14", "a total of 14 apples"},
                                         Pair{"105", "(35 + 70 = 105)"},
                                         Pair{"The answer is \\boxed{14}.", "14"},
                                         Pair{"12 * 2 = 24\n#### 24", "24"}));

INSTANTIATE_TEST_SUITE_P(Reasons, Equal,
                         testing::Values(Pair{"14", "14, since 12 + 2 = 14"},
                                         Pair{"14", "14 because 7 * 2 is 14"},
                                         Pair{"34", "The largest $n$ is 34"},
                                         Pair{"72", "the number of clips = 72"},
                                         Pair{"2/5", "每份应该是 (\\frac{2}{5}) 吨"}));
INSTANTIATE_TEST_SUITE_P(
    Reasons, Different,
    testing::Values(Pair{"14", "13, since 12 + 2 = 14"}, Pair{"14", "13, but what matters is 14"},
                    Pair{"14", "13 and also $14$ works"}, Pair{"14", "between 13 and $14$ apples"},
                    Pair{"5", "3 = 5"}, Pair{"14", "I had 13 = 14"}, Pair{"14", "2x = 14"}));

TEST(VerifyAnswer, AnUnreadableReferenceAbstains) {
  for (const char* reference : {"", "  ", "\\frac{1}{", "(((("}) {
    const Verification verification = VerifyAnswer(reference, "5");
    EXPECT_EQ(Verdict::kAbstain, verification.verdict) << reference;
    EXPECT_EQ("reference_unreadable", verification.rule) << reference;
    EXPECT_FALSE(verification.reason.empty()) << reference;
  }
}

TEST(VerifyAnswer, StrictUnitsWantTheUnit) {
  const VerifyOptions strict{true};
  EXPECT_EQ(Verdict::kCorrect, VerifyAnswer("125 miles", "125 miles", strict).verdict);
  EXPECT_EQ(Verdict::kCorrect, VerifyAnswer("125 miles", "125 mi", strict).verdict);
  EXPECT_NE(Verdict::kCorrect, VerifyAnswer("125 miles", "125", strict).verdict);
  EXPECT_NE(Verdict::kCorrect, VerifyAnswer("2 km", "2000 m", strict).verdict);
  EXPECT_NE(Verdict::kCorrect, VerifyAnswer("28%", "0.28", strict).verdict);
  EXPECT_NE(Verdict::kCorrect, VerifyAnswer("28%", "28", strict).verdict);
}

TEST(VerifyAnswer, IntegersOfAnyLengthAreExact) {
  std::string digits(100'000, '7');
  std::string other = digits;
  other[50'000] = '8';
  EXPECT_EQ(Verdict::kCorrect, VerifyAnswer(digits, digits).verdict);
  EXPECT_EQ(Verdict::kWrong, VerifyAnswer(digits, other).verdict);
}

// Over the table: whatever is called surely wrong is wrong.
TEST(Verify, SurelyWrongIsNeverRight) {
  std::ifstream in("tests/data/verify_cases.jsonl");
  ASSERT_TRUE(in);
  int sure = 0;
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json one = nlohmann::json::parse(line);
    const std::string gold = one["gold"], answer = one["answer"];
    const Verifier verifier(gold, {});
    if (!verifier.SurelyWrong(answer)) continue;
    ++sure;
    EXPECT_NE(verifier.Verify(answer).verdict, Verdict::kCorrect) << gold << " | " << answer;
  }
  EXPECT_GT(sure, 50);
}

}  // namespace
}  // namespace espalier::reward

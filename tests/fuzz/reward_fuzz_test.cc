// Goal: no text makes the reward crash, hang, contradict itself or score for nothing. Method:
// seeded mutations of traces and expressions under invariants; a failure prints the seed and the
// text. Run under sanitizers too.
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"

namespace espalier::reward {
namespace {

constexpr int kRounds = 20000;
constexpr double kSecondsMax = 2;  // a hang, not a slow machine

const std::vector<std::string>& Seeds() {
  static const auto* const kSeeds = new std::vector<std::string>{
      "12 + 7 = 19. 19 - 5 = 14. The answer is 14. Wait, let me check. 12 + 7 = 19. The answer is "
      "14.",
      "<think>So $x^2 - 5x + 6 = 0$ gives 2 and 3.</think>The answer is \\boxed{x = 2 \\text{ or } "
      "x = 3}.",
      "\\frac{1}{2} + \\sqrt[3]{27} - \\left( \\pi \\cdot 2^{10} \\right)!",
      "[0, 1) \\cup (2, \\infty)",
      "1 \\pm \\sqrt{19}",
      "\\begin{pmatrix} 1 & 2 \\\\ 3 & -\\frac{7}{4} \\end{pmatrix}",
      "$-2 \\le x \\le 7$",
      "125\\text{ miles}",
      "28\\%",
      "10{,}000",
      "The answer: D, it can't be A or B",
      "#### 1,234.50",
      "答案是 \\(\\frac{2}{5}\\) 吨。",
      "0.1\\overline{6}",
      "p=5,q=2;p=7,q=2",
      "\\sin^2(x) + \\cos^{2} x = 1",
      "\\binom{20}{2} = 190",
      "3 1/2",
      "<answer> \\boxed{\\{1, 2\\}} </answer>",
      "\\sum_{k=0}^{n-1} F_k F_{n-k-1}",
      "|x - 3| < \\lfloor 2.5 \\rfloor",
      "90^\\circ",
      "S_{MBCN}:S=7:32",
      "f(2) < f(1) < f(4)",
      "2^{2^{2^{2^{2^{2}}}}}",
      "\\sum_{k=1}^{n} \\frac{k^2}{2^k} + \\prod_{i=1}^{9} i",
      "(3+4i)(1-i)^{12} = 2e^{i\\pi/3}",
      "\\mathbb{R} \\setminus \\{1, 2\\}",
      "\\{x \\mid |x-3| < 2\\} \\cup ]-\\infty, -14[",
      "2 hours 15 minutes",
      "twenty-one and a half km/h",
      "4:30 p.m. on March 14th, 2015",
      "The answer is ١٢٫٥ or १२",
      "\\textbf{(B)}\\ 1A_{16} + {}_{10}C_3",
      "\\left\\{\\begin{array}{l}x=1\\\\y=2\\end{array}\\right.",
      "$1.234,50 and 0.1(6) and 0.333\\ldots"};
  return *kSeeds;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  std::string Draw() {
    std::string text = Pick(Seeds());
    const size_t times = 1 + Below(6);
    for (size_t i = 0; i < times; ++i) Mutate(&text);
    return text;
  }

  template <typename List>
  const typename List::value_type& Pick(const List& list) {
    return list[Below(list.size())];
  }

 private:
  void Mutate(std::string* text) {
    static const std::vector<std::string> kPieces = {"{",
                                                     "}",
                                                     "(",
                                                     ")",
                                                     "\\boxed{",
                                                     "\\frac",
                                                     "^",
                                                     "_",
                                                     "!",
                                                     "$",
                                                     "\\",
                                                     "\\(",
                                                     "\\]",
                                                     "####",
                                                     "<think>",
                                                     "</think>",
                                                     "<answer>",
                                                     " is ",
                                                     "answer",
                                                     " or ",
                                                     "=",
                                                     "-",
                                                     "+",
                                                     ",",
                                                     ".",
                                                     "..",
                                                     "1e9",
                                                     "999999999",
                                                     "\\sqrt",
                                                     "\\text{",
                                                     "\\begin{pmatrix}",
                                                     "&",
                                                     "\\\\",
                                                     "%",
                                                     "\xC3",
                                                     "\xE3\x80\x82",
                                                     std::string(1, '\0'),
                                                     "|",
                                                     "\\pm",
                                                     "/0",
                                                     "^{99999}",
                                                     "\\binom{9999}{5000}",
                                                     "\\infty",
                                                     "x",
                                                     "[",
                                                     "]",
                                                     "\\{",
                                                     "\\}",
                                                     ":",
                                                     ";",
                                                     "~",
                                                     "'",
                                                     "\"",
                                                     "\n"};
    const size_t at = Below(text->size() + 1);
    switch (Below(6)) {
      case 0:
        text->insert(at, Pick(kPieces));
        break;
      case 1:
        text->erase(at, Below(8));
        break;
      case 2:
        text->insert(at, text->substr(Below(text->size() + 1), Below(30)));
        break;
      case 3:
        if (at < text->size()) (*text)[at] = static_cast<char>(Below(256));
        break;
      case 4:
        text->insert(at, Pick(Seeds()));
        break;
      default: {
        const std::string piece = Pick(kPieces);
        for (size_t i = Below(80); i > 0; --i) text->insert(at, piece);
      }
    }
    if (text->size() > 20'000) text->resize(20'000);
  }

  std::mt19937_64 random_;
};

uint64_t FirstSeed() {
  const char* given = std::getenv("ESPALIER_FUZZ_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
}

template <typename Function>
void InTime(Function&& function, uint64_t seed, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  function();
  const double took =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(took, kSecondsMax) << "ESPALIER_FUZZ_SEED=" << seed << " text: " << text.substr(0, 400);
}

TEST(RewardFuzz, ExtractionStaysWithinTheTrace) {
  for (uint64_t seed = FirstSeed(); seed < FirstSeed() + kRounds; ++seed) {
    const std::string text = Mutator(seed).Draw();
    InTime(
        [&] {
          const Extraction extraction = ExtractAnswer(text);
          if (!extraction.found) return;
          ASSERT_LE(0, extraction.begin) << "seed " << seed << ": " << text;
          ASSERT_LE(extraction.begin, extraction.end) << "seed " << seed << ": " << text;
          ASSERT_LE(extraction.end, static_cast<int64_t>(text.size()))
              << "seed " << seed << ": " << text;
          ASSERT_FALSE(extraction.text.empty()) << "seed " << seed << ": " << text;
          ASSERT_FALSE(extraction.rule.empty());
        },
        seed, text);
  }
}

TEST(RewardFuzz, VerdictsHaveReasonsAndAnAnswerEqualsItself) {
  for (uint64_t seed = FirstSeed(); seed < FirstSeed() + kRounds; ++seed) {
    Mutator mutator(seed * 2 + 1);
    const std::string a = mutator.Draw(), b = mutator.Draw();
    InTime(
        [&] {
          const Verification one = VerifyAnswer(a, b);
          ASSERT_FALSE(one.reason.empty()) << "seed " << seed << ": " << a << " ~ " << b;
          ASSERT_FALSE(one.rule.empty()) << "seed " << seed << ": " << a << " ~ " << b;
          const Verification again = VerifyAnswer(a, b);
          ASSERT_EQ(one.verdict, again.verdict) << "seed " << seed << ": " << a << " ~ " << b;
          ASSERT_EQ(one.canonical_answer, again.canonical_answer);
        },
        seed, a + " ~ " + b);
  }
}

TEST(RewardFuzz, TotalsAreFiniteSumsAndWrongTracesEarnNothing) {
  for (uint64_t seed = FirstSeed(); seed < FirstSeed() + kRounds / 2; ++seed) {
    Mutator mutator(seed * 3 + 2);
    std::vector<TraceInput> traces;
    for (size_t i = 0; i <= mutator.Below(3); ++i) {
      traces.push_back(
          {mutator.Draw(), static_cast<int64_t>(mutator.Below(300)), mutator.Below(4) == 0});
    }
    RewardOptions options;
    options.length_shaping = static_cast<LengthShaping>(mutator.Below(3));
    options.length_max = static_cast<int64_t>(mutator.Below(400));
    options.length_buffer = static_cast<int64_t>(mutator.Below(100));
    options.reflection_min = static_cast<double>(mutator.Below(3));
    options.reflection_max = options.reflection_min + static_cast<double>(mutator.Below(4));
    const std::string reference = mutator.Below(2) == 0 ? "14" : mutator.Draw();
    InTime(
        [&] {
          const std::vector<TraceScore> scores = ScoreGroup(reference, traces, options);
          ASSERT_EQ(traces.size(), scores.size());
          for (size_t i = 0; i < scores.size(); ++i) {
            const RewardParts& parts = scores[i].parts;
            const double sum =
                parts.answer + parts.accuracy + parts.reflection + parts.length + parts.side;
            ASSERT_NEAR(scores[i].total, sum, 1e-9) << "seed " << seed << ": " << traces[i].text;
            if (scores[i].verification.verdict != Verdict::kCorrect) {
              ASSERT_LE(scores[i].total, 0) << "seed " << seed << ": " << traces[i].text;
            }
            if (scores[i].tail_share) {
              ASSERT_GE(*scores[i].tail_share, 0) << "seed " << seed << ": " << traces[i].text;
              ASSERT_LE(*scores[i].tail_share, 1) << "seed " << seed << ": " << traces[i].text;
            }
          }
        },
        seed, reference + " ~ " + traces[0].text);
  }
}

// Numbers whose value is known by construction, written in ways that the verifier must see through,
// and their neighbours.
TEST(RewardFuzz, WrittenNumbersEqualTheirValueAndNotTheNext) {
  for (uint64_t seed = FirstSeed(); seed < FirstSeed() + kRounds; ++seed) {
    Mutator mutator(seed * 5 + 3);
    const long value = static_cast<long>(mutator.Below(2'000'000)) - 1'000'000;
    const long a = static_cast<long>(mutator.Below(5000)) + 1,
               k = static_cast<long>(mutator.Below(90)) + 2;
    const std::string v = std::to_string(value), reference = v;
    const std::vector<std::string> forms = {
        v,
        "$" + v + "$",
        "\\boxed{" + v + "}",
        std::to_string(value - a) + " + " + std::to_string(a),
        "x = " + v,
        "\\frac{" + std::to_string(value * k) + "}{" + std::to_string(k) + "}",
        std::to_string(value * k) + "/" + std::to_string(k),
        v + ".0",
        v + " apples",
        "\\frac{" + std::to_string(value * k) + "}{" + std::to_string(k) + "} + \\sqrt{4} - 2",
        "(" + v + ")"};
    const std::string form = mutator.Pick(forms);
    EXPECT_EQ(Verdict::kCorrect, VerifyAnswer(reference, ExtractAnswer(form).text).verdict)
        << "seed " << seed << ": " << reference << " ~ " << form;
    EXPECT_EQ(Verdict::kWrong,
              VerifyAnswer(std::to_string(value + 1), ExtractAnswer(form).text).verdict)
        << "seed " << seed << ": " << value + 1 << " ~ " << form;
  }
}

}  // namespace
}  // namespace espalier::reward

// Goal: what counts is the last committed answer outside the thinking, and nothing else. Method:
// traces of each form, the hostile ones first; offsets are checked against the trace itself.
#include <string>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"
#include "libs/reward/statements.h"

namespace espalier::reward {
namespace {

std::string TextOf(const std::string& trace) { return ExtractAnswer(trace).text; }
std::string RuleOf(const std::string& trace) { return ExtractAnswer(trace).rule; }

TEST(ExtractAnswer, FindsNothingInsideThinkingThatNeverEnds) {
  EXPECT_FALSE(ExtractAnswer("<think>The answer is 5. \\boxed{5}").found);
  EXPECT_FALSE(ExtractAnswer("</think>\n").found);
  EXPECT_FALSE(ExtractAnswer("<think>The answer is 5.</think>").found);
}

TEST(ExtractAnswer, IgnoresTheThinkingSection) {
  EXPECT_EQ("7", TextOf("<think>The answer is 5.</think>The answer is 7."));
  EXPECT_EQ("7", TextOf("The answer is 5.</think> So \\boxed{7}"));
}

TEST(ExtractAnswer, StopsAtTheNextTurn) {
  EXPECT_EQ("2/3", TextOf("so the probability is 2/3. <|im_start|>user What is 9?"));
  EXPECT_EQ("4", TextOf("The answer is 4.<|im_end|>\nThe answer is 5."));
}

TEST(ExtractAnswer, FindsNothingInNothing) {
  EXPECT_FALSE(ExtractAnswer("").found);
  EXPECT_FALSE(ExtractAnswer("  \n ").found);
  EXPECT_FALSE(ExtractAnswer("<answer></answer>").found);
}

TEST(ExtractAnswer, PassesOverEmptyAndUnclosedBoxes) {
  EXPECT_EQ("3", TextOf("Put it in \\boxed{}. It is \\boxed{3}. Again \\boxed{ }"));
  EXPECT_EQ("3", TextOf("It is \\boxed{3}. And then \\boxed{4"));
  EXPECT_EQ("5", TextOf("\\boxed{ \\boxed{5}"));
}

TEST(ExtractAnswer, ReadsNestedBraces) {
  EXPECT_EQ("\\frac{1}{\\sqrt{2}}", TextOf("hence $\\boxed{\\frac{1}{\\sqrt{2}}}$."));
  EXPECT_EQ("\\{1, 2\\}", TextOf("hence \\boxed{\\{1, 2\\}}"));
  EXPECT_EQ("5", TextOf("hence \\boxed 5."));
}

TEST(ExtractAnswer, JoinsBoxesOfOneSentence) {
  EXPECT_EQ("-2, 1", TextOf("They are \\[ \\boxed{-2} \\quad \\text{and} \\quad \\boxed{1}. \\]"));
  EXPECT_EQ("3, 4", TextOf("\\boxed{3} \\boxed{4}"));
  EXPECT_EQ("3", TextOf("\\boxed{3} that is \\boxed{3}"));
}

TEST(ExtractAnswer, TakesTheLastOfSeveralSentences) {
  EXPECT_EQ("4", TextOf("The answer is 3. Wait, no. The answer is 4."));
  EXPECT_EQ(
      "10455",
      TextOf("interest \\boxed{255}. Altogether 10455. Final Answer: The final answer is $10455$."
             " I hope it is correct.")
          .substr(1, 5));
}

TEST(ExtractAnswer, KnowsThePhrases) {
  EXPECT_EQ("14", TextOf("12 + 7 = 19. 19 - 5 = 14. The answer is 14."));
  EXPECT_EQ("14", TextOf("**Answer:** 14"));
  EXPECT_EQ("14", TextOf("so the answer to the question is 14."));
  EXPECT_EQ("3.5", TextOf("The answer is 3.5."));
  EXPECT_EQ("C", TextOf("I think the correct answer is C"));
  EXPECT_EQ("14", TextOf("所以答案是14。"));
  EXPECT_EQ("14", TextOf("La respuesta es 14."));
  EXPECT_EQ("72", TextOf("He sold 48+24 = 72 clips.\n#### 72"));
  EXPECT_EQ("hash", RuleOf("He sold 48+24 = 72 clips.\n#### 72"));
  EXPECT_EQ("8", TextOf("<answer> 8 </answer>"));
  EXPECT_EQ("answer_tag", RuleOf("<answer> 8 </answer>"));
}

TEST(ExtractAnswer, DoesNotTakeEveryUseOfTheWord) {
  EXPECT_EQ("last_number", RuleOf("The answer choices are many, I count 7 of them"));
  EXPECT_EQ("5", TextOf("It is \\boxed{5}. I hope the answer is correct."));
}

TEST(ExtractAnswer, FallsBackToTheLastNumberAndSaysSo) {
  EXPECT_EQ("1,000.99€", TextOf("the number is not 10 which is 1,000.99€"));
  EXPECT_EQ("3000 meters", TextOf("it ran 3 laps, so 3000 meters in all"));
  EXPECT_EQ("last_number", RuleOf("the number is not 10 which is 1,000.99€"));
  EXPECT_EQ("-3", TextOf("so we are left with -3 apples somehow"));
  EXPECT_EQ("whole", RuleOf("x^2 + 2x + 1"));
}

TEST(ExtractAnswer, OffsetsPointAtTheAnswer) {
  for (const std::string trace :
       {"a = 1. The answer is 14. Done.", "so $\\boxed{\\frac{1}{2}}$ it is", "x\n#### 72\n",
        "<think>1</think><answer>8</answer>", "in all 12 apples"}) {
    const Extraction extraction = ExtractAnswer(trace);
    ASSERT_TRUE(extraction.found) << trace;
    EXPECT_EQ(extraction.text, trace.substr(extraction.begin, extraction.end - extraction.begin));
  }
}

TEST(FindStatements, BareWorkingIsNoStatement) {
  EXPECT_TRUE(FindStatements("12 + 7 = 19. 19 - 5 = 14.").empty());
  EXPECT_EQ(2u, FindStatements(
                    "19 - 5 = 14. The answer is 14. Let me check: 19 - 5 = 14. The answer is 14.")
                    .size());
}

TEST(FindStatements, OneSentenceStatesOnce) {
  EXPECT_EQ(1u, FindStatements("Final Answer: The final answer is \\boxed{5}.").size());
  EXPECT_EQ(1u, FindStatements("The answer is $\\boxed{5}$ apples.").size());
}

TEST(ExtractAnswer, ABoundIsNoValue) {
  for (const char* bound :
       {"< 14", "> 14", "≥ 14", "\\le 14", "\\geq 14", "<14", "so it is ≤ 14"}) {
    const Extraction found = ExtractAnswer(bound);
    EXPECT_NE(VerifyAnswer("14", found.text).verdict, Verdict::kCorrect) << bound;
  }
  for (const char* value : {"x -> 14", "<b>so</b> 14", "The rest: 14"}) {
    EXPECT_EQ(VerifyAnswer("14", ExtractAnswer(value).text).verdict, Verdict::kCorrect) << value;
  }
}

}  // namespace
}  // namespace espalier::reward

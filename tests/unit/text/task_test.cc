// Goal: every reference is true, every trace reads as its reward will read it, and the splits never
// meet. Method: an interpreter of its own for prompts and traces, over thousands of problems.
#include "libs/text/task.h"

#include <regex>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libs/text/tokenizer.h"

namespace espalier::text {
namespace {

// Reads the prompt's numbers and verbs, and works the chain out.
int64_t Solve(const std::string& prompt) {
  static const std::regex kStep(
      "has ([0-9]+) |(buys|finds|gets) ([0-9]+) more|(gives away|loses|sells) ([0-9]+)|has "
      "([0-9]+) times");
  int64_t value = 0;
  for (std::sregex_iterator it(prompt.begin(), prompt.end(), kStep), end; it != end; ++it) {
    const std::smatch& match = *it;
    if (match[3].matched)
      value += std::stoll(match[3]);
    else if (match[5].matched)
      value -= std::stoll(match[5]);
    else if (match[1].matched && match.suffix().str().starts_with("times"))
      value *= std::stoll(match[1]);
    else
      value = std::stoll(match[1]);
  }
  return value;
}

std::vector<std::string> Answers(const std::string& trace) {
  static const std::regex kAnswer("The answer is ([0-9]+)\\.");
  std::vector<std::string> answers;
  for (std::sregex_iterator it(trace.begin(), trace.end(), kAnswer), end; it != end; ++it) {
    answers.push_back((*it)[1]);
  }
  return answers;
}

TEST(MakeProblem, ReferenceIsAlwaysTrue) {
  TaskOptions options;
  options.factor_max = 5;
  options.steps_max = 5;
  for (uint64_t i = 0; i < 3000; ++i) {
    const Problem problem = MakeProblem(options, 7, i, i % 2 == 0);
    EXPECT_EQ(problem.reference, std::to_string(Solve(problem.prompt))) << problem.prompt;
    EXPECT_EQ('\n', problem.prompt.back());
  }
}

TEST(MakeProblem, ValuesStayInBounds) {
  static const std::regex kNumber("[0-9]+");
  for (const int value_max : {2, 9, 99, 999}) {
    TaskOptions options;
    options.value_max = value_max;
    options.operand_max = std::min(20, value_max);
    options.slip_rate = 0.5;
    for (uint64_t i = 0; i < 500; ++i) {
      const Problem problem = MakeProblem(options, 1, i, false);
      for (std::sregex_iterator it(problem.trace.begin(), problem.trace.end(), kNumber), end;
           it != end; ++it) {
        EXPECT_LE(std::stoll(it->str()), value_max) << problem.trace;
      }
      EXPECT_EQ(std::string::npos, problem.trace.find("= -")) << problem.trace;
    }
  }
}

TEST(MakeProblem, WithoutSlipsEveryAnswerIsTheReference) {
  TaskOptions options;
  options.slip_rate = 0;
  int rechecked = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    const Problem problem = MakeProblem(options, 5, i, false);
    const auto answers = Answers(problem.trace);
    ASSERT_GE(answers.size(), 1);
    ASSERT_LE(answers.size(), 4);
    for (const std::string& answer : answers) EXPECT_EQ(problem.reference, answer);
    EXPECT_TRUE(problem.trace.ends_with("The answer is " + problem.reference + "."));
    rechecked += answers.size() > 1;
  }
  EXPECT_NEAR(0.5, rechecked / 2000.0, 0.05);
}

TEST(MakeProblem, SlipsAreSometimesCaughtAndSometimesNot) {
  TaskOptions options;
  options.slip_rate = 0.2;
  int wrong = 0, caught = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    const Problem problem = MakeProblem(options, 5, i, false);
    const auto answers = Answers(problem.trace);
    wrong += answers.back() != problem.reference;
    caught += answers.back() == problem.reference && answers.front() != problem.reference;
  }
  EXPECT_GT(wrong, 100);
  EXPECT_GT(caught, 100);
}

TEST(MakeProblem, HeldOutProblemsNeverOccurInTraining) {
  // A small space, so that prompts do repeat; and two seeds, for the split must not depend on it.
  TaskOptions options;
  options.steps_min = options.steps_max = 1;
  options.value_max = 9;
  options.operand_max = 4;
  std::set<std::string> training, heldout;
  for (uint64_t i = 0; i < 20000; ++i) training.insert(MakeProblem(options, 1, i, false).prompt);
  for (uint64_t i = 0; i < 5000; ++i) heldout.insert(MakeProblem(options, 2, i, true).prompt);
  for (const std::string& prompt : heldout) EXPECT_FALSE(training.contains(prompt)) << prompt;
  EXPECT_GT(heldout.size(), 100);
}

TEST(MakeProblem, IsAPureFunction) {
  const TaskOptions options;
  EXPECT_EQ(MakeProblem(options, 9, 1234, true).trace, MakeProblem(options, 9, 1234, true).trace);
  EXPECT_NE(MakeProblem(options, 9, 1234, true).prompt, MakeProblem(options, 9, 1235, true).prompt);
}

TEST(MakeProblem, TracesAreShortInTokens) {
  TaskOptions options;
  std::string sample;
  for (uint64_t i = 0; i < 2000; ++i) {
    const Problem problem = MakeProblem(options, 1, i, false);
    sample += problem.prompt + problem.trace + "\n";
  }
  const auto tokenizer = TrainBpe(sample, 400);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  options.recheck_rate = 0;
  double tokens = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    tokens +=
        static_cast<double>((*tokenizer)->Encode(MakeProblem(options, 1, i, true).trace).size());
  }
  EXPECT_GT(tokens / 500, 15);
  EXPECT_LT(tokens / 500, 35);
}

}  // namespace
}  // namespace espalier::text

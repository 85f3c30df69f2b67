// Word problems from a few templates: a chain of operations whose values stay in bounds, told in
// plain words, worked out by a teacher that re-checks too often and slips now and then.
#include "libs/text/task.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "libs/observe/log.h"
#include "libs/text/mix.h"

namespace espalier::text {
namespace {

// One problem in this many is held out, by the hash of its prompt.
constexpr uint64_t kHeldoutOneIn = 8;
constexpr int kAttemptsMax = 1 << 16;

struct Person {
  const char* name;
  const char* pronoun;
};
constexpr std::array<Person, 8> kPeople = {{{"Tom", "He"},
                                            {"Anna", "She"},
                                            {"Ben", "He"},
                                            {"Mia", "She"},
                                            {"Sam", "He"},
                                            {"Eva", "She"},
                                            {"Max", "He"},
                                            {"Lily", "She"}}};
constexpr std::array<const char*, 8> kThings = {"apples", "books",  "coins",   "stones",
                                                "cards",  "shells", "pencils", "stamps"};
constexpr std::array<const char*, 3> kMore = {"buys $0 more", "finds $0 more", "gets $0 more"};
constexpr std::array<const char*, 3> kLess = {"gives away $0", "loses $0", "sells $0"};
constexpr const char* kTimes = "then has $0 times as many";
constexpr std::array<const char*, 3> kRecheck = {" Wait, let me check. ", " Let me check again. ",
                                                 " Hmm, let me verify. "};

struct Operation {
  char sign;
  int64_t operand;
};

int64_t Apply(int64_t value, const Operation& operation) {
  switch (operation.sign) {
    case '+':
      return value + operation.operand;
    case '-':
      return value - operation.operand;
    default:
      return value * operation.operand;
  }
}

struct Chain {
  int64_t start = 0;
  std::vector<Operation> operations;
};

// An operation that keeps the value within 0 and value_max. There always is one: value_max is at
// least 2.
Operation DrawOperation(const TaskOptions& options, int64_t value, Mix* mix) {
  const int64_t more = std::min<int64_t>(options.operand_max, options.value_max - value);
  const int64_t less = std::min<int64_t>(options.operand_max, value);
  const int64_t times =
      value == 0 ? 0 : std::min<int64_t>(options.factor_max, options.value_max / value);
  if (times >= 2 && mix->Chance(0.25)) return {'*', mix->Between(2, times)};
  // Half and half, unless only one is possible.
  const bool add = less < 1 || (more >= 1 && mix->Chance(0.5));
  return add ? Operation{'+', mix->Between(std::min<int64_t>(more, 2), more)}
             : Operation{'-', mix->Between(std::min<int64_t>(less, 2), less)};
}

Chain DrawChain(const TaskOptions& options, Mix* mix) {
  Chain chain;
  chain.start = mix->Between(2, options.value_max);
  int64_t value = chain.start;
  const int64_t steps = mix->Between(options.steps_min, options.steps_max);
  for (int64_t i = 0; i < steps; ++i) {
    chain.operations.push_back(DrawOperation(options, value, mix));
    value = Apply(value, chain.operations.back());
  }
  return chain;
}

std::string Tell(const Chain& chain, Mix* mix) {
  const Person& person = kPeople[mix->Next() % kPeople.size()];
  const char* things = kThings[mix->Next() % kThings.size()];
  std::string prompt = absl::StrCat(person.name, " has ", chain.start, " ", things, ".");
  for (const Operation& operation : chain.operations) {
    const char* words = operation.sign == '+'   ? kMore[mix->Next() % kMore.size()]
                        : operation.sign == '-' ? kLess[mix->Next() % kLess.size()]
                                                : kTimes;
    absl::StrAppend(&prompt, " ", person.pronoun, " ", absl::Substitute(words, operation.operand),
                    ".");
  }
  return absl::StrCat(prompt, " How many ", things, " does ", person.name, " have?\n");
}

// The value of each step; from step `slip` on with `error` carried along. Empty when a value leaves
// the bounds.
std::vector<int64_t> Work(const Chain& chain, int64_t value_max, size_t slip, int64_t error) {
  std::vector<int64_t> values;
  int64_t value = chain.start;
  for (size_t i = 0; i < chain.operations.size(); ++i) {
    value = Apply(value, chain.operations[i]) + (i == slip ? error : 0);
    if (value < 0 || value > value_max) return {};
    values.push_back(value);
  }
  return values;
}

std::string Write(const Chain& chain, const std::vector<int64_t>& values) {
  std::string text;
  int64_t value = chain.start;
  for (size_t i = 0; i < values.size(); ++i) {
    const Operation& operation = chain.operations[i];
    absl::StrAppend(&text, value, " ", std::string(1, operation.sign), " ", operation.operand,
                    " = ", values[i], ". ");
    value = values[i];
  }
  return absl::StrCat(text, "The answer is ", value, ".");
}

// The teacher's values: those of the true chain, but for a slip that was drawn and stays in bounds.
std::vector<int64_t> WorkWithSlips(const Chain& chain, const TaskOptions& options,
                                   const std::vector<int64_t>& truth, Mix* mix) {
  for (size_t i = 0; i < chain.operations.size(); ++i) {
    if (!mix->Chance(options.slip_rate)) continue;
    constexpr std::array<int64_t, 6> kErrors = {1, -1, 2, -2, 10, -10};
    const size_t first = mix->Next() % kErrors.size();
    for (size_t k = 0; k < kErrors.size(); ++k) {
      const int64_t error = kErrors[(first + k) % kErrors.size()];
      std::vector<int64_t> values = Work(chain, options.value_max, i, error);
      if (!values.empty() && values.back() != truth.back()) return values;
    }
  }
  return truth;
}

std::string Teach(const Chain& chain, const TaskOptions& options, Mix* mix) {
  const std::vector<int64_t> truth = Work(chain, options.value_max, chain.operations.size(), 0);
  CHECK_EQ(truth.size(), chain.operations.size());
  const std::vector<int64_t> worked = WorkWithSlips(chain, options, truth, mix);
  std::string trace = Write(chain, worked);
  // Half of the slips go unnoticed; a re-check that notices one puts it right. Else the re-checks
  // are needless.
  const bool slipped = worked != truth;
  int64_t rechecks = 0;
  if (slipped) {
    rechecks = mix->Chance(0.5) ? 1 : 0;
  } else if (mix->Chance(options.recheck_rate)) {
    rechecks = mix->Between(1, options.recheck_max);
  }
  for (int64_t i = 0; i < rechecks; ++i) {
    absl::StrAppend(&trace, kRecheck[mix->Next() % kRecheck.size()], Write(chain, truth));
  }
  return trace;
}

// FNV-1a, mixed: independent of the seed, so that a prompt is on the same side in every run.
bool IsHeldOut(const std::string& prompt) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : prompt) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return MixBits(hash) % kHeldoutOneIn == 0;
}

}  // namespace

Problem MakeProblem(const TaskOptions& options, uint64_t seed, uint64_t index, bool heldout) {
  CHECK_GE(options.value_max, 2);
  CHECK_GE(options.operand_max, 1);
  CHECK_LE(options.steps_min, options.steps_max);
  Mix mix(MixKey(MixKey(seed, heldout ? 1 : 0), index));
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const Chain chain = DrawChain(options, &mix);
    Problem problem;
    problem.prompt = Tell(chain, &mix);
    if (IsHeldOut(problem.prompt) != heldout) continue;
    int64_t value = chain.start;
    for (const Operation& operation : chain.operations) value = Apply(value, operation);
    problem.reference = absl::StrCat(value);
    problem.trace = Teach(chain, options, &mix);
    return problem;
  }
  LOG(FATAL) << "no " << (heldout ? "held-out" : "training") << " problem in " << kAttemptsMax
             << " attempts";
  return {};
}

}  // namespace espalier::text

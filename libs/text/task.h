// Reasoning task: word problems of chained arithmetic, and teacher traces that work them out, some re-checked needlessly.
#pragma once

#include <cstdint>
#include <string>

namespace espalier::text {

// Mirrors espalier.v1.ReasoningTaskSpec.
struct TaskOptions {
  int steps_min = 2, steps_max = 3;
  int value_max = 99, operand_max = 20, factor_max = 0;
  double recheck_rate = 0.5;
  int recheck_max = 3;
  double slip_rate = 0.03;
};

struct Problem {
  std::string prompt;     // "Tom has 12 apples. He buys 7 more. … How many apples does Tom have?\n"
  std::string reference;  // "19"
  std::string trace;      // teacher's working, ends with "The answer is 19." (and needless re-checks that state it again)
};

// A pure function of (options, seed, index). Problems of the held-out split (heldout = true) never occur in training.
Problem MakeProblem(const TaskOptions& options, uint64_t seed, uint64_t index, bool heldout);

}  // namespace espalier::text

// A run of two scripted workers whose loads are skewed, and a spec that prunes and places soon: what tests of decisions begin with.
#pragma once

#include <string>

#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {

inline v1::RunSpec PruningSpec(uint32_t steps = 400) {
  v1::RunSpec spec = SmallSpec("pruning", 2, steps);
  v1::PrunePolicy* prune = spec.mutable_prune();
  prune->set_enabled(true);
  prune->set_beta(0.05);
  prune->set_window_steps(10);
  prune->set_stable_checks(2);
  v1::PlacementPolicy* placement = spec.mutable_placement();
  placement->set_enabled(true);
  placement->set_window_steps(10);
  placement->set_interval_steps(20);
  return spec;
}

struct Pair {
  explicit Pair(Harness* harness, const v1::RunSpec& spec)
      : a("a"), b("b"), run({&a, &b}, SkewedShares()) {
    a.Attach(harness->address());
    b.Attach(harness->address());
    id = harness->MustSubmit(spec);
    EXPECT_TRUE(a.WaitAssignment().has_value());
    EXPECT_TRUE(b.WaitAssignment().has_value());
  }
  // One step, then whatever the policy commanded on it.
  void StepAndApply(uint64_t count, const std::string& error = "") {
    for (uint64_t i = 0; i < count; ++i) {
      run.Steps(1);
      run.ApplyCommands(error);
    }
  }
  FakeWorker a, b;
  FakeRun run;
  std::string id;
};

}  // namespace espalier::coordinator::testing

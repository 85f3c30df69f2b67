// SimulationOptions: what espalier-fleetsim is told by its flags.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace espalier::fleetsim {

// A fault at a moment: "17@3.5" cuts (or restarts) worker 17 after 3.5 seconds.
struct ScriptedFault {
  uint32_t worker = 0;
  double seconds = 0;
};

struct SimulationOptions {
  std::string coordinator;        // host:port
  std::string spawn_coordinator;  // binary; takes the place of `coordinator`
  double lease_seconds = 10;      // of a spawned coordinator
  uint32_t workers = 64;
  uint32_t ranks_per_run = 64;
  uint32_t channels = 8;
  uint32_t layers = 60;
  uint32_t experts = 256;
  uint32_t top_k = 8;
  uint64_t tokens_per_expert = 1000;  // mean, in a step
  double step_seconds = 1;
  double seconds = 60;  // runs are stopped after this, unless `steps` is given
  uint64_t steps = 0;   // runs are this long
  uint64_t seed = 1;
  double straggler_rate = 0.02;  // share of a run's steps that some rank holds up
  double disconnect_rate = 0;    // streams cut, of each worker in a second
  double restart_rate = 0;       // workers replaced, of each worker in a second
  std::vector<std::string> cut;  // ScriptedFaults
  std::vector<std::string> restart;
  uint64_t phase_change_step = 20;
  uint32_t window_steps = 5;
  uint32_t checkpoint_every = 20;
  bool prune = true;
  double beta = 0.05;
  uint32_t soft_steps = 0;
  double guard_tolerance = 0;
  uint32_t check_layers = 4;     // of each run, compared with what was drawn; 0: all
  double deadline_seconds = 60;  // for starting, and again for ending
  bool json = false;

  // Workers beyond the last whole group make a smaller one.
  std::vector<uint32_t> GroupSizes() const;
  uint64_t TokensPerStep() const { return tokens_per_expert * experts / top_k * top_k; }
  absl::Status Validate() const;
};

// InvalidArgument for anything but WORKER@SECONDS.
absl::Status ParseFault(const std::string& flag, const std::string& text, ScriptedFault* fault);

}  // namespace espalier::fleetsim

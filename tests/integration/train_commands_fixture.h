// Commands by name, and a fixture whose runs get them: for tests of what a run does with commands.
#pragma once

#include <string>

#include "gtest/gtest.h"
#include "tests/integration/train_harness.h"

namespace espalier::train {

inline v1::Command NewCommand(uint64_t sequence) {
  v1::Command command;
  command.set_sequence(sequence);
  return command;
}

inline v1::Command SetLayout(uint64_t sequence, const v1::ExpertLayout& layout) {
  v1::Command command = NewCommand(sequence);
  *command.mutable_set_layout() = layout;
  return command;
}

inline v1::Command Stop(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_stop();
  return command;
}

inline v1::Command Pause(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_pause();
  return command;
}

inline v1::Command Resume(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_resume();
  return command;
}

inline v1::Command Checkpoint(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_checkpoint();
  return command;
}

inline v1::Command Export(uint64_t sequence, const std::string& directory) {
  v1::Command command = NewCommand(sequence);
  command.mutable_export_()->set_directory(directory);
  return command;
}

inline v1::Command Pin(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_checkpoint()->set_pin(true);
  return command;
}

inline v1::Command Unpin(uint64_t sequence, const std::string& path) {
  v1::Command command = NewCommand(sequence);
  command.mutable_checkpoint()->set_unpin(path);
  return command;
}

inline v1::Command Evaluate(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_evaluate();
  return command;
}

inline v1::Command Revoked(uint64_t sequence) {
  v1::Command command = NewCommand(sequence);
  command.mutable_revoked();
  return command;
}

inline v1::Command AppliedAt(uint64_t step, v1::Command command) {
  command.set_applied_step(step);
  return command;
}

// Expert 1 goes everywhere, and what stays changes its rank.
inline v1::ExpertLayout Pruned(int ranks) {
  const int last = ranks - 1;
  return MakeLayout({{{0, 2, 3, 4, 5}, {last, 0, last, 0, 0}}, {{0, 2, 3, 5}, {0, last, 0, last}}});
}

class TrainCommands : public ::testing::Test {
 protected:
  TrainCommands() {
    WriteCorpus(folder_.path());
    request_.ranks = 2;
    request_.spec = TinySpec();
    request_.data_root = folder_.path();
    AddPretrain(&request_.spec, 10)->set_eval_every(0);
  }

  // Every rank holds everything up to `sequence` once it reported `step`.
  void ArriveEverywhere(uint64_t step, uint64_t sequence) {
    for (int rank = 0; rank < request_.ranks; ++rank) {
      request_.plan.after_report[{rank, step}] = sequence;
    }
  }

  // The step that all ranks acked `sequence` with.
  static uint64_t AgreedStep(const RunRecord& run, uint64_t sequence) {
    const uint64_t step = run.AckOf(0, sequence).step();
    for (size_t rank = 1; rank < run.ranks.size(); ++rank) {
      EXPECT_EQ(run.AckOf(static_cast<int>(rank), sequence).step(), step) << "rank " << rank;
    }
    return step;
  }

  TempFolder folder_;
  RunRequest request_;
};

}  // namespace espalier::train

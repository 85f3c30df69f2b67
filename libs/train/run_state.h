// RunState: what all parts of one rank's trainer share while a run goes on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "espalier/v1/fleet_service.pb.h"
#include "libs/collective/communicator.h"
#include "libs/model/model.h"
#include "libs/train/controller.h"
#include "libs/train/data.h"
#include "libs/train/loads.h"
#include "libs/train/optimizer.h"
#include "libs/train/step_recorder.h"
#include "libs/train/trainer.h"

namespace espalier::train {

// Where the run stands; the same on every rank, and saved in checkpoints.
struct Progress {
  uint64_t step = 0;  // finished steps of the whole run
  uint32_t stage_index = 0;
  uint64_t step_in_stage = 0;  // finished steps of the stage
  uint64_t updates = 0;        // optimizer updates made in the stage
  uint64_t skipped_steps = 0;  // of the whole run
  uint64_t last_applied_sequence = 0;
};

// Owned by RunTrainer and used from its thread alone; references outlive it.
struct RunState {
  const v1::Assignment& assignment;
  const v1::RunSpec& spec;
  const TrainerOptions& options;
  collective::Communicator& communicator;
  TrainController& controller;
  TraceScorer& scorer;

  Progress progress;
  RunData data;
  std::unique_ptr<model::Model<float>> model;
  std::unique_ptr<Optimizer> optimizer;
  LoadCounter loads;
  v1::PhaseTimes phases;  // of the step in progress, without the model's own
  StepRecorder recorder;  // what is told of steps that are traced

  bool root() const { return communicator.rank() == 0; }
};

// Sends an event of the whole run, from rank 0 only.
void SendEvent(RunState& state, v1::EventSeverity severity, const std::string& name,
               const std::string& text,
               const std::vector<std::pair<std::string, std::string>>& fields = {});

// Whether the run's prunes judge experts by what they put out, so that it must be measured.
bool MeasuresOutputNorms(const RunState& state);

// "64,48,51": experts alive by MoE layer.
std::string ExpertsCsv(const model::Model<float>& model);

// Shortest text that reads back as the same double.
std::string FormatDouble(double value);

// Highest sequence number that this rank can apply.
uint64_t LocalSequence(const RunState& state);

}  // namespace espalier::train

// RunTrainer: one rank's part of a run, all stages, from scratch or from a checkpoint.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/collective/communicator.h"
#include "libs/model/model.h"
#include "libs/train/controller.h"

namespace espalier::train {

struct TrainerOptions {
  std::string data_root = ".";  // relative paths of the spec start here
  int threads = 1;              // CPU threads of this rank
  model::Device device = model::Device::kCpu;
  int device_index = 0;  // which GPU
};

enum class TrainOutcome { kCompleted, kStopped };

// Runs every stage of assignment.spec() on this rank and returns when the run is over. The step
// loop, at the end of each step: the collective carries min(HighestContiguousSequence) and every
// command up to it is applied by every rank, then acked. Errors: kAborted (cancelled or a peer was
// lost: worth a restart from the checkpoint), others are final (bad data, full disk, corrupt
// checkpoint) and name what to do.
absl::StatusOr<TrainOutcome> RunTrainer(const v1::Assignment& assignment,
                                        const TrainerOptions& options,
                                        collective::Communicator& communicator,
                                        TrainController& controller, TraceScorer& scorer);

}  // namespace espalier::train

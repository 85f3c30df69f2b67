// Steps of the trainer measured on one or several ranks of this machine.
#pragma once

#include "absl/status/statusor.h"
#include "libs/model/model.h"
#include "nlohmann/json.hpp"
#include "services/bench/geometry.h"
#include "services/bench/routing.h"

namespace espalier::bench {

struct TrainBenchOptions {
  Geometry geometry;
  Routing routing;
  model::ModelOptions model;  // device_index is that of rank 0; the others follow
  int ranks = 1;
  int warmup = 5;
  int steps = 20;
  double clip_norm = 1.0;
  bool output_norms = false;
  double prune_share = 0;  // of each layer's experts, those with the least load, removed after the steps; then measured again
  double peak_flops = 989e12;  // of one device, for the MFU: an H100's dense bf16
  uint64_t seed = 1;
};

// Everything that was measured: tokens/s, TFLOP/s a device, MFU, step and phase times, memory, energy.
absl::StatusOr<nlohmann::ordered_json> RunTrainBench(const TrainBenchOptions& options);

}  // namespace espalier::bench

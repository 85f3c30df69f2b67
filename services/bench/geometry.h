// Geometries to measure: model and batch, and the operations that a token of them costs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libs/model/config.h"

namespace espalier::bench {

struct Geometry {
  std::string name;
  model::ModelConfig config;
  int sequence = 0;  // tokens a sequence
  int batch = 0;     // sequences a rank
  int64_t tokens() const { return int64_t{sequence} * batch; }  // a rank and step
};

// "M" (OLMoE's layers, 2.7 B parameters), "S" (0.53 B), "tiny", or a JSON file with the fields of ModelConfig, `sequence` and `batch`.
absl::StatusOr<Geometry> ReadGeometry(const std::string& name);

// Normalisation of queries and keys, which OLMoE has: "none", "head" or "full".
absl::Status SetQkNorm(const std::string& text, Geometry* geometry);

// Parameters that take part in a token's products: projections, router, chosen and shared experts, output head.
double ActiveParameters(const Geometry& geometry);

// FLOP = 3 x (2 x active parameters + causal attention): forward once, backward twice.
double FlopsPerToken(const Geometry& geometry);

}  // namespace espalier::bench

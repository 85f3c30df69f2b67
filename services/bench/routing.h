// Routings to measure under: what the routers choose, or choices drawn from a distribution over experts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/model/config.h"

namespace espalier::bench {

struct Routing {
  enum class Kind {
    kNatural,      // the routers' own
    kBalanced,     // every expert equally often
    kZipf,         // the i-th of a layer's experts, shuffled, with weight 1 / i^exponent
    kZipfClumped,  // the same with the hot experts side by side: all on the first rank
  };
  Kind kind = Kind::kNatural;
  double exponent = 1;
};

// "natural", "balanced", "zipf:A" or "zipfc:A".
absl::StatusOr<Routing> ReadRouting(const std::string& text);

// Batch::routes for `tokens` tokens, [tokens, MoE layers, top_k], different experts for each token; empty for kNatural.
std::vector<int32_t> DrawRoutes(const Routing& routing, const model::ModelConfig& config, int64_t tokens, uint64_t seed);

}  // namespace espalier::bench

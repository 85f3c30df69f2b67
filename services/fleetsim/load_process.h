// LoadProcess: how many tokens each expert of a made-up training receives in a step, in both
// phases: a ranking that churns, then a skewed one that stays and drifts slowly.
#pragma once

#include <cstdint>
#include <vector>

namespace espalier::fleetsim {

struct LoadProcessOptions {
  uint32_t layers = 1;
  uint32_t experts = 1;
  // Tokens times top_k: what the experts of a layer share in a step.
  uint64_t tokens_per_step = 1;
  // From this step on the ranking holds; the tenth before it blends over.
  uint64_t phase_change_step = 0;
  // Steps of a load window: in the transition a ranking lasts about as long.
  uint32_t window_steps = 50;
  uint64_t seed = 1;
};

// Immutable and therefore thread-safe. A step's loads follow from the seed and the step alone, so
// that any step can be drawn again: after a recovery, for a report sent twice, to check a record.
class LoadProcess {
 public:
  explicit LoadProcess(const LoadProcessOptions& options);

  // Fills tokens[layer * experts + expert]; each layer's sum is tokens_per_step. Experts that are
  // not `choosable` get nothing, the others share what these would have had.
  void Draw(uint64_t step, const std::vector<bool>& choosable, std::vector<uint64_t>* tokens) const;
  const LoadProcessOptions& options() const { return options_; }

 private:
  // How far the stable phase has come, 0 to 1.
  double Settled(uint64_t step) const;
  void DrawLayer(uint64_t step, uint32_t layer, const std::vector<bool>& choosable,
                 std::vector<uint64_t>* tokens) const;

  const LoadProcessOptions options_;
  std::vector<double> stable_log_weights_;  // [layers, experts]
};

}  // namespace espalier::fleetsim

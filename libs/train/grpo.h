// GRPO with DAPO's choices as pure functions: group advantages and the clipped policy loss of one
// trace.
#pragma once

#include <span>
#include <vector>

namespace espalier::train {

// (R - mean) / (std + 1e-4) over the traces with `scored`; zero for the others, and for all when
// rewards are equal.
std::vector<double> GroupAdvantages(std::span<const double> rewards,
                                    const std::vector<bool>& scored);

struct ClipRange {
  double low = 0.2;    // the ratio is clipped below 1 - low
  double high = 0.28;  // and above 1 + high
};

// Adds one trace's share of the token-mean loss: -min(ratio * A, clip(ratio) * A) / token_count for
// each token, with ratio = exp(logp - old). Writes its gradient by logp into `dlogps` and returns
// the loss.
double PolicyLoss(std::span<const float> logps, std::span<const float> old_logps, double advantage,
                  const ClipRange& clip, double token_count, std::span<float> dlogps);

}  // namespace espalier::train

// GRPO with DAPO's and RAPO's choices as pure functions: group advantages and the clipped policy
// loss of one trace.
#pragma once

#include <cstdint>
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
  // Where the advantage is not positive, the clipped ratio is taken on either side (RAPO). Else the
  // smaller objective is, which leaves a ratio above 1 + high free there: a bad token that became
  // much more likely then pulls with all of its ratio.
  bool both_sides = false;
};

// Adds one trace's share of the token-mean loss: -min(ratio * A, clip(ratio) * A) / token_count for
// each token, with ratio = exp(logp - old). Writes its gradient by logp into `dlogps` and returns
// the loss. Tokens whose place in `selected` is zero have neither; an empty `selected` takes all.
double PolicyLoss(std::span<const float> logps, std::span<const float> old_logps, double advantage,
                  const ClipRange& clip, double token_count, std::span<const uint8_t> selected,
                  std::span<float> dlogps);

}  // namespace espalier::train

// Where the clipped side is the smaller one the loss is constant, so its gradient is zero.
#include "libs/train/grpo.h"

#include <algorithm>
#include <cmath>

namespace espalier::train {
namespace {
constexpr double kDeviationFloor = 1e-4;
}  // namespace

std::vector<double> GroupAdvantages(std::span<const double> rewards,
                                    const std::vector<bool>& scored) {
  std::vector<double> advantages(rewards.size(), 0.0);
  double sum = 0, lowest = 0, highest = 0;
  int count = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (!scored[i]) continue;
    lowest = count == 0 ? rewards[i] : std::min(lowest, rewards[i]);
    highest = count == 0 ? rewards[i] : std::max(highest, rewards[i]);
    sum += rewards[i];
    ++count;
  }
  // Compared by value: rounding of the mean must not turn equal rewards into a gradient.
  if (count == 0 || lowest == highest) return advantages;
  const double mean = sum / count;
  double squares = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (scored[i]) squares += (rewards[i] - mean) * (rewards[i] - mean);
  }
  const double deviation = std::sqrt(squares / count) + kDeviationFloor;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (scored[i]) advantages[i] = (rewards[i] - mean) / deviation;
  }
  return advantages;
}

double PolicyLoss(std::span<const float> logps, std::span<const float> old_logps, double advantage,
                  const ClipRange& clip, double token_count, std::span<const uint8_t> selected,
                  std::span<float> dlogps) {
  const bool both_sides = clip.both_sides && advantage <= 0;
  double loss = 0;
  for (size_t i = 0; i < logps.size(); ++i) {
    dlogps[i] = 0.0f;
    if (!selected.empty() && selected[i] == 0) continue;
    const double ratio = std::exp(static_cast<double>(logps[i]) - old_logps[i]);
    const double clipped = std::clamp(ratio, 1.0 - clip.low, 1.0 + clip.high);
    const double free = ratio * advantage;
    const double bounded = clipped * advantage;
    loss -= (both_sides ? bounded : std::min(free, bounded)) / token_count;
    if (both_sides ? clipped == ratio : free <= bounded) {
      dlogps[i] = static_cast<float>(-free / token_count);
    }
  }
  return loss;
}

}  // namespace espalier::train

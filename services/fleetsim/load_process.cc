// LoadProcess: weights of a busy head, a broad middle and an idle tail, moved by smooth noise.
#include "services/fleetsim/load_process.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "services/fleetsim/random.h"

namespace espalier::fleetsim {
namespace {

constexpr double kPeakMin = 7, kPeakMax = 9;  // busiest expert over the mean, stable phase
constexpr double kHeadBend = 0.7;             // below 1: the busiest few stand out
constexpr double kTailBegin = 0.9;            // the last tenth is next to idle
constexpr double kTailFall = 60;
constexpr double kChurnSigma = 1.2;     // of the log weights in the transition
constexpr double kDriftSigma = 0.12;    // of the log weights in the stable phase
constexpr uint64_t kDriftWindows = 40;  // windows over which the drift turns
constexpr double kBatchSigma = 0.05;    // a step's batch favours some experts
constexpr double kBlendShare = 0.1;     // of phase_change_step
enum Salt : uint64_t { kOrder = 1, kPeak, kChurn, kDrift, kBatch, kCount };

double TailedLogWeight(double falloff, double place) {
  return -falloff * std::pow(place, kHeadBend) - kTailFall * std::max(0.0, place - kTailBegin);
}

// The falloff at which the busiest of `experts` gets `peak` times the mean.
double FindFalloff(uint32_t experts, double peak) {
  double low = 0, high = 100;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    double sum = 0;
    for (uint32_t e = 0; e < experts; ++e)
      sum += std::exp(TailedLogWeight(middle, static_cast<double>(e) / experts));
    (experts / sum < peak ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Smooth noise: independent normal numbers a `period` apart, blended between.
double SmoothNoise(uint64_t key, uint64_t step, uint64_t period) {
  const uint64_t knot = step / period;
  const double t = static_cast<double>(step % period) / static_cast<double>(period);
  const double blend = t * t * (3 - 2 * t);
  return (1 - blend) * Normal(Mix(key, knot)) + blend * Normal(Mix(key, knot + 1));
}

}  // namespace

LoadProcess::LoadProcess(const LoadProcessOptions& options)
    : options_(options), stable_log_weights_(size_t{options.layers} * options.experts) {
  const uint32_t experts = options_.experts;
  for (uint32_t layer = 0; layer < options_.layers; ++layer) {
    std::vector<uint32_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return Mix(options_.seed, kOrder, size_t{layer} * experts + a) <
             Mix(options_.seed, kOrder, size_t{layer} * experts + b);
    });
    // A layer of few experts cannot have one that is so far above the mean.
    const double peak =
        std::min(kPeakMin + (kPeakMax - kPeakMin) * Uniform(Mix(options_.seed, kPeak, layer)),
                 experts / 2.0);
    const double falloff = FindFalloff(experts, peak);
    for (uint32_t place = 0; place < experts; ++place) {
      stable_log_weights_[size_t{layer} * experts + order[place]] =
          TailedLogWeight(falloff, static_cast<double>(place) / experts);
    }
  }
}

double LoadProcess::Settled(uint64_t step) const {
  const double change = static_cast<double>(options_.phase_change_step);
  const double begin = change * (1 - kBlendShare);
  const double at = static_cast<double>(step);
  if (at >= change) return 1;
  return at <= begin ? 0 : (at - begin) / (change - begin);
}

void LoadProcess::Draw(uint64_t step, const std::vector<bool>& choosable,
                       std::vector<uint64_t>* tokens) const {
  tokens->assign(stable_log_weights_.size(), 0);
  for (uint32_t layer = 0; layer < options_.layers; ++layer)
    DrawLayer(step, layer, choosable, tokens);
}

void LoadProcess::DrawLayer(uint64_t step, uint32_t layer, const std::vector<bool>& choosable,
                            std::vector<uint64_t>* tokens) const {
  const double settled = Settled(step);
  const size_t begin = size_t{layer} * options_.experts;
  std::vector<double> weights(options_.experts, 0);
  double sum = 0;
  for (uint32_t expert = 0; expert < options_.experts; ++expert) {
    const size_t index = begin + expert;
    if (!choosable[index]) continue;
    double log_weight = kBatchSigma * Normal(Mix(Mix(options_.seed, kBatch), index, step));
    if (settled < 1) {
      log_weight += (1 - settled) * kChurnSigma *
                    SmoothNoise(Mix(options_.seed, kChurn, index), step, options_.window_steps);
    }
    if (settled > 0) {
      log_weight += settled * (stable_log_weights_[index] +
                               kDriftSigma * SmoothNoise(Mix(options_.seed, kDrift, index), step,
                                                         options_.window_steps * kDriftWindows));
    }
    sum += weights[expert] = std::exp(log_weight);
  }
  if (sum == 0) return;
  const auto total = static_cast<double>(options_.tokens_per_step);
  uint64_t given = 0;
  size_t heaviest = begin;
  for (uint32_t expert = 0; expert < options_.experts; ++expert) {
    if (weights[expert] == 0) continue;
    const double mean = total * weights[expert] / sum;
    const double noise = Normal(Mix(Mix(options_.seed, kCount), begin + expert, step));
    const double drawn = std::max(0.0, std::round(mean + std::sqrt(mean) * noise));
    uint64_t& count = (*tokens)[begin + expert];
    count = static_cast<uint64_t>(drawn);
    given += count;
    if (count > (*tokens)[heaviest] || !choosable[heaviest]) heaviest = begin + expert;
  }
  // Every token goes somewhere: what the noise took or gave is the heaviest expert's.
  uint64_t& rest = (*tokens)[heaviest];
  rest = rest + options_.tokens_per_step > given ? rest + options_.tokens_per_step - given : 0;
}

}  // namespace espalier::fleetsim

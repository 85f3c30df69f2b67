// The traces of one policy update: which of a rollout's carry gradient, how they are packed, and
// their loss.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/v1/run_spec.pb.h"
#include "libs/model/model.h"
#include "libs/train/refill.h"
#include "libs/train/rollout.h"

namespace espalier::train {

// One update's traces on this rank, packed for the model; traces without gradient have no place
// here. Refers to the rollout, which must outlive it.
class PolicyBatch {
 public:
  // Adds the traces of `group` that carry gradient. Returns how the group stands.
  GroupStanding Add(const RolloutGroup& group, const v1::ReinforceStage& spec);

  // How often each group counts in the loss, by its index over all ranks (RefillUses); once when
  // never called.
  void SetUses(std::span<const GroupStanding> standings, std::span<const int64_t> uses);

  const model::Batch& batch() const { return batch_; }
  int64_t sampled_tokens() const { return sampled_tokens_; }

  // Of values aligned with batch(), those of the sampled tokens, in the order of their traces.
  std::vector<float> OfSampledTokens(std::span<const float> values) const;

  // This rank's part of the token-mean loss and its gradient by logp. `token_count` is the sum over
  // all ranks of sampled tokens times uses. `selected` marks the sampled tokens that carry
  // gradient; empty means all. Tokens that are left out still count in the mean.
  double Loss(std::span<const float> logps, const v1::ReinforceStage& spec, double token_count,
              std::span<const uint8_t> selected, std::span<float> dlogps) const;

 private:
  struct Trace {
    int64_t group = 0;
    int64_t first = 0;  // of its sampled tokens, in the batch
    double advantage = 0;
    int64_t uses = 1;
    const model::Sample* sample = nullptr;
  };

  model::Batch batch_ = EmptyBatch();
  std::vector<Trace> traces_;
  int64_t sampled_tokens_ = 0;
};

}  // namespace espalier::train

// What sampling keeps track of on the host, whatever the device: which sequences go on, and what each has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "libs/model/model.h"

namespace espalier::model {

// The sequences of one call: what each has so far, and which still go on.
struct SampleProgress {
  explicit SampleProgress(std::span<const std::vector<int32_t>> prompts) : samples(prompts.size()) {
    for (const std::vector<int32_t>& prompt : prompts) {
      active.push_back(static_cast<int32_t>(active.size()));
      lengths.push_back(static_cast<int32_t>(prompt.size()));
    }
  }

  std::vector<Sample> samples;
  std::vector<int32_t> active;   // sequences that go on, ascending
  std::vector<int32_t> lengths;  // tokens of each sequence that are in the cache
};

// Takes the tokens drawn for the active sequences; those that are done leave `active`.
void TakeTokens(const SampleOptions& options, std::span<const int32_t> tokens,
                std::span<const float> logps, SampleProgress& progress);

// What the decode step of the active sequences reads: their newest token, its position, and the
// cached length with it.
struct DecodeRows {
  std::vector<int32_t> tokens, positions, lengths;
};
DecodeRows NextRows(SampleProgress& progress);

// Takes the routes of a pass, `per_token` a token: of the prompts that begin at `starts`, or of one
// token of each active sequence when there are none.
void KeepRoutes(std::span<const int32_t> routes, std::span<const int64_t> starts, int64_t per_token,
                SampleProgress& progress);

Batch PackPrompts(std::span<const std::vector<int32_t>> prompts);

}  // namespace espalier::model

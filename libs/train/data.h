// What the stages train on: the tokenizer, the corpus as tokens, and batches of windows and of
// reasoning traces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/run_spec.pb.h"
#include "libs/collective/communicator.h"
#include "libs/model/model.h"
#include "libs/text/task.h"
#include "libs/text/tokenizer.h"

namespace espalier::train {

// The same on every rank.
struct RunData {
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::string tokenizer_json;
  std::vector<int32_t> train, heldout;  // of the corpus; empty when no stage left reads it
};

// Rank 0 reads the corpus (when one of stages[first_stage..] pretrains, or a tokenizer must be
// trained), trains the tokenizer unless `tokenizer_json` holds a checkpoint's, encodes, and shares
// both. An error of rank 0 is every rank's. (collective)
absl::StatusOr<RunData> PrepareData(const v1::RunSpec& spec, const std::string& data_root,
                                    size_t first_stage, const std::string& tokenizer_json,
                                    collective::Communicator& communicator);

// `path` itself when absolute, else under `root`.
std::string ResolvePath(const std::string& root, const std::string& path);

// Half-open share [begin, end) of `total` items that a rank takes: contiguous, sizes differ by one
// at most.
struct Share {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};
Share ShareOf(int64_t total, int rank, int rank_count);

model::Batch EmptyBatch();
// Tokens [begin, begin + length) of `tokens`, each predicting the one after it.
void AppendWindow(const std::vector<int32_t>& tokens, int64_t begin, int64_t length,
                  model::Batch* batch);
// All tokens but the last; only tokens from index `first_trained` on are targets.
void AppendTrained(const std::vector<int32_t>& tokens, size_t first_trained, model::Batch* batch);
int64_t CountTargets(const model::Batch& batch);

text::TaskOptions ToTaskOptions(const v1::ReasoningTaskSpec& spec);

// One problem as tokens: kBegin + prompt, and the teacher's trace + kEnd.
struct EncodedProblem {
  std::vector<int32_t> prompt, trace;
  std::string reference;
};
EncodedProblem EncodeProblem(const text::Tokenizer& tokenizer, const text::Problem& problem);

// Training problems of a stage never repeat within it, nor between stages: each stage counts from a
// number of its own.
uint64_t ProblemIndex(uint32_t stage_index, uint64_t step, uint64_t batch, uint64_t i);

// One seed from another and a few numbers, so that streams of different purposes are unrelated.
uint64_t MixSeed(uint64_t seed, uint64_t a, uint64_t b = 0);

}  // namespace espalier::train

// Corpus: a text file as training and held-out tokens, and the batches drawn from them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/text/tokenizer.h"

namespace espalier::text {

struct CorpusSplit {
  std::string train, heldout;  // text; held-out blocks are spread evenly and cut at line ends
};

// NotFound names the path and says what to do; InvalidArgument for an empty, too small or non-UTF-8 file.
absl::StatusOr<std::string> ReadCorpus(const std::string& path);
CorpusSplit SplitCorpus(const std::string& text, double heldout_fraction);

// Start offsets of the sequences of one step: sequence i of the global batch is
// tokens[offsets[i] .. offsets[i] + length + 1) (inputs and targets overlap by one). A pure function of
// (seed, step), a random permutation of windows per epoch, so any rank can draw its part and a resumed run goes on alike.
std::vector<int64_t> SequenceOffsets(int64_t token_count, int sequence_length, int batch_sequences, uint64_t seed,
                                     uint64_t step);

}  // namespace espalier::text

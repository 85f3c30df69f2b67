// BpeModel: tokens and merges of a byte-level BPE, shared by the trainer, the encoder and the JSON
// reader.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libs/text/tokenizer.h"

namespace espalier::text {

inline constexpr int kSpecialCount = 3;
inline constexpr const char* kSpecialNames[kSpecialCount] = {"<|end|>", "<|begin|>", "<|pad|>"};

// The first ids are the special tokens (their `tokens` entry is empty), the rest byte strings, all
// different.
struct BpeModel {
  std::vector<std::string> tokens;
  // By rank: the two ids that merge. Their strings joined are a token.
  std::vector<std::pair<int32_t, int32_t>> merges;
};

// Special tokens and the 256 bytes (byte b has id kSpecialCount + b), no merges.
BpeModel ByteModel();

// The model must hold what BpeModel promises and every byte.
std::unique_ptr<Tokenizer> MakeBpeTokenizer(BpeModel model);

std::string BpeToJson(const BpeModel& model);

}  // namespace espalier::text

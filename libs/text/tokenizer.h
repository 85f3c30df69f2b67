// Tokenizer: text to token ids and back; byte-level BPE trained on the corpus, or plain bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace espalier::text {

// Immutable after creation, thread-safe. Special tokens take the first ids: 0 "<|end|>" (end of a document or trace),
// 1 "<|begin|>", 2 "<|pad|>". Every byte sequence round-trips.
class Tokenizer {
 public:
  static constexpr int32_t kEnd = 0;
  static constexpr int32_t kBegin = 1;
  static constexpr int32_t kPad = 2;

  virtual ~Tokenizer() = default;
  virtual int vocabulary() const = 0;
  virtual std::vector<int32_t> Encode(absl::string_view text) const = 0;
  virtual std::string Decode(const std::vector<int32_t>& ids) const = 0;  // special tokens decode to nothing
  // Text of tokenizer.json as Hugging Face's tokenizers library reads it (byte-level BPE).
  virtual std::string ToJson() const = 0;
};

std::unique_ptr<Tokenizer> MakeByteTokenizer();

// Trains byte-level BPE: pre-tokenization splits words, single digits, punctuation runs and newlines (digits never merge).
// Deterministic. InvalidArgument when the text is too small for the vocabulary.
absl::StatusOr<std::unique_ptr<Tokenizer>> TrainBpe(absl::string_view text, int vocabulary);

// Reads what ToJson wrote.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(absl::string_view json);

}  // namespace espalier::text

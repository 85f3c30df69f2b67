// Pre-tokenizer: cuts text into the pieces that BPE merges never cross. Defined on bytes alone, so
// that the loop below and the regular expression that tokenizer.json carries cut every UTF-8 text
// alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace espalier::text {

// The same cuts for Hugging Face's Split pre-tokenizer (each match is a piece, nothing is left
// between matches):
//   a word with its leading space (every character outside ASCII counts as a letter), a single
//   digit with its leading space, a run of other visible characters with its leading space, a run
//   of line ends, blanks up to the last one (which goes with what follows), and what blanks remain.
inline constexpr char kSplitRegex[] =
    " ?[^\\x00-@\\[-`{-\\x7F]+"
    "| ?[0-9]"
    "| ?[\\x00-\\x08\\x0E-\\x1F!-/:-@\\[-`{-\\x7F]+"
    "|[\\r\\n]+"
    "|[\\t\\x0B\\x0C ]+(?![^\\t\\x0B\\x0C ])"
    "|[\\t\\x0B\\x0C ]+";

enum class ByteClass : uint8_t { kLetter, kDigit, kOther, kNewline, kBlank };

constexpr ByteClass ClassOf(unsigned char byte) {
  if (byte >= 0x80 || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z')) {
    return ByteClass::kLetter;
  }
  if (byte >= '0' && byte <= '9') return ByteClass::kDigit;
  if (byte == '\n' || byte == '\r') return ByteClass::kNewline;
  if (byte == ' ' || byte == '\t' || byte == 0x0B || byte == 0x0C) return ByteClass::kBlank;
  return ByteClass::kOther;
}

// Length of the piece that begins at `begin`; at least 1. `begin` must be the start of a piece.
inline size_t PieceLength(absl::string_view text, size_t begin) {
  const auto class_at = [text](size_t i) { return ClassOf(static_cast<unsigned char>(text[i])); };
  const auto run_end = [&](size_t i) {
    const ByteClass of = class_at(i);
    while (i < text.size() && class_at(i) == of) ++i;
    return i;
  };
  size_t body = begin;
  if (class_at(begin) == ByteClass::kBlank) {
    const size_t end = run_end(begin);
    if (end == text.size()) return end - begin;
    if (end - begin >= 2) return end - begin - 1;
    if (text[begin] != ' ' || class_at(end) == ByteClass::kNewline) return 1;
    body = end;
  }
  if (class_at(body) == ByteClass::kDigit) return body + 1 - begin;
  return run_end(body) - begin;
}

// Calls visit(absl::string_view piece) for each piece in order.
template <typename Visit>
void ForEachPiece(absl::string_view text, Visit&& visit) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t length = PieceLength(text, begin);
    visit(text.substr(begin, length));
    begin += length;
  }
}

}  // namespace espalier::text

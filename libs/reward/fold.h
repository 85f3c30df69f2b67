// Folding: digits of other scripts, fullwidth forms and mathematical Unicode become ASCII and
// LaTeX, so that everything behind this point reads one alphabet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace espalier::reward {

// Whether the text holds a byte beyond ASCII at all; without one, folding changes nothing.
bool HasWide(absl::string_view text);

// The folded text. Words and symbols of no mathematical meaning stay as they are.
std::string Fold(absl::string_view text);

// Only digits, digit separators and punctuation of other scripts, so that prose stays prose.
// `origin[i]` is where byte i of the result came from; one more entry holds the size of `text`.
// Returns false, and does nothing, when there is nothing to fold.
bool FoldDigits(absl::string_view text, std::string* folded, std::vector<size_t>* origin);

// The code point at `at` and its size in bytes; a byte that is no UTF-8 counts as itself.
struct CodePoint {
  uint32_t value = 0;
  size_t size = 1;
};
CodePoint DecodeAt(absl::string_view text, size_t at);

}  // namespace espalier::reward

// Scanning text: cheap, bounded steps over ASCII and UTF-8 that the extractors share. No
// allocation, no locale.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace espalier::reward {

inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
inline bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
inline bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || IsUpper(c); }
inline bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'; }
inline char Lower(char c) { return IsUpper(c) ? static_cast<char>(c - 'A' + 'a') : c; }
inline bool IsWordByte(char c) { return IsLetter(c) || static_cast<unsigned char>(c) >= 0x80; }

// Whether `text` holds `lowercase` at `at`, ASCII letters compared without case.
bool HoldsAt(absl::string_view text, size_t at, absl::string_view lowercase);
// First place of `lowercase` at or after `from`, without case; npos when there is none.
size_t FindWithoutCase(absl::string_view text, absl::string_view lowercase, size_t from = 0);
absl::string_view Trim(absl::string_view text);
size_t SkipSpace(absl::string_view text, size_t at);

// `open` is the place of a '{'. The place of its '}', escaped braces aside; npos when it is never
// closed.
size_t MatchBrace(absl::string_view text, size_t open);

// The math region that starts at `at` ("$…$", "$$…$$", "\(…\)", "\[…\]"); `size` is 0 when none
// starts there. Bounded reach.
struct MathRegion {
  size_t begin = 0, size = 0;  // with its delimiters
  size_t inner = 0, inner_size = 0;
};
MathRegion MathAt(absl::string_view text, size_t at);

// Where the sentence or line that holds `at` ends: `end` before its final mark, `stop` behind it.
// Marks inside numbers and formulas do not end it.
struct SentenceEnd {
  size_t end = 0, stop = 0;
};
SentenceEnd FindSentenceEnd(absl::string_view text, size_t at);

}  // namespace espalier::reward

// Tokens of LaTeX and plain mathematics: wrappers, spacing and synonyms are gone behind this point.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "libs/reward/expression.h"

namespace espalier::reward {

enum class TokenKind : uint8_t {
  kEnd,
  kNumber,  // text: digits, perhaps a point
  kSymbol,  // text: one letter, or a Greek letter's name
  kName,    // text: function, "frac", "sqrt", "binom", "pi", "infinity", "begin", …
  kText,    // text: words
  kMark,    // text: one operator or bracket; "<=" ">=" "!=" are 'l' 'g' '!' … see lexer.cc
  kAnd,     // "and", "or": separates answers
};

struct Token {
  TokenKind kind;
  std::string text;
  bool space_before = false;
  bool is(TokenKind k, absl::string_view t) const {
    return kind == k && absl::string_view(text) == t;
  }
  bool mark(char c) const { return kind == TokenKind::kMark && text.size() == 1 && text[0] == c; }
};

// The last token is kEnd. Empty when the text is too long or holds a control byte.
std::vector<Token> Tokenize(absl::string_view text);

}  // namespace espalier::reward

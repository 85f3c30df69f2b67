// NumberReader: one number of a text, as the lexer meets it: separators, a decimal part, what
// repeats for ever, an exponent, another base, "10C3".
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace espalier::reward {

class NumberReader {
 public:
  // `bracket_depth` > 0 inside brackets, where a comma separates values.
  NumberReader(absl::string_view text, size_t at, int bracket_depth)
      : text_(text), at_(at), depth_(bracket_depth) {}

  // Reads the number at the start; false when it cannot be one.
  bool Read();
  // Reads the subscript at the start as the base of `digits`; false, and nothing read, otherwise.
  bool ReadBase(absl::string_view digits);

  // "12", "1.5", "0.1(6)", "2e-3".
  const std::string& digits() const { return digits_; }
  // The 3 of "10C3", else empty.
  const std::string& chosen() const { return chosen_; }
  size_t end() const { return at_; }

 private:
  bool AnotherBase();
  std::string Integer();
  bool Period();
  void Exponent();
  size_t ThousandsAt(size_t at, size_t group) const;

  const absl::string_view text_;
  size_t at_;
  const int depth_;
  std::string digits_, chosen_;
};

}  // namespace espalier::reward

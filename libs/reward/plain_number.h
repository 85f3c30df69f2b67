// Plain numbers: digits with separators, a point, a fraction bar or a percent sign, read exactly.
// The fast path of most answers.
#pragma once

#include <gmpxx.h>

#include <string>

#include "absl/strings/string_view.h"

namespace espalier::reward {

struct PlainNumber {
  bool ok = false;
  mpq_class value;
  bool decimal = false;  // written with a point: known to `digits` decimal places only
  int digits = 0;
  bool percent = false;
};

// More digits than this are compared as text, not as numbers.
inline constexpr size_t kDigitsMax = 20000;

// Reads all of `text` (trimmed): "-1,234.50", "3/4", "10{,}000", ".5", "28%", "1e-7". With
// `comma_decimal` a single comma is the decimal point ("2,74"). Anything else is not ok.
PlainNumber ReadPlainNumber(absl::string_view text, bool comma_decimal = false);

// Half a unit of the last of `digits` decimal places; negative digits count places before the
// point.
mpq_class HalfPlace(int digits);

// "5", "-3/4": lowest terms.
std::string ToText(const mpq_class& value);

}  // namespace espalier::reward

// Units of answers: which words are units, and how they convert.
#pragma once

#include <gmpxx.h>

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::reward {

struct Unit {
  std::string dimension;  // "length", "length^2", "money" …
  mpq_class factor;       // to the dimension's base unit
};

// "miles", "square feet", "cm^2", "km/h"; nothing for words that are no unit.
std::optional<Unit> FindUnit(absl::string_view words);

// Whether a single letter behind a number can be meant as a unit ("5 m").
bool IsUnitLetter(absl::string_view name);

}  // namespace espalier::reward

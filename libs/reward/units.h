// Units of answers: which words are units, how they convert, and where they stand beside a value.
#pragma once

#include <gmpxx.h>

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::reward {

struct Unit {
  std::string dimension;  // powers of base dimensions: "L" length, "Lt" speed, "LL" area …
  mpq_class factor;       // to the dimension's base unit
};

// "miles", "square feet", "cm^2", "km/h", "meters per second"; nothing for words that are no unit.
std::optional<Unit> FindUnit(absl::string_view words);

// Whether a single letter behind a number can be meant as a unit ("5 m").
bool IsUnitLetter(absl::string_view name);

// "£3" and "3 pounds" name one thing in two ways.
bool SameUnitName(absl::string_view a, absl::string_view b);

// An answer as its value and its unit: "125\text{ miles}", "$5.50", "20 km/h". `unit` is empty, and
// `value` the whole text, when there is none.
struct Quantity {
  std::string value;
  std::string unit;
};
Quantity SplitQuantity(absl::string_view text);
// Whether `text` starts or ends with a sign of money; most answers are told apart by one look.
bool MayHoldMoney(absl::string_view text);

// "2 hours 15 minutes", "5 dollars and 50 cents": the sum in the first unit.
struct CompoundQuantity {
  mpq_class value;
  std::string unit;
};
std::optional<CompoundQuantity> ReadCompound(absl::string_view text);

}  // namespace espalier::reward

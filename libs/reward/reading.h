// Reading: one answer, as the text, the number, the choice letter and the expression that it can be
// read as.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "libs/reward/expression.h"
#include "libs/reward/plain_number.h"

namespace espalier::reward {

struct Reading {
  std::string text;  // as given, trimmed
  std::string
      compact;  // without spaces, wrappers and closing marks: equal compacts are equal answers
  PlainNumber number;
  std::string unit;       // of money beside the number, when the number is plain
  Expression expression;  // parsed when the cheaper readings did not decide; see Parse
  bool parsed = false;
  bool is_exact = false;  // a reference that is one exact number, without unit or tolerance
  mpq_class exact;
};

Reading Read(absl::string_view text);
void Parse(Reading* reading, Budget* budget);

// Whether the whole text is one answer without prose, so that a trace may consist of it alone.
bool ReadsAsAnswer(absl::string_view text);

std::string Compact(absl::string_view text);

// The letter of a multiple-choice reference ("C", "(C)", "C) Cecile", "\text{C}"), or 0.
char ReferenceLetter(absl::string_view text);
// The one letter that an answer chooses, or 0 when it names none or offers several.
char ChosenLetter(absl::string_view text);

// What follows the label of an option ("(B) 12" -> "12"); empty when there is no label.
absl::string_view WithoutLabel(absl::string_view text);

// Words that take an answer back or offer several ("maybe", "either", "5 or 6").
bool Hedges(absl::string_view text);
// Words that say on which side of a number the answer lies ("at least 5", "between 4 and 5").
bool Bounds(absl::string_view text);

}  // namespace espalier::reward

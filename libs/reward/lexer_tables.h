// What the lexer knows by name: functions, commands that mean a mark, commands without a meaning,
// and words that are words rather than products of symbols.
#pragma once

#include "absl/strings/string_view.h"

namespace espalier::reward {

// Functions and named constants, written with or without a backslash.
bool IsMathName(absl::string_view word);
// Those that only a backslash makes: "frac" in plain words is a word.
bool NeedsBackslash(absl::string_view name);
// The longest name that starts `word` and leaves one or two letters behind ("sinx"); empty if none.
absl::string_view NameBefore(absl::string_view word);

// The mark that a command stands for, empty when it stands for none.
absl::string_view MarkOfCommand(absl::string_view name);
// Spacing, size and font commands: the command goes, its argument stays.
bool IsSkippedCommand(absl::string_view name);
// Commands whose first argument goes with them ("\color{red}").
bool SkipsArgument(absl::string_view name);
bool IsTextCommand(absl::string_view name);
bool IsGreekWord(absl::string_view word);

// Two- and three-letter words that are words, not products of symbols.
bool IsShortWord(absl::string_view lower);

}  // namespace espalier::reward

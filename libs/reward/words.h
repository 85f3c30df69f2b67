// Words that are answers: numbers in words, ordinals, clock times, dates, and phrases that stand
// for a set ("no solution", "all real numbers").
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::reward {

// Lower case, without wrappers, quotes, articles and closing marks, words joined by one space.
// Empty when the text holds anything but words, or no word of two letters.
std::string PlainWords(absl::string_view text);

// "thirty-six apples" -> "36 apples", "two thirds" -> "2/3", "21st" -> "21", "no solution" ->
// "\emptyset"; empty when nothing of the kind starts the text.
std::string RewriteWords(absl::string_view text);

struct ClockTime {
  int minutes = 0;       // since midnight; an unmarked hour up to 12 may be of either half
  bool marked = false;   // "a.m.", "p.m.", "noon" or "midnight" was written
  bool certain = false;  // which half of the day is known
};
// "4:30 p.m.", "16:30", "12 pm", "noon"; nothing for other texts.
std::optional<ClockTime> ReadClock(absl::string_view text);
bool SameTime(const ClockTime& a, const ClockTime& b);

struct Date {
  int month = 0, day = 0, year = 0;  // year 0: none
};
// "March 14, 2015", "14th of March"; nothing without the name of a month.
std::optional<Date> ReadDate(absl::string_view text);

}  // namespace espalier::reward

// Pieces of terminal output as pure functions: colours that can be switched off, bars, sparklines,
// cutting to a width.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace espalier::cli {

// How much the terminal can show. Colour and Unicode are off when the output is no terminal.
struct Style {
  bool color = false;
  bool unicode = false;
  int columns = 100;
};

enum class Tone { kPlain, kDim, kBold, kGreen, kYellow, kRed, kCyan };
std::string Paint(const std::string& text, Tone tone, const Style& style);

// Columns that `text` takes: characters, escapes not counted.
int ColumnsOf(const std::string& text);
// Cuts at `columns`, never inside a character or an escape; colours are reset when cut.
std::string Cut(const std::string& text, int columns);
// Pads with blanks on the right (left for `right` alignment).
std::string Pad(const std::string& text, int columns, bool right = false);

// `share` in [0, 1] of `columns` filled.
std::string Bar(double share, int columns, const Style& style);
// One character a value, from lowest to highest; values beyond `columns` are averaged together.
// Non-finite values are left out.
std::string Sparkline(const std::vector<double>& values, int columns, const Style& style);

// "1.2 k", "3.4 M".
std::string Count(double value);
// "3 s", "4 min 05 s", "2 h 07 min".
std::string Duration(double seconds);

// Text of others for a terminal: control characters (which could move the cursor) become '?'.
std::string Printable(const std::string& text);

}  // namespace espalier::cli

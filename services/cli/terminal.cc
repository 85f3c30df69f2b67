// Colours, bars, sparklines and widths.
#include "services/cli/terminal.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace espalier::cli {
namespace {

constexpr const char* kReset = "\x1b[0m";

const char* CodeOf(Tone tone) {
  switch (tone) {
    case Tone::kDim:
      return "\x1b[2m";
    case Tone::kBold:
      return "\x1b[1m";
    case Tone::kGreen:
      return "\x1b[32m";
    case Tone::kYellow:
      return "\x1b[33m";
    case Tone::kRed:
      return "\x1b[31m";
    case Tone::kCyan:
      return "\x1b[36m";
    case Tone::kPlain:
      break;
  }
  return "";
}

// End of the escape or character that begins at `i`, and the columns it takes.
std::pair<size_t, int> Next(const std::string& text, size_t i) {
  if (text[i] == '\x1b' && i + 1 < text.size() && text[i + 1] == '[') {
    size_t end = i + 2;
    while (end < text.size() && (text[end] < '@' || text[end] > '~')) ++end;
    return {std::min(end + 1, text.size()), 0};
  }
  size_t end = i + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return {end, 1};
}

}  // namespace

std::string Paint(const std::string& text, Tone tone, const Style& style) {
  if (!style.color || tone == Tone::kPlain) return text;
  return absl::StrCat(CodeOf(tone), text, kReset);
}

int ColumnsOf(const std::string& text) {
  int columns = 0;
  for (size_t i = 0; i < text.size();) {
    const auto [end, width] = Next(text, i);
    columns += width;
    i = end;
  }
  return columns;
}

std::string Cut(const std::string& text, int columns) {
  int used = 0;
  for (size_t i = 0; i < text.size();) {
    const auto [end, width] = Next(text, i);
    if (used + width > columns) {
      const bool colored = text.find('\x1b') != std::string::npos;
      return text.substr(0, i) + (colored ? kReset : "");
    }
    used += width;
    i = end;
  }
  return text;
}

std::string Pad(const std::string& text, int columns, bool right) {
  const int missing = columns - ColumnsOf(text);
  if (missing <= 0) return text;
  const std::string blanks(static_cast<size_t>(missing), ' ');
  return right ? blanks + text : text + blanks;
}

std::string Bar(double share, int columns, const Style& style) {
  share = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0;
  if (!style.unicode) {
    const int full = static_cast<int>(std::lround(share * columns));
    return std::string(static_cast<size_t>(full), '#') +
           std::string(static_cast<size_t>(columns - full), '.');
  }
  static constexpr std::array<const char*, 8> kEighths = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(share * columns * 8));
  std::string bar;
  for (int i = 0; i < columns; ++i) {
    const int here = eighths - i * 8;
    bar += here >= 8 ? "█" : here > 0 ? kEighths[static_cast<size_t>(here)] : "░";
  }
  return bar;
}

std::string Sparkline(const std::vector<double>& values, int columns, const Style& style) {
  static constexpr std::array<const char*, 8> kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr std::array<const char*, 8> kPlain = {"_", ".", "-", "~", "=", "+", "*", "#"};
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite),
               [](double value) { return std::isfinite(value); });
  if (finite.empty() || columns <= 0) return "";
  const size_t count = std::min(finite.size(), static_cast<size_t>(columns));
  std::vector<double> cells(count, 0);
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = i * finite.size() / count, end = (i + 1) * finite.size() / count;
    for (size_t k = begin; k < end; ++k) cells[i] += finite[k] / static_cast<double>(end - begin);
  }
  const auto [low, high] = std::minmax_element(cells.begin(), cells.end());
  std::string line;
  for (const double cell : cells) {
    const double level = *high > *low ? (cell - *low) / (*high - *low) * 7 : 3;
    line += (style.unicode ? kBlocks : kPlain)[static_cast<size_t>(std::lround(level))];
  }
  return line;
}

std::string Count(double value) {
  if (value < 1000) return absl::StrFormat("%.0f", value);
  if (value < 1e6) return absl::StrFormat("%.1f k", value / 1e3);
  if (value < 1e9) return absl::StrFormat("%.1f M", value / 1e6);
  return absl::StrFormat("%.1f G", value / 1e9);
}

std::string Duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const int64_t whole = static_cast<int64_t>(std::min(seconds, 1e15) + 0.5);
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole % 3600 / 60);
}

std::string Printable(const std::string& text) {
  std::string printable = text;
  for (char& c : printable) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = c == '\n' ? ' ' : '?';
  }
  return printable;
}

}  // namespace espalier::cli

// Pure arithmetic and linear scans.
#include "libs/reward/shape.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <vector>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

// FNV-1a of each word.
std::vector<uint64_t> HashWords(absl::string_view text) {
  std::vector<uint64_t> words;
  constexpr uint64_t kBasis = 0xCBF29CE484222325ull;
  uint64_t hash = kBasis;
  bool open = false;
  const auto close = [&] {
    if (open) words.push_back(hash);
    hash = kBasis, open = false;
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const unsigned char c = static_cast<unsigned char>(text[at]);
    if (IsSpace(text[at])) {
      close();
      continue;
    }
    // Three-byte code points from U+2E80 on are of scripts written without spaces.
    const bool ideograph = c >= 0xE3 || (c == 0xE2 && at + 1 < text.size() &&
                                         static_cast<unsigned char>(text[at + 1]) >= 0xBA);
    if (ideograph) close();
    hash = (hash ^ c) * 0x100000001B3ull;
    open = true;
    if (!ideograph) continue;
    while (at + 1 < text.size() && (static_cast<unsigned char>(text[at + 1]) & 0xC0) == 0x80) {
      hash = (hash ^ static_cast<unsigned char>(text[++at])) * 0x100000001B3ull;
    }
    close();
  }
  close();
  return words;
}

size_t Count(absl::string_view text, absl::string_view what, size_t* first) {
  size_t count = 0;
  *first = absl::string_view::npos;
  for (size_t at = text.find(what); at != absl::string_view::npos;
       at = text.find(what, at + what.size())) {
    if (count++ == 0) *first = at;
  }
  return count;
}

}  // namespace

double ReflectionPart(double reflections, double minimum, double maximum, bool correct) {
  double fall = 0;
  if (reflections > minimum) {
    fall = maximum > minimum ? std::min(1.0, (reflections - minimum) / (maximum - minimum)) : 1.0;
  }
  return (correct ? 1.0 : 0.0) - fall;
}

double OverlongPart(int64_t length, int64_t maximum, int64_t buffer) {
  if (maximum <= 0 || length <= maximum - buffer) return 0;
  if (length > maximum) return -1;
  return -static_cast<double>(length - (maximum - buffer)) / static_cast<double>(buffer);
}

double GroupLengthPart(int64_t length, int64_t shortest, int64_t longest, bool correct) {
  if (longest <= shortest) return 0;
  const double lambda =
      0.5 - static_cast<double>(length - shortest) / static_cast<double>(longest - shortest);
  return correct ? lambda : std::min(0.0, lambda);
}

double CosinePart(int64_t length, int64_t maximum, bool correct) {
  constexpr double kExceeds = -10;
  if (maximum <= 0) return 0;
  if (length >= maximum) return kExceeds;
  const double at_start = correct ? 2 : -10, at_end = correct ? 1 : 0;
  const double turn = std::numbers::pi * static_cast<double>(length) / static_cast<double>(maximum);
  return at_end + (at_start - at_end) * (1 + std::cos(turn)) / 2;
}

double L1Part(int64_t length, int64_t target, double scale) {
  return -scale * static_cast<double>(std::abs(target - length));
}

double L1MaxPart(int64_t length, int64_t target, double scale, bool correct) {
  constexpr double kOnTarget = 0.5;
  if (!correct) return 0;
  return std::clamp(scale * static_cast<double>(target - length) + kOnTarget, 0.0, 1.0);
}

int64_t CountWords(absl::string_view text) { return static_cast<int64_t>(HashWords(text).size()); }

double UniqueRunShare(absl::string_view text) {
  const std::vector<uint64_t> words = HashWords(text);
  if (words.size() < kRunWords) return 1;
  // Polynomial rolling hash over the words' hashes.
  constexpr uint64_t kBase = 0x9E3779B97F4A7C15ull;
  uint64_t last_power = 1;
  for (int i = 1; i < kRunWords; ++i) last_power *= kBase;
  std::vector<uint64_t> runs;
  runs.reserve(words.size() - kRunWords + 1);
  uint64_t hash = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i >= kRunWords) hash -= words[i - kRunWords] * last_power;
    hash = hash * kBase + words[i];
    if (i + 1 >= kRunWords) runs.push_back(hash);
  }
  std::sort(runs.begin(), runs.end());
  const auto unique = std::unique(runs.begin(), runs.end()) - runs.begin();
  return static_cast<double>(unique) / static_cast<double>(runs.size());
}

bool TagsAreWhole(absl::string_view text) {
  constexpr std::array<std::pair<absl::string_view, absl::string_view>, 2> kTags = {
      {{"<think>", "</think>"}, {"<answer>", "</answer>"}}};
  for (const auto& [open, close] : kTags) {
    size_t opened, closed;
    const size_t opens = Count(text, open, &opened), closes = Count(text, close, &closed);
    // Chat templates put "<think>" into the prompt, so a close without its open is whole.
    if (opens > 1 || closes > 1 || (opens == 1 && closes == 0) || (opens == 1 && closed < opened))
      return false;
    if (open == "<answer>" && opens != closes) return false;
  }
  return true;
}

}  // namespace espalier::reward

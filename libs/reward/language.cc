// One pass counts the letters of each script; plain ASCII, the common case, has one script and
// needs no more.
#include "libs/reward/language.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

enum Script { kLatin, kCyrillic, kHebrew, kArabic, kIndic, kThai, kHan, kKana, kHangul, kScripts };

struct Range {
  uint32_t first, last;
  Script script;
};
constexpr std::array<Range, 20> kRanges = {
    {{0x00C0, 0x024F, kLatin},  {0x0400, 0x052F, kCyrillic}, {0x0590, 0x05FF, kHebrew},
     {0x0600, 0x065F, kArabic}, {0x066E, 0x06EF, kArabic},   {0x06FA, 0x077F, kArabic},
     {0x0900, 0x0963, kIndic},  {0x0970, 0x0DFF, kIndic},    {0x0E00, 0x0E4F, kThai},
     {0x1100, 0x11FF, kHangul}, {0x1E00, 0x1EFF, kLatin},    {0x3040, 0x30FF, kKana},
     {0x3130, 0x318F, kHangul}, {0x31F0, 0x31FF, kKana},     {0x3400, 0x4DBF, kHan},
     {0x4E00, 0x9FFF, kHan},    {0xAC00, 0xD7AF, kHangul},   {0xF900, 0xFAFF, kHan},
     {0xFB50, 0xFEFC, kArabic}, {0x20000, 0x3FFFF, kHan}}};

// Letters (of Latin: letters of words) up to which a script counts as a name or a symbol.
constexpr size_t kStrayLetters = 3;
constexpr size_t kStrayLatinLetters = 24;
constexpr size_t kLatinWordMin = 3;

using Counts = std::array<size_t, kScripts>;

// The code point at `*at`, which moves behind it; 0 for bytes that are no UTF-8.
uint32_t Next(absl::string_view text, size_t* at) {
  const unsigned char lead = static_cast<unsigned char>(text[(*at)++]);
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
  if (lead < 0x80) return lead;
  if (more == 0) return 0;
  uint32_t code = lead & (0x3Fu >> more);
  for (int i = 0; i < more; ++i) {
    if (*at >= text.size() || (static_cast<unsigned char>(text[*at]) & 0xC0) != 0x80) return 0;
    code = code << 6 | (static_cast<unsigned char>(text[(*at)++]) & 0x3F);
  }
  return code;
}

Script ScriptOf(uint32_t code) {
  for (const Range& range : kRanges) {
    if (code >= range.first && code <= range.last) return range.script;
  }
  return kScripts;
}

Counts CountScripts(absl::string_view text) {
  Counts counts{};
  size_t word = 0;  // letters of the Latin word that is open
  bool command = false;
  const auto close = [&] {
    if (!command && word >= kLatinWordMin) counts[kLatin] += word;
    word = 0;
    command = false;
  };
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (static_cast<unsigned char>(c) < 0x80) {
      ++at;
      if (IsLetter(c)) {
        ++word;
        continue;
      }
      close();
      // What follows belongs to LaTeX ("\frac") or to a tag ("<think>", "</answer>").
      command = c == '\\' || c == '<' || (c == '/' && at >= 2 && text[at - 2] == '<');
      continue;
    }
    const Script script = ScriptOf(Next(text, &at));
    if (script == kLatin) {
      ++word;
      continue;
    }
    close();
    if (script != kScripts) ++counts[script];
  }
  close();
  return counts;
}

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool IsForeign(const Counts& own, const Counts& allowed, int script) {
  const size_t stray = script == kLatin ? kStrayLatinLetters : kStrayLetters;
  return allowed[script] == 0 && own[script] > stray;
}

}  // namespace

bool KeepsToLanguage(absl::string_view trace, absl::string_view prompt) {
  if (IsAscii(trace) && IsAscii(prompt)) return true;
  const Counts own = CountScripts(trace);
  Counts allowed = CountScripts(prompt);
  const bool prompt_has_letters =
      std::any_of(allowed.begin(), allowed.end(), [](size_t count) { return count > 0; });
  if (!prompt_has_letters) allowed[std::max_element(own.begin(), own.end()) - own.begin()] = 1;
  // Japanese writes Han and Kana together.
  if (allowed[kKana] > 0 || (!prompt_has_letters && own[kKana] > kStrayLetters)) {
    allowed[kHan] = allowed[kKana] = 1;
  }
  for (int script = 0; script < kScripts; ++script) {
    if (IsForeign(own, allowed, script)) return false;
  }
  return true;
}

}  // namespace espalier::reward

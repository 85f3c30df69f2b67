// A correct trace's own final answer and the reference are equivalent, so one verifier decides for
// right and wrong traces alike.
#include "libs/reward/reflect.h"

#include <array>
#include <string>
#include <unordered_map>

#include "libs/reward/scan.h"
#include "libs/reward/statements.h"

namespace espalier::reward {
namespace {

// Different statements that one trace may have verified; those behind are not counted.
constexpr size_t kDistinctMax = 64;

constexpr std::array<absl::string_view, 20> kCues = {
    "wait",          "hmm",          "hm,",          "let me check",   "let me double",
    "let me verify", "let me re",    "let's double", "let's verify",   "let's check",
    "let's re-",     "double-check", "double check", "alternatively",  "on second",
    "hold on",       "just to be",   "to be sure",   "let me confirm", "let me make sure"};

// Size of the cue at `at`; 0 when there is none.
size_t CueAt(absl::string_view text, size_t at) {
  for (const absl::string_view cue : kCues) {
    if (!HoldsAt(text, at, cue)) continue;
    const size_t behind = at + cue.size();
    // "waiter" and "waited" are no cues; "hmmm" is.
    if (cue == "wait" && behind < text.size() && IsWordByte(text[behind])) continue;
    return cue.size();
  }
  return 0;
}

std::vector<TextSpan> FindHesitations(absl::string_view text) {
  std::vector<TextSpan> found;
  bool sentence_has_one = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n' ||
        ((c == '.' || c == '!' || c == '?') && (at + 1 == text.size() || IsSpace(text[at + 1])))) {
      sentence_has_one = false;
      continue;
    }
    const char lower = Lower(c);
    if (sentence_has_one || (at > 0 && IsLetter(text[at - 1]))) continue;
    if (lower != 'w' && lower != 'h' && lower != 'l' && lower != 'd' && lower != 'a' &&
        lower != 'o' && lower != 'j' && lower != 't') {
      continue;
    }
    const size_t size = CueAt(text, at);
    if (size == 0) continue;
    found.push_back({static_cast<int64_t>(at), static_cast<int64_t>(at + size)});
    sentence_has_one = true;
  }
  return found;
}

}  // namespace

Reflections FindReflections(absl::string_view trace, const Verifier& verifier) {
  Reflections reflections;
  reflections.hesitations = FindHesitations(trace);
  std::unordered_map<std::string, bool> known;
  for (const Statement& statement : FindStatements(trace)) {
    auto verdict = known.find(statement.text);
    if (verdict == known.end()) {
      const bool right = known.size() < kDistinctMax &&
                         verifier.Verify(statement.text).verdict == Verdict::kCorrect;
      verdict = known.emplace(statement.text, right).first;
    }
    if (reflections.statements++ == 0) reflections.first_correct = verdict->second;
    if (!verdict->second) continue;
    reflections.correct.push_back(
        {static_cast<int64_t>(statement.marker), static_cast<int64_t>(statement.stop)});
  }
  return reflections;
}

}  // namespace espalier::reward

// A correct trace's own final answer and the reference are equivalent, so one verifier decides for
// right and wrong traces alike.
#include "libs/reward/reflect.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "libs/reward/conclusions.h"
#include "libs/reward/scan.h"
#include "libs/reward/sentences.h"
#include "libs/reward/statements.h"

namespace espalier::reward {
namespace {

// Different marked statements, and different values of prose, that one trace may have verified;
// those behind are not counted.
constexpr size_t kMarkedMax = 64;
constexpr size_t kValuesMax = 64;

// A marked statement or a sentence without one, in order.
struct Item {
  TextSpan span;
  bool marked = false, right = false;
  bool checks = false;  // holds a cue of hesitation
  bool works = false;   // has numbers and is no right conclusion
  bool leads = false;   // a word of conclusion leads it
  bool last_of_section = false;
  Conclusion kind = Conclusion::kNone;
};

// The verdicts of one trace, each text verified once.
class Verdicts {
 public:
  Verdicts(const Verifier& verifier, size_t max) : verifier_(verifier), max_(max) {}

  bool IsRight(absl::string_view text) {
    if (verifier_.SurelyWrong(text)) return false;
    std::string key(text);
    const auto found = known_.find(key);
    if (found != known_.end()) return found->second;
    if (known_.size() >= max_) return false;
    const bool right = verifier_.Verify(text).verdict == Verdict::kCorrect;
    known_.emplace(std::move(key), right);
    return right;
  }

 private:
  const Verifier& verifier_;
  const size_t max_;
  std::unordered_map<std::string, bool> known_;
};

int64_t Trimmed(absl::string_view trace, int64_t begin, int64_t end) {
  while (end > begin && IsSpace(trace[end - 1])) --end;
  return end;
}

// Several words: no bare value or formula.
bool IsProse(absl::string_view text) {
  constexpr size_t kWordMin = 3;
  int words = 0;
  for (size_t at = 0; at < text.size() && words < 2;) {
    size_t end = at;
    while (end < text.size() && IsLetter(text[end])) ++end;
    words += end - at >= kWordMin && (at == 0 || text[at - 1] != '\\');
    at = end + 1;
  }
  return words >= 2;
}

class Reader {
 public:
  Reader(absl::string_view trace, const Verifier& verifier)
      : trace_(trace),
        exact_(verifier.exact()),
        marked_(verifier, kMarkedMax),
        values_(verifier, kValuesMax) {}

  Reflections Run(const Extraction* final_answer) {
    ReadItems();
    Settle();
    if (final_answer != nullptr) AddFinal(*final_answer);
    for (const Item& item : items_) {
      if (item.right) result_.correct.push_back(item.span);
    }
    const auto is_statement = [](const Item& item) { return item.marked || item.right; };
    const auto first = std::find_if(items_.begin(), items_.end(), is_statement);
    result_.first_correct = first != items_.end() && first->right;
    return std::move(result_);
  }

 private:
  void ReadItems() {
    const std::vector<Statement> statements = FindStatements(trace_);
    result_.statements = static_cast<int>(statements.size());
    auto statement = statements.begin();
    size_t covered = 0;  // up to here a marked statement reaches
    for (const Sentence& sentence : SplitSentences(trace_)) {
      const Cue cue = FindCue(trace_, sentence);
      if (cue.size > 0) {
        result_.hesitations.push_back(
            {static_cast<int64_t>(cue.begin), static_cast<int64_t>(cue.begin + cue.size)});
      }
      size_t begin = sentence.begin;
      bool has_marked = begin < covered;
      for (; statement != statements.end() && statement->marker < sentence.end; ++statement) {
        AddMarked(*statement, std::max(begin, covered), cue.size > 0);
        covered = std::max(covered, statement->stop);
        begin = sentence.end;  // a second one of this sentence starts at its own mark
        has_marked = true;
      }
      if (has_marked) {
        if (!items_.empty()) items_.back().last_of_section |= sentence.last_of_section;
      } else {
        AddUnmarked(sentence, cue.size > 0);
      }
    }
  }

  void AddMarked(const Statement& statement, size_t sentence_begin, bool checks) {
    Item item;
    const size_t begin = std::min(sentence_begin, statement.marker);
    item.span = {static_cast<int64_t>(begin), 0};
    item.span.end = Trimmed(trace_, item.span.begin, static_cast<int64_t>(statement.stop));
    item.marked = true;
    item.checks = checks;
    item.right = marked_.IsRight(statement.text);
    items_.push_back(item);
  }

  void AddUnmarked(const Sentence& sentence, bool checks) {
    const ConclusionReading reading = ReadConclusion(trace_, sentence);
    Item item;
    item.span = {static_cast<int64_t>(sentence.begin), static_cast<int64_t>(sentence.end)};
    item.checks = checks;
    item.last_of_section = sentence.last_of_section;
    for (size_t i = 0; i < reading.value_count && item.kind == Conclusion::kNone; ++i) {
      // The numbers in the words are values of their own.
      if (exact_ && IsProse(reading.values[i])) continue;
      if (values_.IsRight(reading.values[i])) item.kind = reading.kind;
    }
    item.leads = reading.leads;
    item.works = reading.has_digits && item.kind == Conclusion::kNone && !reading.names;
    items_.push_back(item);
  }

  // From the end: a conclusion stands when what follows it is no further work on it.
  void Settle() {
    enum { kSettles, kConcludes, kSaysAgain, kWorks } behind = kSettles;
    for (auto item = items_.rbegin(); item != items_.rend(); ++item) {
      if (item->last_of_section) behind = kSettles;
      if (item->marked) {
        // Another answer was meant all along.
        behind = item->right || item->checks ? kSettles : kWorks;
        continue;
      }
      item->right =
          item->kind == Conclusion::kConfirm ||
          (item->kind == Conclusion::kStrong && behind != kWorks) ||
          (item->kind == Conclusion::kWeak && (behind == kSettles || behind == kConcludes));
      if (item->checks) {
        behind = kSettles;
      } else if (item->right) {
        // "She gives away 8. She has 8 left." says it once, "8 are left. So she has 8." twice.
        behind = item->leads ? kConcludes : kSaysAgain;
      } else if (item->works || item->kind != Conclusion::kNone) {
        behind = kWorks;
      }
    }
  }

  void AddFinal(const Extraction& answer) {
    for (Item& item : items_) {
      if (item.span.end <= answer.begin) continue;
      if (item.span.begin < answer.end) item.right = true;
      return;
    }
  }

  const absl::string_view trace_;
  const bool exact_;  // the reference is one number
  Verdicts marked_, values_;
  std::vector<Item> items_;
  Reflections result_;
};

}  // namespace

Reflections FindReflections(absl::string_view trace, const Verifier& verifier,
                            const Extraction* final_answer) {
  return Reader(trace, verifier).Run(final_answer);
}

}  // namespace espalier::reward

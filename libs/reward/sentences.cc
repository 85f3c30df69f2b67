// One pass; the closing delimiter of a formula is looked for once however many open, so that
// hostile text stays linear.
#include "libs/reward/sentences.h"

#include <algorithm>
#include <array>

#include "libs/reward/scan.h"
#include "libs/reward/word_index.h"

namespace espalier::reward {
namespace {

constexpr size_t kNone = absl::string_view::npos;
// A formula longer than this is taken for a stray delimiter.
constexpr size_t kFormulaBytesMax = 600;

constexpr std::array<absl::string_view, 10> kTags = {
    "<think>",      "</think>", "<thinking>", "</thinking>",  "<reasoning>",
    "</reasoning>", "<answer>", "</answer>",  "<|im_start|>", "<|im_end|>"};

constexpr std::array<absl::string_view, 5> kWideStops = {"。", "？", "！", "।", "؟"};

constexpr std::array<absl::string_view, 8> kAbbreviations = {"e.g", "i.e", "approx", "vs",
                                                             "cf",  "mr",  "mrs",    "dr"};

// Lower case; a cue starts a word and, unless it may go on ("hmmm", "let me re…"), ends one.
struct CueWord {
  absl::string_view text;
  bool goes_on = false;
};
constexpr std::array<CueWord, 47> kCues = {{{"wait"},
                                            {"hmm", true},
                                            {"hm"},
                                            {"oops"},
                                            {"hold on"},
                                            {"hang on"},
                                            {"alternatively"},
                                            {"let me check"},
                                            {"let me double", true},
                                            {"let me verify"},
                                            {"let me confirm"},
                                            {"let me make sure"},
                                            {"let me make certain"},
                                            {"let me see if", true},
                                            {"let me test"},
                                            {"let me think again"},
                                            {"let me re", true},
                                            {"let's check"},
                                            {"let's double", true},
                                            {"let's verify"},
                                            {"let's confirm"},
                                            {"let's make sure"},
                                            {"let's re", true},
                                            {"let us check"},
                                            {"let us verify"},
                                            {"double-check", true},
                                            {"double check", true},
                                            {"recheck", true},
                                            {"re-check", true},
                                            {"on second thought", true},
                                            {"just to be"},
                                            {"to be sure"},
                                            {"to make sure"},
                                            {"but is that right"},
                                            {"am i sure"},
                                            {"check:", true},
                                            {"espera"},
                                            {"un momento"},
                                            {"voy a comprobar", true},
                                            {"verifiquemos"},
                                            {"attends"},
                                            {"attendez"},
                                            {"vérifions"},
                                            {"moment mal"},
                                            {"moment, ich"},
                                            {"warte"},
                                            {"aspetta"}}};

// Of other scripts, found anywhere in a sentence.
constexpr std::array<absl::string_view, 17> kWideCues = {
    "等等",   "等一下", "让我再", "让我检查",   "让我验证", "让我确认",
    "再检查", "再验证", "不对",   "подожди",    "проверим", "проверю",
    "रुको",    "जांच कर", "انتظر",  "دعني أتحقق", "待って"};

bool EndsSentence(absl::string_view text, size_t begin, size_t dot) {
  if (dot + 1 >= text.size()) return true;
  const char next = text[dot + 1], previous = dot == begin ? ' ' : text[dot - 1];
  if (IsSpace(next)) {
    size_t word = dot;
    while (word > begin && !IsSpace(text[word - 1]) && text[word - 1] != '(') --word;
    for (const absl::string_view abbreviation : kAbbreviations) {
      if (dot - word == abbreviation.size() && HoldsAt(text, word, abbreviation)) return false;
    }
    return true;
  }
  if (IsDigit(previous)) return !IsDigit(next) && !IsWordByte(next) ? next != ',' : IsUpper(next);
  return next == '<' || next == '*' || next == '"' || next == '$' || next == '\\' || next == ')';
}

class Splitter {
 public:
  explicit Splitter(absl::string_view text) : text_(text) {}

  std::vector<Sentence> Run() {
    size_t at = 0;
    while (true) {
      at = SkipSpace(text_, at);
      if (at >= text_.size()) break;
      if (const size_t tag = TagAt(at); tag > 0) {
        if (!sentences_.empty()) sentences_.back().last_of_section = true;
        in_answer_tag_ = HoldsAt(text_, at, "<answer>");
        at += tag;
        continue;
      }
      const size_t begin = SkipListMark(at);
      at = FindEnd(begin);
      if (at > begin) Add(begin, at);
    }
    if (!sentences_.empty()) sentences_.back().last_of_section = true;
    return std::move(sentences_);
  }

 private:
  void Add(size_t begin, size_t end) {
    while (end > begin && IsSpace(text_[end - 1])) --end;
    if (end > begin) sentences_.push_back({begin, end, in_answer_tag_, false});
  }

  size_t TagAt(size_t at) const {
    if (text_[at] != '<') return 0;
    for (const absl::string_view tag : kTags) {
      if (HoldsAt(text_, at, tag)) return tag.size();
    }
    return 0;
  }

  // Behind "1. " or "- " when words follow.
  size_t SkipListMark(size_t at) const {
    size_t next = at;
    while (next < text_.size() && IsDigit(text_[next]) && next < at + 3) ++next;
    const bool number =
        next > at && next < text_.size() && (text_[next] == '.' || text_[next] == ')');
    const bool bullet = next == at && (text_[at] == '-' || text_[at] == '*');
    if ((!number && !bullet) || next + 1 >= text_.size() || text_[next + 1] != ' ') return at;
    const size_t behind = SkipSpace(text_, next + 1);
    const bool words =
        behind < text_.size() && (IsWordByte(text_[behind]) || text_[behind] == '*' ||
                                  text_[behind] == '$' || text_[behind] == '\\');
    return words ? behind : at;
  }

  // Behind the formula that opens at `at`; 0 when none does.
  size_t FormulaEnd(size_t at) {
    absl::string_view close;
    size_t* next = nullptr;
    if (text_[at] == '$') {
      close = "$", next = &next_dollar_;
    } else if (HoldsAt(text_, at, "\\(")) {
      close = "\\)", next = &next_round_;
    } else if (HoldsAt(text_, at, "\\[")) {
      close = "\\]", next = &next_square_;
    } else {
      return 0;
    }
    const bool doubled = close == "$" && HoldsAt(text_, at, "$$");
    const size_t from = at + (doubled || close != "$" ? 2 : 1);
    if (*next != kNone && *next < from) *next = text_.find(close, from);
    if (*next == kNone || *next - at > kFormulaBytesMax) return 0;
    const size_t end = *next + close.size();
    // "costs $5. Then $6" is money.
    const absl::string_view inner = text_.substr(at, end - at);
    if (close == "$" && (inner.find(". ") != kNone || (!doubled && inner.find('\n') != kNone)))
      return 0;
    return doubled && end < text_.size() && text_[end] == '$' ? end + 1 : end;
  }

  size_t FindEnd(size_t begin) {
    size_t at = begin;
    while (at < text_.size()) {
      const char c = text_[at];
      if (c == '\n') return at;
      if (c == '$' || c == '\\') {
        const size_t end = FormulaEnd(at);
        at = end > 0 ? end : at + 1 + (c == '\\' && at + 1 < text_.size());
        continue;
      }
      if (c == '<' && TagAt(at) > 0) return at;
      const bool mark =
          (c == '.' && EndsSentence(text_, begin, at)) || c == '?' ||
          (c == '!' && at > begin && (IsLetter(text_[at - 1]) || text_[at - 1] == '!') &&
           (at + 1 == text_.size() || IsSpace(text_[at + 1])));
      if (mark) return BehindMark(at + 1);
      if (static_cast<unsigned char>(c) >= 0xD8) {
        for (const absl::string_view stop : kWideStops) {
          if (text_.substr(at, stop.size()) == stop) return at + stop.size();
        }
      }
      ++at;
    }
    return at;
  }

  // Closing quotes and emphasis belong to the sentence.
  size_t BehindMark(size_t at) const {
    while (at < text_.size() && (text_[at] == '*' || text_[at] == '"' || text_[at] == ')' ||
                                 text_[at] == '.' || text_[at] == '?' || text_[at] == '!')) {
      ++at;
    }
    return at;
  }

  const absl::string_view text_;
  std::vector<Sentence> sentences_;
  bool in_answer_tag_ = false;
  // The first closing delimiter at or behind the last place that was asked for.
  size_t next_dollar_ = 0, next_round_ = 0, next_square_ = 0;
};

// The cues by first byte: those that must end where they end, and those that may go on.
struct CueIndex {
  static std::vector<absl::string_view> Of(bool goes_on) {
    std::vector<absl::string_view> texts;
    for (const CueWord& cue : kCues) {
      if (cue.goes_on == goes_on) texts.push_back(cue.text);
    }
    return texts;
  }
  WordIndex closed{Of(false)}, open{Of(true)}, wide{kWideCues};
};
const CueIndex& Cues() {
  static const auto* const kIndex = new CueIndex;
  return *kIndex;
}

size_t CueAt(absl::string_view text, size_t at) {
  // "waiter" and "waited" are no cues; "hmmm" is.
  const auto ends = [&](absl::string_view cue) {
    return at + cue.size() >= text.size() || !IsWordByte(text[at + cue.size()]);
  };
  const size_t closed = Cues().closed.FindAt(text, at, ends).size();
  const size_t open = Cues().open.FindAt(text, at, [](absl::string_view) { return true; }).size();
  return std::max(closed, open);
}

}  // namespace

std::vector<Sentence> SplitSentences(absl::string_view text) { return Splitter(text).Run(); }

Cue FindCue(absl::string_view text, const Sentence& sentence) {
  const absl::string_view reach = text.substr(0, sentence.end);
  for (size_t at = sentence.begin; at < sentence.end; ++at) {
    const char c = reach[at];
    if (static_cast<unsigned char>(c) >= 0xC0) {
      if (!Cues().wide.AnyStartsWith(c)) continue;
      const size_t size =
          Cues().wide.FindAt(reach, at, [](absl::string_view) { return true; }).size();
      if (size > 0) return {at, size};
      continue;
    }
    if (!IsLetter(c) || (at > sentence.begin && IsWordByte(reach[at - 1]))) continue;
    const size_t size = CueAt(reach, at);
    if (size > 0) return {at, size};
  }
  return {};
}

}  // namespace espalier::reward

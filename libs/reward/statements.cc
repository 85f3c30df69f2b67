// One pass finds the markers; what follows each, up to the end of its sentence, is the answer. A
// marker inside the sentence of another refines it ("Final answer: the answer is \boxed{5}." states
// once).
#include "libs/reward/statements.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libs/reward/scan.h"
#include "libs/reward/word_index.h"

namespace espalier::reward {
namespace {

constexpr size_t kNone = absl::string_view::npos;
// Sentences longer than this end here: nothing that long is an answer, and each is looked at once a
// marker.
constexpr size_t kSentenceBytesMax = 4000;

// Phrases of other languages that the answer follows, lower case.
constexpr std::array<absl::string_view, 71> kPhrases = {"答案是",
                                                        "答案为",
                                                        "答案為",
                                                        "答案：",
                                                        "答案:",
                                                        "答：",
                                                        "正确答案是",
                                                        "结果是",
                                                        "结果为",
                                                        "故选",
                                                        "所以选",
                                                        "应选",
                                                        "答案應該是",
                                                        "réponse est",
                                                        "réponse finale est",
                                                        "réponse correcte est",
                                                        "réponse :",
                                                        "réponse:",
                                                        "résultat est",
                                                        "solution est",
                                                        "respuesta es",
                                                        "respuesta final es",
                                                        "respuesta correcta es",
                                                        "respuesta:",
                                                        "resultado es",
                                                        "solución es",
                                                        "resposta é",
                                                        "resposta final é",
                                                        "resposta:",
                                                        "risposta è",
                                                        "risposta:",
                                                        "antwort ist",
                                                        "antwort lautet",
                                                        "antwort:",
                                                        "ergebnis ist",
                                                        "ergebnis lautet",
                                                        "ergebnis:",
                                                        "endergebnis ist",
                                                        "lösung ist",
                                                        "lösung lautet",
                                                        "lösung:",
                                                        "उत्तर है",
                                                        "उत्तर:",
                                                        "उत्तर :",
                                                        "उत्तर होगा",
                                                        "राशि है",
                                                        "जवाब है",
                                                        "सही उत्तर",
                                                        "अंतिम उत्तर",
                                                        "उत्तर ",
                                                        "الجواب هو",
                                                        "الجواب النهائي هو",
                                                        "الجواب:",
                                                        "الإجابة هي",
                                                        "الإجابة النهائية هي",
                                                        "الإجابة الصحيحة هي",
                                                        "الإجابة:",
                                                        "النتيجة هي",
                                                        "الناتج هو",
                                                        "ответ:",
                                                        "ответ —",
                                                        "ответом является",
                                                        "答えは",
                                                        "答え：",
                                                        "答え:",
                                                        "답은",
                                                        "정답은",
                                                        "정답:",
                                                        "correct option is",
                                                        "correct choice is",
                                                        "final result is"};

// Words that may stand between "answer is" and the answer.
constexpr std::array<absl::string_view, 10> kFillers = {
    "for sure ",  "definitely ", "clearly ", "simply ", "just ",
    "therefore ", "thus ",       "indeed ",  "option ", "choice "};

size_t SkipDecoration(absl::string_view text, size_t at) {
  while (at < text.size() && (IsSpace(text[at]) || text[at] == '*' || text[at] == '_' ||
                              text[at] == ':' || text[at] == '"' || text[at] == '`')) {
    ++at;
  }
  return at;
}

// Behind "answer": the place behind what links it to the answer ("is", ":", "would be" …), or kNone
// when the word is used otherwise ("answer choices").
size_t MatchAnswerLink(absl::string_view text, size_t at) {
  size_t next = at;
  while (next < text.size() && (text[next] == ' ' || text[next] == '*')) ++next;
  if (next < text.size() && text[next] == ':') return SkipDecoration(text, next);
  if (next < text.size() && text[next] == '=') return SkipDecoration(text, next + 1);
  for (const absl::string_view of : {"to ", "of ", "for "}) {
    if (!HoldsAt(text, next, of)) continue;
    const absl::string_view reach = text.substr(0, std::min(text.size(), next + 120));
    const size_t is = FindWithoutCase(reach, " is ", next);
    if (is == kNone || reach.substr(next, is - next).find_first_of(".\n") != kNone) return kNone;
    next = is + 1;
    break;
  }
  for (const absl::string_view link :
       {"is", "should be", "must be", "would be", "will be", "equals"}) {
    if (!HoldsAt(text, next, link)) continue;
    size_t behind = next + link.size();
    if (behind < text.size() && IsWordByte(text[behind])) continue;
    return SkipDecoration(text, behind);
  }
  // A hedge stays part of the answer, where the verifier sees it.
  for (const absl::string_view hedge : {"could be ", "might be ", "may be ", "can be "}) {
    if (HoldsAt(text, next, hedge)) return next;
  }
  return kNone;
}

// The place behind an answer phrase that starts at `at`, or kNone.
size_t MatchPhrase(absl::string_view text, size_t at) {
  const char c = Lower(text[at]);
  const bool inside_word = at > 0 && IsLetter(text[at - 1]);
  if (c == 'a' && !inside_word && HoldsAt(text, at, "answer")) {
    return MatchAnswerLink(text, at + std::strlen("answer"));
  }
  if (inside_word && static_cast<unsigned char>(c) < 0x80) return kNone;
  static const auto* const kIndex = new WordIndex(kPhrases);
  if (!kIndex->AnyStartsWith(c)) return kNone;
  const absl::string_view phrase = kIndex->FindAt(text, at, [](absl::string_view) { return true; });
  return phrase.empty() ? kNone : SkipDecoration(text, at + phrase.size());
}

struct Found {
  size_t begin = 0, end = kNone, behind = 0;
};

// The closing brace of every opening one, found for the whole text at once: a search from each box
// could be quadratic.
class Braces {
 public:
  size_t CloseOf(absl::string_view text, size_t open) {
    if (!built_) Build(text);
    const auto at =
        std::lower_bound(pairs_.begin(), pairs_.end(), open,
                         [](const Pair& pair, size_t value) { return pair.open < value; });
    return at == pairs_.end() || at->open != open ? kNone : at->close;
  }

 private:
  struct Pair {
    size_t open, close;
  };

  void Build(absl::string_view text) {
    built_ = true;
    std::vector<size_t> stack;  // indices into pairs_
    for (size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '\\') {
        ++at;
      } else if (text[at] == '{') {
        stack.push_back(pairs_.size());
        pairs_.push_back({at, kNone});
      } else if (text[at] == '}' && !stack.empty()) {
        pairs_[stack.back()].close = at;
        stack.pop_back();
      }
    }
  }

  bool built_ = false;
  std::vector<Pair> pairs_;
};

// `at` is behind "\boxed" or "\fbox".
Found ReadBox(absl::string_view text, size_t at, Braces* braces) {
  const size_t open = SkipSpace(text, at);
  if (open < text.size() && text[open] == '{') {
    const size_t close = braces->CloseOf(text, open);
    if (close == kNone) return {};
    return {open + 1, close, close + 1};
  }
  size_t end = open;
  while (end < text.size() &&
         (IsDigit(text[end]) || (end > open && (text[end] == '.' || text[end] == '/'))))
    ++end;
  while (end > open && text[end - 1] == '.') --end;
  if (end == open) return {};
  return {open, end, end};
}

absl::string_view TrimAnswer(absl::string_view text) {
  text = Trim(text);
  while (!text.empty() &&
         (text.back() == '*' || text.back() == '"' || text.back() == '`' || text.back() == '_' ||
          (text.size() > 1 && text.back() == '\\' && text[text.size() - 2] != '\\'))) {
    text.remove_suffix(1);
    text = Trim(text);
  }
  return text;
}

class Finder {
 public:
  explicit Finder(absl::string_view text) : text_(text) {}

  std::vector<Statement> Run() {
    size_t at = 0;
    while (at < text_.size()) at = Step(at);
    for (Statement& statement : statements_) {
      if (statement.text.empty())
        statement.text = std::string(Content(statement.begin, statement.end));
    }
    return std::move(statements_);
  }

 private:
  size_t Step(size_t at) {
    const char c = text_[at];
    if (c == '\\' && (HoldsAt(text_, at, "\\boxed") || HoldsAt(text_, at, "\\fbox"))) {
      const Found box = ReadBox(text_, at + (text_[at + 1] == 'b' ? 6 : 5), &braces_);
      if (box.end != kNone && !Trim(text_.substr(box.begin, box.end - box.begin)).empty()) {
        AddBox(at, box);
        return box.behind;
      }
      // Never closed: nothing behind it can be closed either, but a later box may be.
      return at + 1;
    }
    if (c == '#' && HoldsAt(text_, at, "####")) return AddHash(at);
    const size_t behind = MatchPhrase(text_, at);
    if (behind != kNone && behind < text_.size()) {
      AddPhrase(at, behind);
      return behind;
    }
    return at + 1;
  }

  // The text up to where a sentence that starts at `begin` ends at the latest.
  absl::string_view Reach(size_t begin) const {
    return text_.substr(0, std::min(text_.size(), begin + kSentenceBytesMax));
  }
  absl::string_view Content(size_t begin, size_t end) const {
    return TrimAnswer(text_.substr(begin, end - begin));
  }

  bool InLast(size_t at) const { return !statements_.empty() && at < statements_.back().stop; }

  void AddBox(size_t marker, const Found& box) {
    const absl::string_view content = TrimAnswer(text_.substr(box.begin, box.end - box.begin));
    if (InLast(marker)) {
      Statement& last = statements_.back();
      if (std::strcmp(last.rule, "boxed") == 0) {
        // Boxes of one sentence are parts of one answer, or options that contradict: either way one
        // list.
        if (content != last.text) absl::StrAppend(&last.text, ", ", content);
        last.end = box.end;
      } else {
        last.begin = box.begin, last.end = box.end;
        last.text = std::string(content);
        last.rule = "boxed";
      }
      last.stop = std::max(last.stop, box.behind);
      return;
    }
    statements_.push_back(
        {marker, box.begin, box.end, StopOf(box.behind), std::string(content), "boxed"});
  }

  void AddPhrase(size_t marker, size_t begin) {
    for (bool again = true; again;) {
      again = false;
      for (const absl::string_view filler : kFillers) {
        if (!HoldsAt(text_, begin, filler)) continue;
        begin = SkipDecoration(text_, begin + filler.size());
        again = true;
      }
    }
    if (begin >= text_.size()) return;
    SentenceEnd sentence;
    if (InLast(marker)) {
      // "\boxed{5} is the answer: …": the box has said it.
      if (std::strcmp(statements_.back().rule, "boxed") == 0) return;
      marker = statements_.back().marker;
      if (begin < statements_.back().stop) {
        sentence = {statements_.back().end, statements_.back().stop};
      } else {
        sentence = FindSentenceEnd(Reach(begin), begin);
      }
      statements_.pop_back();
    } else {
      sentence = FindSentenceEnd(Reach(begin), begin);
    }
    const absl::string_view content = Content(begin, sentence.end);
    if (content.empty()) return;
    statements_.push_back(
        {marker, begin, begin + content.size(), sentence.stop, "", "answer_phrase"});
  }

  // Returns where to go on.
  size_t AddHash(size_t marker) {
    size_t begin = marker + 4;
    while (begin < text_.size() && text_[begin] == ' ') ++begin;
    const absl::string_view reach = Reach(begin);
    const size_t end = std::min(reach.find('\n', begin), reach.size());
    if (begin >= end || text_[begin] == '#') return begin;
    const absl::string_view content = Content(begin, end);
    if (!content.empty())
      statements_.push_back({marker, begin, begin + content.size(), end, "", "hash"});
    return begin;
  }

  size_t StopOf(size_t at) {
    // A formula's closing delimiter belongs to the sentence, and its "\]" or "$" must not open
    // another one.
    while (at < text_.size() && (text_[at] == '$' || text_[at] == ' ')) ++at;
    for (const absl::string_view close : {"\\)", "\\]"}) {
      if (HoldsAt(text_, at, close)) at += close.size();
    }
    return FindSentenceEnd(Reach(at), at).stop;
  }

  const absl::string_view text_;
  std::vector<Statement> statements_;
  Braces braces_;
};

}  // namespace

std::vector<Statement> FindStatements(absl::string_view text) { return Finder(text).Run(); }

}  // namespace espalier::reward

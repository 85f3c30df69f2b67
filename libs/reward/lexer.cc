// Marks beyond ASCII's own: 'l' <=, 'g' >=, '#' !=, '~' about, 'i' element of, 'n' not element of,
// 'U' union, 'N' intersection, 'D' set difference, 'p' plus-minus, 'm' minus-plus, 'o' degree, 't'
// tends to, '\\' line break of a matrix, '"' opening set brace, '\'' closing set brace, 'L'/'F'
// floor, 'C'/'c' ceiling. Unicode is folded before (fold.cc).
#include "libs/reward/lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "libs/reward/fold.h"
#include "libs/reward/lexer_tables.h"
#include "libs/reward/number_reader.h"
#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

using Pair = std::pair<absl::string_view, absl::string_view>;

class Lexer {
 public:
  explicit Lexer(absl::string_view text) : text_(text) {}

  std::vector<Token> Run() {
    while (at_ < text_.size()) {
      if (!Step()) return {};
    }
    Put(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool Step() {
    const char c = text_[at_];
    if (IsSpace(c) || c == '~' || c == '$') {
      ++at_;
      space_ = space_ || c != '$';
      return true;
    }
    if (static_cast<unsigned char>(c) < 0x20) return false;
    if (c == '\\') return Command();
    if (IsDigit(c) || (c == '.' && at_ + 1 < text_.size() && IsDigit(text_[at_ + 1])))
      return Number();
    if (IsLetter(c)) return Word();
    if (static_cast<unsigned char>(c) >= 0x80) return Unicode();
    return Ascii();
  }

  void Put(TokenKind kind, absl::string_view text) {
    tokens_.push_back({kind, std::string(text), space_});
    space_ = false;
  }
  void PutMark(absl::string_view mark) {
    if (mark == "(" || mark == "[" || mark == "\"") ++depth_;
    if (mark == ")" || mark == "]" || mark == "'") --depth_;
    Put(TokenKind::kMark, mark);
  }

  bool Ascii() {
    const absl::string_view rest = text_.substr(at_);
    constexpr std::array<Pair, 8> kPairs = {{{"<=", "l"},
                                             {">=", "g"},
                                             {"!=", "#"},
                                             {"==", "="},
                                             {"+-", "p"},
                                             {"**", "^"},
                                             {"=>", "g"},
                                             {"->", "t"}}};
    for (const auto& [from, to] : kPairs) {
      if (rest.substr(0, 2) != from) continue;
      at_ += 2;
      PutMark(to);
      return true;
    }
    if (rest[0] == '`' || rest[0] == '?' || rest[0] == '@') {
      ++at_;
      return rest[0] == '`';
    }
    if (rest[0] == '#') return false;
    if (rest[0] == '&' && columns_ == 0) {
      ++at_;
      if (!aligned_) Put(TokenKind::kAnd, "and");
      return true;
    }
    ++at_;
    // A typographical apostrophe in ASCII is a prime; the mark '\'' is taken by the closing set
    // brace.
    PutMark(rest[0] == '\'' ? "`" : rest[0] == '"' ? " " : rest.substr(0, 1));
    if (tokens_.back().text == " ") tokens_.pop_back();
    return true;
  }

  bool Number() {
    NumberReader reader(text_, at_, depth_);
    if (!reader.Read()) return false;
    at_ = reader.end();
    if (!reader.chosen().empty()) {
      PutChoice(reader.digits(), reader.chosen());
    } else {
      Put(TokenKind::kNumber, reader.digits());
    }
    return true;
  }

  // "10C3"
  void PutChoice(absl::string_view n, absl::string_view k) {
    Put(TokenKind::kName, "binom");
    for (const absl::string_view part : {n, k}) {
      Put(TokenKind::kMark, "{");
      Put(TokenKind::kNumber, part);
      Put(TokenKind::kMark, "}");
    }
  }

  bool Word() {
    size_t end = at_;
    while (end < text_.size() && IsLetter(text_[end])) ++end;
    absl::string_view word = text_.substr(at_, end - at_);
    at_ = end;
    PutWord(word);
    return true;
  }

  void PutWord(absl::string_view word) {
    std::string lower;
    for (const char c : word) lower.push_back(Lower(c));
    if (lower == "and" || lower == "or") return Put(TokenKind::kAnd, lower);
    // "1orx=2"
    if (word.size() == 3 && word.substr(0, 2) == "or" && !tokens_.empty() &&
        tokens_.back().kind == TokenKind::kNumber) {
      Put(TokenKind::kAnd, "or");
      return Put(TokenKind::kSymbol, word.substr(2));
    }
    if (lower == "infinity" || lower == "inf" || lower == "infty" || word == "oo")
      return Put(TokenKind::kName, "infinity");
    // "1.5 x 10^8"
    if (word == "x" && !tokens_.empty() && tokens_.back().kind == TokenKind::kNumber) {
      const size_t next = SkipSpace(text_, at_);
      if (next < text_.size() && IsDigit(text_[next])) return PutMark("*");
    }
    if (word.size() == 1) return Put(TokenKind::kSymbol, word);
    if (IsMathName(word) && !NeedsBackslash(word)) return Put(TokenKind::kName, word);
    if (IsGreekWord(word)) return Put(TokenKind::kSymbol, word);
    if (lower == "percent" || lower == "pct" || lower == "percentage") return PutMark("%");
    if (lower == "degrees" || lower == "degree" || lower == "deg") return PutMark("o");
    if (lower == "union") return PutMark("U");
    if (word == "asin" || word == "acos" || word == "atan")
      return Put(TokenKind::kName, "arc" + std::string(word.substr(1)));
    // "NO" and "MN" are segments, "no" is a word.
    const bool capitals = IsUpper(word[0]) && IsUpper(word[1]) && lower != "am" && lower != "pm";
    if (!capitals && IsShortWord(lower)) return Put(TokenKind::kText, lower);
    // "sinx", "2pir": a name and the symbols behind it.
    if (const absl::string_view name = NameBefore(word); !name.empty()) {
      Put(TokenKind::kName, name);
      return PutWord(word.substr(name.size()));
    }
    if (word.size() <= 3) {
      for (size_t i = 0; i < word.size(); ++i) Put(TokenKind::kSymbol, word.substr(i, 1));
      return;
    }
    Put(TokenKind::kText, lower);
  }

  // Words of other scripts, currency signs.
  bool Unicode() {
    const size_t begin = at_;
    while (at_ < text_.size() && static_cast<unsigned char>(text_[at_]) >= 0x80) ++at_;
    Put(TokenKind::kText, text_.substr(begin, at_ - begin));
    return true;
  }

  bool Command() {
    size_t begin = at_ + 1;
    // "\\frac" of a text that was escaped once too often; "\\" alone breaks a line.
    if (begin < text_.size() && text_[begin] == '\\') {
      size_t end = begin + 1;
      while (end < text_.size() && IsLetter(text_[end])) ++end;
      const absl::string_view name = text_.substr(begin + 1, end - begin - 1);
      const bool bracket =
          begin + 1 < text_.size() &&
          absl::string_view("{}()[],;!").find(text_[begin + 1]) != absl::string_view::npos;
      if (!IsCommand(name) && !(bracket && name.empty() && columns_ == 0)) {
        at_ = begin + 1;
        PutMark("\\");
        return true;
      }
      ++begin;
    }
    if (begin >= text_.size()) {
      at_ = begin;
      return true;
    }
    if (!IsLetter(text_[begin])) return CommandMark(begin);
    size_t end = begin;
    while (end < text_.size() && IsLetter(text_[end])) ++end;
    const absl::string_view name = text_.substr(begin, end - begin);
    at_ = end;
    return Named(name);
  }

  static bool IsCommand(absl::string_view name) {
    if (name.empty()) return false;
    if (name == "dfrac" || name == "tfrac" || name == "infty" || name == "begin" || name == "end")
      return true;
    return IsMathName(name) || IsSkippedCommand(name) || IsTextCommand(name) ||
           !MarkOfCommand(name).empty();
  }

  bool CommandMark(size_t begin) {
    const absl::string_view c = text_.substr(begin, 1);
    at_ = begin + 1;
    if (c == "(" || c == ")" || c == "[" || c == "]") return true;  // delimiters of formulas
    if (c == "," || c == ";" || c == "!" || c == ":" || c == " " || c == "$" || c == "\n") {
      space_ = true;
      return true;
    }
    if (const absl::string_view mark = MarkOfCommand(c); !mark.empty()) {
      PutMark(mark);
    } else if (c == "|") {
      PutMark("|");
    }
    return true;
  }

  bool Named(absl::string_view name) {
    if (name == "dfrac" || name == "tfrac" || name == "cfrac") name = "frac";
    if (name == "dbinom" || name == "tbinom") name = "binom";
    if (name == "infty") name = "infinity";
    if (name == "cdots" || name == "dots" || name == "ldots" || name == "dotsm") {
      Put(TokenKind::kText, "...");
      return true;
    }
    if (name == "bar") name = "overline";
    if (name == "varnothing") name = "emptyset";
    if (name == "varepsilon" || name == "varphi" || name == "vartheta") name.remove_prefix(3);
    if (name == "mathbb" || name == "Bbb") return NumberSet();
    if (IsTextCommand(name)) return Text();
    if (SkipsArgument(name)) return SkipArgument();
    if (name == "right" || name == "left") {
      // "\right." closes with nothing.
      const size_t next = SkipSpace(text_, at_);
      if (next < text_.size() && text_[next] == '.') at_ = next + 1;
      return true;
    }
    if (IsSkippedCommand(name)) return true;
    if (const absl::string_view mark = MarkOfCommand(name); !mark.empty()) {
      PutMark(mark);
      return true;
    }
    if (name == "begin" || name == "end") return Environment(name);
    if (IsMathName(name) || name == "infinity" || name == "emptyset") {
      Put(TokenKind::kName, name);
      return true;
    }
    Put(TokenKind::kSymbol, name);  // Greek letters and whatever else is named
    return true;
  }

  bool SkipArgument() {
    const size_t open = SkipSpace(text_, at_);
    if (open >= text_.size() || text_[open] != '{') return true;
    const size_t close = MatchBrace(text_, open);
    if (close == absl::string_view::npos) return false;
    at_ = close + 1;
    return true;
  }

  // "\mathbb{R}", "\mathbb R": the symbol "\R".
  bool NumberSet() {
    size_t letter = SkipSpace(text_, at_);
    const bool braced = letter < text_.size() && text_[letter] == '{';
    if (braced) ++letter;
    if (letter >= text_.size() || !IsUpper(text_[letter])) return true;
    if (braced && (letter + 1 >= text_.size() || text_[letter + 1] != '}')) return true;
    at_ = letter + 1 + braced;
    Put(TokenKind::kSymbol, "\\" + std::string(1, text_[letter]));
    return true;
  }

  // "\text{…}": words, but a letter is a symbol and "and" separates.
  bool Text() {
    const size_t open = SkipSpace(text_, at_);
    if (open >= text_.size() || text_[open] != '{') return true;
    const size_t close = MatchBrace(text_, open);
    if (close == absl::string_view::npos) return false;
    const absl::string_view inner = Trim(text_.substr(open + 1, close - open - 1));
    NumberReader reader(text_, close + 1, depth_);
    if (reader.ReadBase(inner)) {
      at_ = reader.end();
      Put(TokenKind::kNumber, reader.digits());
      return true;
    }
    at_ = close + 1;
    space_ = true;
    Lexer words(inner);
    words.nested_ = nested_ + 1;
    if (words.nested_ > 4) return false;
    std::vector<Token> tokens = words.Run();
    if (tokens.empty()) return false;
    tokens.pop_back();
    for (Token& token : tokens) tokens_.push_back(std::move(token));
    return true;
  }

  bool Environment(absl::string_view which) {
    const size_t open = SkipSpace(text_, at_);
    if (open >= text_.size() || text_[open] != '{') return false;
    const size_t close = MatchBrace(text_, open);
    if (close == absl::string_view::npos) return false;
    const absl::string_view name = text_.substr(open + 1, close - open - 1);
    at_ = close + 1;
    const bool cases = name == "cases" || name == "dcases";
    const bool determinant = name == "vmatrix";
    const bool matrix = cases || determinant || name == "pmatrix" || name == "bmatrix" ||
                        name == "matrix" || name == "array" || name == "Bmatrix" ||
                        name == "smallmatrix";
    if (!matrix) {
      aligned_ = which == "begin";
      return name == "align*" || name == "aligned" || name == "equation" || name == "align" ||
             name == "equation*" || name == "gathered" || name == "split";
    }
    if (name == "array" && which == "begin" && at_ < text_.size() && text_[at_] == '{') {
      const size_t end = MatchBrace(text_, at_);
      if (end == absl::string_view::npos) return false;
      at_ = end + 1;
    }
    columns_ += which == "begin" ? 1 : -1;
    Put(TokenKind::kName, which == "end" ? "end"
                          : cases        ? "begincases"
                          : determinant  ? "begindet"
                                         : "begin");
    return true;
  }

  const absl::string_view text_;
  size_t at_ = 0;
  bool space_ = false;
  int depth_ = 0;         // of brackets
  int columns_ = 0;       // of matrices
  int nested_ = 0;        // of \text
  bool aligned_ = false;  // "&" only aligns
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(absl::string_view text) {
  if (text.size() > kExpressionBytesMax) return {};
  return HasWide(text) ? Lexer(Fold(text)).Run() : Lexer(text).Run();
}

}  // namespace espalier::reward

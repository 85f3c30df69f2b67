// Marks beyond ASCII's own: 'l' <=, 'g' >=, '#' !=, '~' about, 'i' element of, 'U' union, 'p'
// plus-minus, 'm' minus-plus, 'o' degree, '\\' line break of a matrix, '"' opening set brace, '\''
// closing set brace, 'L'/'F' floor, 'C'/'c' ceiling.
#include "libs/reward/lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

using Pair = std::pair<absl::string_view, absl::string_view>;

constexpr std::array<absl::string_view, 34> kNames = {
    "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "sin",  "cos",
    "tan",    "cot",    "sec",    "csc",    "ln",   "log",  "exp",  "sqrt", "cbrt",
    "frac",   "binom",  "max",    "min",    "gcd",  "lcm",  "lim",  "sum",  "prod",
    "int",    "abs",    "pi",     "mod",    "det",  "sgn",  "lg"};

// Commands that mean a mark.
constexpr std::array<Pair, 48> kCommandMarks = {{
    {"le", "l"},     {"leq", "l"},      {"leqslant", "l"}, {"lt", "<"},     {"ge", "g"},
    {"geq", "g"},    {"geqslant", "g"}, {"gt", ">"},       {"ne", "#"},     {"neq", "#"},
    {"approx", "~"}, {"equiv", "="},    {"simeq", "~"},    {"in", "i"},     {"cup", "U"},
    {"bigcup", "U"}, {"pm", "p"},       {"mp", "m"},       {"cdot", "*"},   {"times", "*"},
    {"ast", "*"},    {"div", "/"},      {"circ", "o"},     {"degree", "o"}, {"lbrace", "\""},
    {"rbrace", "'"}, {"{", "\""},       {"}", "'"},        {"lfloor", "L"}, {"rfloor", "F"},
    {"lceil", "C"},  {"rceil", "c"},    {"langle", "("},   {"rangle", ")"}, {"vert", "|"},
    {"lvert", "|"},  {"rvert", "|"},    {"mid", "|"},      {"%", "%"},      {"colon", ":"},
    {"lbrack", "["}, {"rbrack", "]"},   {"ratio", ":"},    {"prime", "`"},  {"land", ","},
    {"bullet", "*"}, {"over", "/"},     {"to", ">"},
}};

constexpr std::array<absl::string_view, 38> kSkipped = {
    "left",      "right",        "big",        "Big",   "bigg",   "Bigg",    "bigl",
    "bigr",      "Bigl",         "Bigr",       "biggl", "biggr",  "middle",  "displaystyle",
    "textstyle", "limits",       "nolimits",   "quad",  "qquad",  "hspace",  "vspace",
    "phantom",   "bf",           "rm",         "it",    "mathbb", "mathcal", "boldsymbol",
    "mathsf",    "mathit",       "overline",   "bar",   "vec",    "hat",     "boxed",
    "fbox",      "operatorname", "scriptstyle"};

constexpr std::array<absl::string_view, 11> kTextCommands = {
    "text", "textbf",     "textit", "textrm", "mathrm", "mathbf",
    "mbox", "textnormal", "texttt", "textsf", "emph"};

constexpr std::array<Pair, 40> kUnicode = {{
    {"×", "*"},         {"·", "*"},
    {"⋅", "*"},         {"∗", "*"},
    {"÷", "/"},         {"−", "-"},
    {"–", "-"},         {"±", "p"},
    {"∓", "m"},         {"≤", "l"},
    {"≥", "g"},         {"⩽", "l"},
    {"⩾", "g"},         {"≠", "#"},
    {"≈", "~"},         {"∈", "i"},
    {"∪", "U"},         {"°", "o"},
    {"º", "o"},         {"（", "("},
    {"）", ")"},        {"，", ","},
    {"：", ":"},        {"；", ";"},
    {"＝", "="},        {"％", "%"},
    {"∞", "\\infty"},   {"π", "\\pi"},
    {"√", "\\sqrt"},    {"²", "^2"},
    {"³", "^3"},        {"½", "\\half"},
    {"¼", "\\quarter"}, {"¾", "\\threequarters"},
    {"、", ","},        {"〈", "("},
    {"〉", ")"},        {"⌊", "L"},
    {"⌋", "F"},         {"′", "`"},
}};

// Two- and three-letter words that are words, not products of symbols.
constexpr std::array<absl::string_view, 60> kShortWords = {
    "is",  "it",  "of",  "to",  "the", "not", "so",   "be",  "we",  "as",  "at",  "by",
    "for", "in",  "on",  "if",  "no",  "yes", "are",  "has", "cm",  "mm",  "km",  "kg",
    "mg",  "ml",  "ft",  "yd",  "mi",  "lb",  "lbs",  "oz",  "hr",  "hrs", "min", "sec",
    "mph", "kph", "deg", "sq",  "am",  "pm",  "inch", "pct", "per", "and", "odd", "day",
    "men", "way", "can", "its", "his", "her", "all",  "any", "one", "two", "ten", "six"};

template <typename List>
bool Holds(const List& list, absl::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

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
                                             {"=>", ">"},
                                             {"->", ">"}}};
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
    ++at_;
    // A typographical apostrophe in ASCII is a prime; the mark '\'' is taken by the closing set
    // brace.
    PutMark(rest[0] == '\'' ? "`" : rest[0] == '"' ? " " : rest.substr(0, 1));
    if (tokens_.back().text == " ") tokens_.pop_back();
    return true;
  }

  bool Number() {
    std::string digits;
    size_t group = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (IsDigit(c)) {
        digits.push_back(c);
        ++group;
        ++at_;
        continue;
      }
      const size_t comma = ThousandsAt(at_, digits.size() > 3 ? 3 : group);
      if (comma == 0) break;
      at_ += comma;
      group = 0;
    }
    if (at_ < text_.size() && text_[at_] == '.' &&
        !(at_ + 1 < text_.size() && text_[at_ + 1] == '.')) {
      size_t next = at_ + 1;
      std::string fraction;
      while (next < text_.size() && IsDigit(text_[next])) fraction.push_back(text_[next++]);
      // A point behind which no digit comes ends a sentence.
      if (!fraction.empty() || (next < text_.size() && !IsSpace(text_[next]))) {
        digits += "." + fraction;
        at_ = next;
      } else if (next == text_.size()) {
        at_ = next;
      }
    }
    if (digits.find('.') != std::string::npos) {
      for (const absl::string_view bar : {"\\overline{", "\\bar{", "\\dot{"}) {
        if (!HoldsAt(text_, at_, bar)) continue;
        size_t next = at_ + bar.size();
        std::string period;
        while (next < text_.size() && IsDigit(text_[next])) period.push_back(text_[next++]);
        if (period.empty() || next >= text_.size() || text_[next] != '}') return false;
        digits += "(" + period + ")";  // repeats for ever
        at_ = next + 1;
        break;
      }
    }
    if (at_ + 1 < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      size_t next = at_ + 1;
      if (text_[next] == '-' || text_[next] == '+') ++next;
      size_t end = next;
      while (end < text_.size() && IsDigit(text_[end])) ++end;
      if (end > next && end - next <= 4) {
        digits += "e" + std::string(text_.substr(at_ + 1, end - at_ - 1));
        at_ = end;
      }
    }
    Put(TokenKind::kNumber, digits);
    return true;
  }

  // Size of a thousands separator at `at`, 0 when there is none.
  size_t ThousandsAt(size_t at, size_t group) const {
    size_t size = 0;
    bool sure = false;
    if (text_.substr(at, 3) == "{,}")
      size = 3, sure = true;
    else if (text_.substr(at, 3) == ",\\!")
      size = 3, sure = true;
    else if (text_.substr(at, 2) == "\\,")
      size = 2;
    else if (text_.substr(at, 1) == ",")
      size = 1;
    if (size == 0 || group == 0 || group > 3) return 0;
    // In "(1,234)" and "{1,234}" a comma separates.
    if (!sure && text_[at] == ',' && depth_ > 0) return 0;
    for (size_t i = 0; i < 3; ++i) {
      if (at + size + i >= text_.size() || !IsDigit(text_[at + size + i])) return 0;
    }
    const size_t behind = at + size + 3;
    if (behind < text_.size() && IsDigit(text_[behind])) return 0;
    return size;
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
    if (word.size() == 1) return Put(TokenKind::kSymbol, word);
    if (Holds(kNames, word)) return Put(TokenKind::kName, word);
    if (lower == "percent" || lower == "pct" || lower == "percentage") return PutMark("%");
    if (lower == "degrees" || lower == "degree" || lower == "deg") return PutMark("o");
    if (lower == "union") return PutMark("U");
    if (word == "asin" || word == "acos" || word == "atan")
      return Put(TokenKind::kName, "arc" + std::string(word.substr(1)));
    // "NO" and "MN" are segments, "no" is a word.
    const bool capitals = IsUpper(word[0]) && IsUpper(word[1]) && lower != "am" && lower != "pm";
    if (!capitals && Holds(kShortWords, lower)) return Put(TokenKind::kText, lower);
    // "sinx", "2pir": a name and the symbols behind it.
    for (const absl::string_view name : kNames) {
      if (word.size() > name.size() && word.size() <= name.size() + 2 &&
          word.substr(0, name.size()) == name) {
        Put(TokenKind::kName, name);
        return PutWord(word.substr(name.size()));
      }
    }
    if (word.size() <= 3) {
      for (size_t i = 0; i < word.size(); ++i) Put(TokenKind::kSymbol, word.substr(i, 1));
      return;
    }
    Put(TokenKind::kText, lower);
  }

  bool Unicode() {
    for (const auto& [from, to] : kUnicode) {
      if (text_.substr(at_, from.size()) != from) continue;
      at_ += from.size();
      if (to == "\\infty")
        Put(TokenKind::kName, "infinity");
      else if (to[0] == '\\')
        Put(TokenKind::kName, to.substr(1));
      else if (to[0] == '^')
        PutMark("^"), Put(TokenKind::kNumber, to.substr(1));
      else
        PutMark(to);
      return true;
    }
    // Words of other scripts, currency signs.
    const size_t begin = at_;
    while (at_ < text_.size() && static_cast<unsigned char>(text_[at_]) >= 0x80) ++at_;
    const absl::string_view word = text_.substr(begin, at_ - begin);
    if (word == "€" || word == "£" || word == "¥" || word == "₹") return true;
    Put(TokenKind::kText, word);
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
    if (Holds(kNames, name) || Holds(kSkipped, name) || Holds(kTextCommands, name)) return true;
    return std::any_of(kCommandMarks.begin(), kCommandMarks.end(),
                       [&](const Pair& pair) { return pair.first == name; });
  }

  bool CommandMark(size_t begin) {
    const absl::string_view c = text_.substr(begin, 1);
    at_ = begin + 1;
    if (c == "(" || c == ")" || c == "[" || c == "]") return true;  // delimiters of formulas
    if (c == "," || c == ";" || c == "!" || c == ":" || c == " " || c == "$" || c == "\n") {
      space_ = true;
      return true;
    }
    for (const auto& [from, to] : kCommandMarks) {
      if (from == c) {
        PutMark(to);
        return true;
      }
    }
    if (c == "|") PutMark("|");
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
    if (Holds(kTextCommands, name)) return Text();
    if (Holds(kSkipped, name)) return true;
    for (const auto& [from, to] : kCommandMarks) {
      if (from == name) {
        PutMark(to);
        return true;
      }
    }
    if (name == "begin" || name == "end") return Environment(name);
    if (Holds(kNames, name) || name == "infinity") {
      Put(TokenKind::kName, name);
      return true;
    }
    Put(TokenKind::kSymbol, name);  // Greek letters and whatever else is named
    return true;
  }

  // "\text{…}": words, but a letter is a symbol and "and" separates.
  bool Text() {
    const size_t open = SkipSpace(text_, at_);
    if (open >= text_.size() || text_[open] != '{') return true;
    const size_t close = MatchBrace(text_, open);
    if (close == absl::string_view::npos) return false;
    const absl::string_view inner = Trim(text_.substr(open + 1, close - open - 1));
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
    const bool matrix = name == "pmatrix" || name == "bmatrix" || name == "matrix" ||
                        name == "vmatrix" || name == "array" || name == "Bmatrix" ||
                        name == "smallmatrix";
    if (!matrix)
      return name == "align*" || name == "aligned" || name == "equation" || name == "align";
    if (name == "array" && which == "begin" && at_ < text_.size() && text_[at_] == '{') {
      const size_t end = MatchBrace(text_, at_);
      if (end == absl::string_view::npos) return false;
      at_ = end + 1;
    }
    columns_ += which == "begin" ? 1 : -1;
    Put(TokenKind::kName, which);
    return true;
  }

  const absl::string_view text_;
  size_t at_ = 0;
  bool space_ = false;
  int depth_ = 0;    // of brackets
  int columns_ = 0;  // of matrices
  int nested_ = 0;   // of \text
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(absl::string_view text) {
  if (text.size() > kExpressionBytesMax) return {};
  return Lexer(text).Run();
}

}  // namespace espalier::reward

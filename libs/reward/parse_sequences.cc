// What stands side by side: lists, relations, ratios, unions, brackets of every kind, matrices.
#include <algorithm>
#include <utility>

#include "libs/reward/parser.h"

namespace espalier::reward {
namespace {

constexpr int kDeterminantMax = 4;

char CloseOf(char open) {
  switch (open) {
    case '(':
      return ')';
    case '[':
      return ']';
    case ']':
      return '[';
    case '"':
      return '\'';
    case '{':
      return '}';
    case 'L':
      return 'F';
    case 'C':
      return 'c';
    default:
      return '|';
  }
}

bool IsRelationMark(const Token& token) {
  return token.kind == TokenKind::kMark && token.text.size() == 1 &&
         absl::string_view("=<>lg#~int").find(token.text[0]) != absl::string_view::npos;
}

}  // namespace

// `name` of a list says how it was joined: "or", "and", or nothing for commas.
int Parser::Answer() {
  std::vector<int> parts;
  std::string joined;
  while (!TooMuch()) {
    parts.push_back(Relation());
    if (Failed()) break;
    // The words behind an answer are its unit: "125 miles", "28 percent of the".
    if (peek().kind == TokenKind::kText) Words();
    bool more = false;
    while (peek().mark(',') || peek().mark(';') || peek().kind == TokenKind::kAnd ||
           peek().mark('\\')) {
      if (peek().kind == TokenKind::kAnd) joined = peek().text;
      ++at_;
      more = true;
    }
    if (peek().mark('.') || peek().kind == TokenKind::kEnd) break;
    if (!more) return FailHere();
  }
  if (peek().mark('.') && peek(1).kind == TokenKind::kEnd) ++at_;
  if (peek().kind != TokenKind::kEnd) return FailHere();
  // "pi/4 + k pi, k in Z": where a parameter lives is no answer of its own.
  while (parts.size() > 1) {
    const Node& last = expression_.at(parts.back());
    const bool domain = last.kind == Kind::kRelation && last.name == "i" &&
                        kind(last.children[0]) == Kind::kSymbol &&
                        kind(last.children[1]) == Kind::kSymbol &&
                        expression_.at(last.children[1]).name[0] == '\\';
    if (!domain) break;
    parts.pop_back();
  }
  if (parts.size() == 1) return parts[0];
  return Make(Kind::kList, std::move(parts), joined);
}

void Parser::Words() {
  std::string words;
  while (peek().kind == TokenKind::kText || (!words.empty() && peek().kind == TokenKind::kSymbol)) {
    if (!words.empty()) words += " ";
    words += peek().text;
    ++at_;
  }
  if (peek().mark('^') && peek(1).kind == TokenKind::kNumber) {
    words += "^" + peek(1).text;
    at_ += 2;
  }
  if (!expression_.unit.empty() && expression_.unit != words) {
    Fail("it holds words");
    return;
  }
  expression_.unit = words;
}

int Parser::Relation() {
  const Level level(this);
  std::vector<int> sides = {Ratio()};
  std::string operators;
  while (!TooMuch() && IsRelationMark(peek())) {
    const char mark = peek().text[0];
    operators.push_back(mark == '~' ? '=' : mark);
    ++at_;
    sides.push_back(Ratio());
  }
  if (sides.size() == 1) return sides[0];
  return Make(Kind::kRelation, std::move(sides), operators);
}

int Parser::Ratio() {
  std::vector<int> parts = {Union()};
  while (!TooMuch() && Take(':')) parts.push_back(Union());
  if (parts.size() == 1) return parts[0];
  if (parts.size() == 2) return Make(Kind::kQuotient, std::move(parts));
  const std::string operators(parts.size() - 1, ':');
  return Make(Kind::kRelation, std::move(parts), operators);
}

int Parser::Union() {
  int left = Sum();
  while (!TooMuch()) {
    if (Take('U')) {
      left = Make(Kind::kUnion, {left, Sum()});
    } else if (Take('N')) {
      left = Make(Kind::kFunction, {left, Sum()}, "intersection");
    } else if (Take('D')) {
      left = Make(Kind::kFunction, {left, Sum()}, "difference");
    } else {
      break;
    }
  }
  return left;
}

int Parser::Bracketed() {
  const char open = peek().text[0];
  if (absl::string_view("([\"{|LC]").find(open) == absl::string_view::npos) return FailHere();
  ++at_;
  if (open == '|') return Absolute();
  // "\left\{ \begin{array} … \end{array} \right.": a system.
  if (open == '"' && peek().kind == TokenKind::kName && peek().text.substr(0, 5) == "begin") {
    ++at_;
    const int rows = Matrix("begincases");
    Take('\'');
    return rows;
  }
  // Bars around a set's first part would take its condition's bar for a factor.
  const int bars = std::exchange(bars_, open == '"' ? 1 : 0);
  std::vector<int> parts;
  char close = 0;
  while (!TooMuch()) {
    if (parts.empty() && (Take('\''))) {
      close = '\'';
      break;
    }
    parts.push_back(Relation());
    if (Failed()) return Number(0);
    if (open == '{' && peek().is(TokenKind::kName, "choose")) {
      ++at_;
      parts.back() = Make(Kind::kFunction, {parts.back(), Relation()}, "binom");
    }
    if (open == '"' && parts.size() == 1 && peek().mark('|')) {
      bars_ = bars;
      return Condition(&parts);
    }
    if (Take(',') || Take(';') || (peek().kind == TokenKind::kAnd && ++at_)) continue;
    // An interval may end differently: [0,1), ]0,1[.
    const bool interval =
        absl::string_view("([]").find(open) != absl::string_view::npos && parts.size() == 2;
    const char closes[] = {CloseOf(open), interval ? ')' : '\0', interval ? ']' : '\0',
                           interval ? '[' : '\0'};
    for (const char c : closes) {
      if (close == 0 && c != 0 && Take(c)) close = c;
    }
    if (close == 0) return FailHere();
    break;
  }
  bars_ = bars;
  if (Failed()) return Number(0);
  return CloseBracket(open, close, std::move(parts));
}

int Parser::CloseBracket(char open, char close, std::vector<int> parts) {
  if (open == 'L' || open == 'C')
    return Make(Kind::kFunction, std::move(parts), open == 'L' ? "floor" : "ceiling");
  if (open == ']' && parts.size() != 2) return FailHere();
  // "{x : x > 3}": the colon has made a quotient of the first side.
  if (open == '"' && parts.size() == 1 && kind(parts[0]) == Kind::kRelation) {
    std::vector<int> sides = expression_.at(parts[0]).children;
    std::string operators = expression_.at(parts[0]).name;
    for (size_t i = 0; i < 2 && i < sides.size(); ++i) {
      const Node& side = expression_.at(sides[i]);
      if (side.kind != Kind::kQuotient || side.name != "") continue;
      const bool named = kind(side.children[0]) == Kind::kSymbol;
      if (!named || (i == 1 && operators[0] != 'i')) continue;
      sides.erase(sides.begin(), sides.begin() + static_cast<std::ptrdiff_t>(i));
      operators.erase(0, i);
      sides[0] = side.children[1];
      return Make(Kind::kRelation, std::move(sides), operators);
    }
  }
  if (parts.size() == 1 && open != '"' && close != '\'') {
    // Brackets around one thing only group it; "[5]" is a list of one, which equals its element.
    return parts[0];
  }
  // Braces of LaTeX around a list, as in "${1,3}$", bind nothing.
  if (open == '{') return Make(Kind::kList, std::move(parts));
  if (open == '[' && close == ']') {
    const int matrix = MatrixOfRows(parts);
    if (matrix >= 0) return matrix;
  }
  const int group = Make(Kind::kGroup, std::move(parts));
  // French brackets: "]0,1[" is open at both ends.
  expression_.nodes[group].open = open == '"' ? '{' : open == ']' ? '(' : open;
  expression_.nodes[group].close = close == '\'' ? '}' : close == '[' ? ')' : close;
  return group;
}

// "{x | x > 3}", behind the first part: the condition says it all.
int Parser::Condition(std::vector<int>* parts) {
  ++at_;
  const int condition = Relation();
  std::vector<int> conditions = {condition};
  std::string joined = "and";
  while (!TooMuch() && (peek().mark(',') || peek().kind == TokenKind::kAnd)) {
    if (peek().kind == TokenKind::kAnd) joined = peek().text;
    ++at_;
    conditions.push_back(Relation());
  }
  if (!Take('\'')) return FailHere();
  // "{x^2 | x in …}" is a set of values, not a condition on them.
  const Node& first = expression_.at((*parts)[0]);
  const bool member = first.kind == Kind::kRelation && first.name == "i";
  if (first.kind != Kind::kSymbol && !member) return Fail("the set is not supported");
  if (conditions.size() == 1) return condition;
  return Make(Kind::kList, std::move(conditions), joined);
}

int Parser::Absolute() {
  const Level level(this);
  ++bars_;
  const int inner = Sum();
  --bars_;
  if (!Take('|')) return FailHere();
  return Make(Kind::kFunction, {inner}, "abs");
}

int Parser::Matrix(const std::string& begin) {
  const Level level(this);
  std::vector<int> cells;
  int columns = 0, in_row = 0;
  while (!TooMuch()) {
    if (peek().is(TokenKind::kName, "end")) break;
    cells.push_back(Relation());
    ++in_row;
    if (Take('&')) continue;
    if (columns == 0) columns = in_row;
    if (in_row != columns) return Fail("the rows of a matrix differ in length");
    in_row = 0;
    if (begin == "begincases") Take(',');
    if (!Take('\\')) break;
  }
  if (Failed()) return Number(0);
  if (!peek().is(TokenKind::kName, "end") || cells.empty()) return FailHere();
  ++at_;
  if (begin == "begincases") {
    if (columns > 1) return Fail("a function in pieces is not supported");
    return cells.size() == 1 ? cells[0] : Make(Kind::kList, std::move(cells), "and");
  }
  if (begin == "begindet") {
    if (cells.size() != static_cast<size_t>(columns) * columns)
      return Fail("the determinant is not square");
    if (columns > kDeterminantMax) return Fail("the determinant is too large", true);
    return Determinant(cells, columns, 0);
  }
  const int matrix = Make(Kind::kMatrix, std::move(cells));
  expression_.nodes[matrix].columns = std::max(1, columns);
  return matrix;
}

// By the first row; cells are shared between the terms.
int Parser::Determinant(const std::vector<int>& cells, int size, int depth) {
  if (TooMuch()) return Number(0);
  if (size == 1) return cells[0];
  std::vector<int> terms;
  for (int column = 0; column < size; ++column) {
    std::vector<int> minor;
    for (int i = size; i < size * size; ++i) {
      if (i % size != column) minor.push_back(cells[i]);
    }
    const int term = Make(Kind::kProduct, {cells[column], Determinant(minor, size - 1, depth + 1)});
    terms.push_back(column % 2 == 0 ? term : Make(Kind::kNegate, {term}));
  }
  return Make(Kind::kSum, std::move(terms));
}

// "[[1,2],[3,4]]" as a matrix, or -1 when the parts are no rows of one length.
int Parser::MatrixOfRows(const std::vector<int>& rows) {
  std::vector<int> cells;
  size_t columns = 0;
  for (const int row : rows) {
    const Node& node = expression_.at(row);
    if (node.kind != Kind::kGroup || node.open != '[' || node.close != ']') return -1;
    if (columns == 0) columns = node.children.size();
    if (node.children.size() != columns) return -1;
    cells.insert(cells.end(), node.children.begin(), node.children.end());
  }
  if (rows.size() < 2) return -1;
  const int matrix = Make(Kind::kMatrix, std::move(cells));
  expression_.nodes[matrix].columns = static_cast<int>(columns);
  return matrix;
}

}  // namespace espalier::reward

// The smallest parts: numbers, symbols with their subscripts, functions with their arguments, sums
// and products over an index.
#include <algorithm>
#include <utility>

#include "libs/reward/parser.h"
#include "libs/reward/plain_number.h"

namespace espalier::reward {

bool IsFunctionName(absl::string_view name) {
  return name != "frac" && name != "sqrt" && name != "binom" && name != "pi" &&
         name != "infinity" && name != "begin" && name != "end" && name != "int" && name != "lim" &&
         name != "emptyset" && name != "begincases" && name != "begindet" && name != "choose" &&
         name != "overline";
}

int Parser::Primary() {
  const Level level(this);
  if (TooMuch()) return Number(0);
  switch (peek().kind) {
    case TokenKind::kNumber:
      return Literal();
    case TokenKind::kSymbol:
      return Symbol();
    case TokenKind::kName:
      return Named();
    case TokenKind::kText:
      return TextAtom();
    case TokenKind::kMark:
      if (peek().mark('{') && peek(1).mark('}')) at_ += 2;
      if (peek().mark('_') || peek().mark('^')) return FrontChoice();
      return Bracketed();
    default:
      return FailHere();
  }
}

// Words alone may be an answer ("odd"), words within mathematics may not.
int Parser::TextAtom() {
  std::string words;
  const size_t begin = at_;
  while (peek().kind == TokenKind::kText || peek().kind == TokenKind::kSymbol) {
    if (!words.empty()) words += " ";
    words += peek().text;
    ++at_;
  }
  if (begin != 0 || peek().kind != TokenKind::kEnd) return Fail("it holds words");
  return Make(Kind::kText, {}, words);
}

// The value of "0.1(3)" beyond "0.1": period / ((10^n - 1) * 10^digits).
static mpq_class Repeating(const std::string& text, const std::string& period) {
  // "0." became "0.0", so the place of the period is behind the digits that were written.
  const size_t point = text.find('.');
  size_t digits = text.size() - point - 1;
  if (digits == 1 && text[point + 1] == '0') digits = 0;
  mpz_class nines, scale;
  mpz_ui_pow_ui(nines.get_mpz_t(), 10, period.size());
  nines -= 1;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, digits);
  mpq_class value(mpz_class(period, 10), nines * scale);
  value.canonicalize();
  return value;
}

int Parser::Literal() {
  std::string text = peek().text;
  if (peek().kind != TokenKind::kNumber) return FailHere();
  ++at_;
  literal_end_ = at_;
  std::string period;
  const size_t repeats = text.find('(');
  if (repeats != std::string::npos) {
    period = text.substr(repeats + 1, text.size() - repeats - 2);
    text.resize(repeats);
  }
  if (!text.empty() && text.back() == '.') text += "0";
  const PlainNumber plain = ReadPlainNumber(text);
  if (!plain.ok) return Fail("'" + text.substr(0, 20) + "' is no number");
  Node node{Kind::kNumber};
  node.value = plain.value;
  node.decimal = plain.decimal && period.empty();
  node.digits = plain.digits;
  if (!period.empty()) node.value += Repeating(text, period);
  return expression_.Add(std::move(node));
}

int Parser::Symbol() {
  std::string name = peek().text;
  if (name == "C" || name == "P") {
    const int choice = ChoiceOf(name);
    if (choice >= 0) return choice;
  }
  ++at_;
  if (name == "e" && !peek().mark('_')) return Make(Kind::kEuler, {});
  while (peek().mark('`')) name += "'", ++at_;
  if (Take('_')) name += "_" + Subscript();
  // f(2) is a value of f; a(2) is a product.
  const bool function = name[0] == 'f' || name[0] == 'g' || name[0] == 'h' || name[0] == 'W' ||
                        name[0] == 'F' || name[0] == 'P' || name[0] == 'Q';
  if (function && peek().mark('(') && !peek().space_before) {
    const int group = Bracketed();
    if (Failed()) return group;
    std::vector<int> arguments =
        kind(group) == Kind::kGroup ? expression_.at(group).children : std::vector<int>{group};
    return Make(Kind::kFunction, std::move(arguments), name);
  }
  return Make(Kind::kSymbol, {}, name);
}

// "C_{10}^{3}", "C^3_{10}", "C(10,3)" at the letter; -1, and nothing read, when it is a letter.
int Parser::ChoiceOf(const std::string& name) {
  const size_t begin = at_, nodes = expression_.nodes.size();
  ++at_;
  int n = -1, k = -1;
  if (name == "C" && peek().mark('(') && !peek().space_before) {
    const int group = Bracketed();
    if (!Failed() && kind(group) == Kind::kGroup && expression_.at(group).children.size() == 2 &&
        expression_.at(group).open == '(') {
      n = expression_.at(group).children[0];
      k = expression_.at(group).children[1];
    }
  } else if (peek().mark('_') || peek().mark('^')) {
    const bool lower_first = peek().mark('_');
    ++at_;
    const int first = Argument();
    if (!Failed() && Take(lower_first ? '^' : '_')) {
      const int second = Argument();
      n = lower_first ? first : second;
      k = lower_first ? second : first;
    }
  }
  if (n >= 0 && k >= 0 && !Failed())
    return Make(Kind::kFunction, {n, k}, name == "C" ? "binom" : "permutations");
  at_ = begin;
  expression_.nodes.resize(nodes);
  expression_.problem.clear();
  expression_.out_of_budget = false;
  return -1;
}

// "_{10}C_3", "^{10}C_3": at the mark.
int Parser::FrontChoice() {
  ++at_;
  const int n = Argument();
  if (Failed()) return n;
  const bool permutations = peek().is(TokenKind::kSymbol, "P");
  if (!permutations && !peek().is(TokenKind::kSymbol, "C")) return FailHere();
  ++at_;
  if (!Take('_') && !Take('^')) return FailHere();
  return Make(Kind::kFunction, {n, Argument()}, permutations ? "permutations" : "binom");
}

std::string Parser::Subscript() {
  std::string text;
  if (!Take('{')) {
    text = peek().text;
    ++at_;
    return text;
  }
  int open = 1;
  while (peek().kind != TokenKind::kEnd) {
    if (peek().mark('{')) ++open;
    if (peek().mark('}') && --open == 0) break;
    text += peek().text;
    ++at_;
  }
  if (!Take('}')) FailHere();
  return text;
}

int Parser::Braced() {
  const Level level(this);
  if (TooMuch()) return Number(0);
  if (!Take('{')) return FailHere();
  const int bars = std::exchange(bars_, 0);
  int inner = Relation();
  bars_ = bars;
  if (peek().is(TokenKind::kName, "choose")) {
    ++at_;
    inner = Make(Kind::kFunction, {inner, Relation()}, "binom");
  }
  if (!Take('}')) return FailHere();
  return inner;
}

// The argument of "\frac" or "\sqrt": braces, or one digit or symbol.
int Parser::Argument() {
  if (peek().mark('{') || peek().mark('(')) return peek().mark('{') ? Braced() : Bracketed();
  if (peek().kind == TokenKind::kNumber && peek().text.size() > 1 &&
      peek().text.find('.') == std::string::npos) {
    // "\frac12": one digit each.
    Node node{Kind::kNumber};
    node.value = peek().text[0] - '0';
    tokens_[at_].text.erase(0, 1);
    tokens_[at_].space_before = false;
    return expression_.Add(std::move(node));
  }
  return Primary();
}

int Parser::Named() {
  const std::string name = peek().text;
  ++at_;
  if (name == "pi") return Make(Kind::kPi, {});
  if (name == "infinity") return Make(Kind::kInfinity, {});
  if (name == "emptyset") {
    const int set = Make(Kind::kGroup, {});
    expression_.nodes[set].open = '{';
    expression_.nodes[set].close = '}';
    return set;
  }
  if (name == "frac") {
    const int over = Argument();
    if (Failed()) return over;
    const int under = Argument();
    return Make(Kind::kQuotient, {over, under}, "/");
  }
  if (name == "binom") {
    const int n = Argument();
    if (Failed()) return n;
    return Make(Kind::kFunction, {n, Argument()}, "binom");
  }
  if (name == "overline") {
    // Above complex numbers it conjugates, above points it only decorates.
    const int inner = Argument();
    if (Failed()) return inner;
    const std::vector<std::string> names = SymbolsOf(expression_, inner);
    const bool complex = std::find(names.begin(), names.end(), "i") != names.end() ||
                         names == std::vector<std::string>{"z"};
    return complex ? Make(Kind::kFunction, {inner}, "conjugate") : inner;
  }
  if (name == "sqrt" || name == "cbrt") return Root(name);
  if (name.substr(0, 5) == "begin") return Matrix(name);
  if (name == "sum" || name == "prod" || name == "lim") return Series(name);
  if (!IsFunctionName(name)) return Fail("\\" + name + " is not supported");
  return Function(name);
}

int Parser::Root(const std::string& name) {
  int degree = -1;
  if (name == "cbrt") {
    degree = Number(3);
  } else if (Take('[')) {
    degree = Relation();
    if (!Take(']')) return FailHere();
  }
  if (Failed()) return Number(0);
  // "sqrt 1/2" in words is (sqrt 1)/2; "\sqrt19" in LaTeX is a digit, but who writes it means 19.
  const int inner = peek().kind == TokenKind::kNumber ? Literal() : Argument();
  if (degree < 0) return Make(Kind::kFunction, {inner}, "sqrt");
  return Make(Kind::kFunction, {inner, degree}, "root");
}

int Parser::Function(const std::string& name) {
  int exponent = -1, base = -1;
  while (!TooMuch() && (peek().mark('^') || peek().mark('_'))) {
    const bool power = peek().mark('^');
    ++at_;
    const int value = peek().mark('{') ? Braced() : SignedPower();
    (power ? exponent : base) = value;
  }
  std::vector<int> arguments;
  if (peek().mark('(') || peek().mark('{') || peek().mark('"')) {
    const int group = peek().mark('{') ? Braced() : Bracketed();
    if (Failed()) return group;
    arguments =
        kind(group) == Kind::kGroup ? expression_.at(group).children : std::vector<int>{group};
  } else {
    arguments = {BareArgument()};
  }
  if (Failed()) return Number(0);
  if (name == "det" && arguments.size() == 1 && kind(arguments[0]) == Kind::kMatrix) {
    const Node& matrix = expression_.at(arguments[0]);
    const std::vector<int> cells = matrix.children;
    const int size = matrix.columns;
    if (cells.size() != static_cast<size_t>(size) * size || size > 4)
      return Fail("the determinant is not square, or too large");
    return Determinant(cells, size, 0);
  }
  if (base >= 0) arguments.push_back(base);
  // sin^{-1} is the inverse function.
  if (exponent >= 0 && IsMinusOne(exponent))
    return Make(Kind::kFunction, std::move(arguments), "arc" + name);
  const int function = Make(Kind::kFunction, std::move(arguments), name);
  return exponent < 0 ? function : Make(Kind::kPower, {function, exponent});
}

bool Parser::IsMinusOne(int node) const {
  const Node& n = expression_.at(node);
  return n.kind == Kind::kNegate && IsNumber(n.children[0], 1);
}

// "sin 2x cos y": the argument ends before the next function, sign or bar.
int Parser::BareArgument() {
  const Level level(this);
  std::vector<int> factors = {SignedPower()};
  while (!TooMuch() && StartsFactor() &&
         !(peek().kind == TokenKind::kName && IsFunctionName(peek().text)) &&
         peek().kind != TokenKind::kNumber && !peek().mark('(')) {
    factors.push_back(Power());
  }
  return factors.size() == 1 ? factors[0] : Make(Kind::kProduct, std::move(factors));
}

// \sum_{k=0}^{n} body, \lim_{x \to a} body: a function of its limits and its body; see series.cc.
int Parser::Series(const std::string& name) {
  const size_t start = expression_.nodes.size();
  int lower = -1, upper = -1;
  while (!TooMuch() && (peek().mark('_') || peek().mark('^'))) {
    const bool below = peek().mark('_');
    ++at_;
    (below ? lower : upper) = peek().mark('{') ? Braced() : Primary();
  }
  if (Failed()) return Number(0);
  if (lower < 0 || (upper < 0 && name != "lim"))
    return Fail("\\" + name + " without limits is not supported");
  std::vector<int> parts = {lower};
  if (upper >= 0) parts.push_back(upper);
  parts.push_back(Term());
  // An index is no imaginary unit.
  const Node& from = expression_.at(lower);
  if (from.kind == Kind::kRelation && expression_.at(from.children[0]).kind == Kind::kSymbol &&
      expression_.at(from.children[0]).name == "i") {
    for (size_t i = start; i < expression_.nodes.size(); ++i) {
      Node& node = expression_.nodes[i];
      if (node.kind == Kind::kSymbol && node.name == "i") node.name = "i'";
    }
  }
  return Make(Kind::kFunction, std::move(parts), name);
}

}  // namespace espalier::reward

// Recursive descent, each level of which costs one of kDepthMax:
//   answer   = relation {("," | ";" | "and" | "or") relation} [words]        a bare list when there
//   are several relation = ratio {("=" | "<" | … | "in") ratio} ratio    = union {":" union} two
//   make a quotient union    = sum {"∪" sum} sum      = ["+" | "-" | "±"] term {("+" | "-" | "±")
//   term} term     = power {["*" | "/"] power}                                    products may be
//   implicit power    = postfix ["^" exponent] postfix  = primary {"!" | "%" | "°"} primary  =
//   number | symbol | function | bracketed list | "|" sum "|" | matrix
// The first error stops it; `problem` says what was found.
#include <algorithm>
#include <utility>

#include "libs/reward/expression.h"
#include "libs/reward/lexer.h"
#include "libs/reward/plain_number.h"
#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

bool IsFunction(absl::string_view name) {
  return name != "frac" && name != "sqrt" && name != "binom" && name != "pi" &&
         name != "infinity" && name != "begin" && name != "end" && name != "half" &&
         name != "quarter" && name != "threequarters" && name != "int" && name != "lim";
}

class Parser {
 public:
  Parser(std::vector<Token> tokens, Budget* budget) : tokens_(std::move(tokens)), budget_(budget) {}

  Expression Run() {
    const int root = Answer();
    if (Failed()) {
      expression_.root = -1;
      return std::move(expression_);
    }
    expression_.root = root;
    return std::move(expression_);
  }

 private:
  // --- tokens
  const Token& peek(int ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  bool Take(char mark) {
    if (!peek().mark(mark)) return false;
    ++at_;
    return true;
  }
  bool Failed() const { return !expression_.problem.empty(); }
  int Fail(const std::string& problem, bool budget = false) {
    if (expression_.problem.empty()) {
      expression_.problem = problem;
      expression_.out_of_budget = budget;
    }
    return Number(0);
  }
  int FailHere() {
    return Fail(peek().kind == TokenKind::kEnd ? "it ends too early"
                                               : "'" + peek().text + "' was not expected");
  }
  // Guards every level of nesting.
  struct Level {
    explicit Level(Parser* parser) : parser(parser) { ++parser->depth_; }
    ~Level() { --parser->depth_; }
    Parser* parser;
  };
  bool TooMuch() {
    if (Failed()) return true;
    if (depth_ > kDepthMax) return Fail("it is nested too deeply", true), true;
    if (expression_.nodes.size() > kNodesMax || !budget_->Spend())
      return Fail("it is too long", true), true;
    return false;
  }

  // --- nodes
  int Make(Kind kind, std::vector<int> children, std::string name = "") {
    Node node{kind};
    node.children = std::move(children);
    node.name = std::move(name);
    return expression_.Add(std::move(node));
  }
  int Number(long value) {
    Node node{Kind::kNumber};
    node.value = value;
    return expression_.Add(std::move(node));
  }
  Kind kind(int node) const { return expression_.at(node).kind; }

  int Answer() {
    std::vector<int> parts;
    while (!TooMuch()) {
      parts.push_back(Relation());
      if (Failed()) break;
      // The words behind an answer are its unit: "125 miles", "28 percent of the".
      if (peek().kind == TokenKind::kText) Words();
      bool more = false;
      while (peek().mark(',') || peek().mark(';') || peek().kind == TokenKind::kAnd ||
             peek().mark('\\')) {
        ++at_;
        more = true;
      }
      if (peek().mark('.') || peek().kind == TokenKind::kEnd) break;
      if (!more) return FailHere();
    }
    if (peek().mark('.') && peek(1).kind == TokenKind::kEnd) ++at_;
    if (peek().kind != TokenKind::kEnd) return FailHere();
    if (parts.size() == 1) return parts[0];
    return Make(Kind::kList, std::move(parts));
  }

  void Words() {
    std::string words;
    while (peek().kind == TokenKind::kText ||
           (!words.empty() && peek().kind == TokenKind::kSymbol)) {
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

  static bool IsRelation(const Token& token) {
    return token.kind == TokenKind::kMark && token.text.size() == 1 &&
           absl::string_view("=<>lg#~i").find(token.text[0]) != absl::string_view::npos;
  }

  int Relation() {
    const Level level(this);
    std::vector<int> sides = {Ratio()};
    std::string operators;
    while (!TooMuch() && IsRelation(peek())) {
      operators.push_back(peek().text[0] == '~' ? '=' : peek().text[0]);
      ++at_;
      sides.push_back(Ratio());
    }
    if (sides.size() == 1) return sides[0];
    return Make(Kind::kRelation, std::move(sides), operators);
  }

  int Ratio() {
    std::vector<int> parts = {Union()};
    while (!TooMuch() && Take(':')) parts.push_back(Union());
    if (parts.size() == 1) return parts[0];
    if (parts.size() == 2) return Make(Kind::kQuotient, std::move(parts));
    const std::string operators(parts.size() - 1, ':');
    return Make(Kind::kRelation, std::move(parts), operators);
  }

  int Union() {
    std::vector<int> parts = {Sum()};
    while (!TooMuch() && Take('U')) parts.push_back(Sum());
    return parts.size() == 1 ? parts[0] : Make(Kind::kUnion, std::move(parts));
  }

  int Sum() {
    const Level level(this);
    std::vector<int> terms;
    bool first = true;
    while (!TooMuch()) {
      char sign = 0;
      for (const char c : {'+', '-', 'p', 'm'}) {
        if (sign == 0 && Take(c)) sign = c;
      }
      if (sign == 0 && !first) break;
      // "a + -b"
      bool negative = sign == '-';
      while (!first && sign != 0 && Take('-')) negative = !negative;
      first = false;
      const int term = Term();
      if (sign == 'p' || sign == 'm') {
        terms.push_back(Make(Kind::kPlusMinus, {term}, sign == 'p' ? "+" : "-"));
      } else {
        terms.push_back(negative ? Make(Kind::kNegate, {term}) : term);
      }
    }
    if (terms.empty()) return FailHere();
    return terms.size() == 1 ? terms[0] : Make(Kind::kSum, std::move(terms));
  }

  // Whether the next token can start a factor of an implicit product.
  bool StartsFactor() const {
    const Token& token = peek();
    if (token.kind == TokenKind::kSymbol || token.kind == TokenKind::kNumber) return true;
    if (token.kind == TokenKind::kName) return token.text != "end" && token.text != "mod";
    return token.mark('(') || token.mark('{') || token.mark('[') || token.mark('L') ||
           token.mark('C') || (token.mark('|') && bars_ == 0);
  }

  int Term() {
    std::vector<int> factors = {Power()};
    while (!TooMuch()) {
      if (Take('*')) {
        factors.push_back(SignedPower());
      } else if (Take('/')) {
        const int over = factors.size() == 1 ? factors[0] : Make(Kind::kProduct, factors);
        const int under = SignedPower();
        factors = {Make(Kind::kQuotient, {over, under})};
      } else if (StartsFactor()) {
        if (!Implicit(&factors)) return FailHere();
      } else {
        break;
      }
    }
    return factors.size() == 1 ? factors[0] : Make(Kind::kProduct, std::move(factors));
  }

  // Juxtaposition: a mixed number when an integer stands before a fraction of integers, else a
  // product.
  bool Implicit(std::vector<int>* factors) {
    const Node& last = expression_.at(factors->back());
    const bool after_integer = last.kind == Kind::kNumber && !last.decimal && literal_end_ == at_;
    if (peek().kind == TokenKind::kNumber) {
      // "1 1/2", but not "3 4".
      const bool fraction =
          peek(1).mark('/') && peek(2).kind == TokenKind::kNumber && peek().space_before;
      if (!after_integer || !fraction) return false;
      const int over = Literal();
      ++at_;
      const int under = Literal();
      factors->back() = Make(Kind::kSum, {factors->back(), Make(Kind::kQuotient, {over, under})});
      return true;
    }
    const bool fraction_follows =
        peek().is(TokenKind::kName, "frac") || peek().is(TokenKind::kName, "half") ||
        peek().is(TokenKind::kName, "quarter") || peek().is(TokenKind::kName, "threequarters");
    const int factor = Power();
    if (after_integer && fraction_follows && IsPositiveFraction(factor)) {
      factors->back() = Make(Kind::kSum, {factors->back(), factor});
    } else {
      factors->push_back(factor);
    }
    return true;
  }

  bool IsPositiveFraction(int node) const {
    const Node& n = expression_.at(node);
    if (n.kind != Kind::kQuotient) return false;
    return kind(n.children[0]) == Kind::kNumber && kind(n.children[1]) == Kind::kNumber;
  }

  int SignedPower() {
    const Level level(this);
    if (TooMuch()) return Number(0);
    if (Take('-')) return Make(Kind::kNegate, {SignedPower()});
    if (Take('+')) return SignedPower();
    return Power();
  }

  int Power() {
    const Level level(this);
    if (TooMuch()) return Number(0);
    int base = Postfix();
    while (!TooMuch() && peek().mark('^')) {
      ++at_;
      if (Take('o') || (peek().mark('{') && peek(1).mark('o') && peek(2).mark('}') && (at_ += 3))) {
        base = Make(Kind::kDegree, {base});
        continue;
      }
      const int exponent = peek().mark('{') ? Braced() : SignedPower();
      base = Make(Kind::kPower, {base, exponent});
      base = Marks(base);
    }
    return base;
  }

  int Postfix() { return Marks(Primary()); }

  int Marks(int node) {
    while (!TooMuch()) {
      if (Take('!')) {
        node = Make(Kind::kFactorial, {node});
      } else if (Take('%')) {
        node = Make(Kind::kPercent, {node});
      } else if (Take('o')) {
        node = Make(Kind::kDegree, {node});
      } else {
        break;
      }
    }
    return node;
  }

  int Primary() {
    const Level level(this);
    if (TooMuch()) return Number(0);
    const Token token = peek();
    switch (token.kind) {
      case TokenKind::kNumber:
        return Literal();
      case TokenKind::kSymbol:
        return Symbol();
      case TokenKind::kName:
        return Named();
      case TokenKind::kText:
        return TextAtom();
      case TokenKind::kMark:
        return Bracketed();
      default:
        return FailHere();
    }
  }

  // Words alone may be an answer ("odd"), words within mathematics may not.
  int TextAtom() {
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

  int Literal() {
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

  int Symbol() {
    std::string name = peek().text;
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

  std::string Subscript() {
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

  int Braced() {
    const Level level(this);
    if (TooMuch()) return Number(0);
    if (!Take('{')) return FailHere();
    const int bars = std::exchange(bars_, 0);
    const int inner = Relation();
    bars_ = bars;
    if (!Take('}')) return FailHere();
    return inner;
  }

  // The argument of "\frac" or "\sqrt": braces, or one digit or symbol.
  int Argument() {
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

  int Named() {
    const std::string name = peek().text;
    ++at_;
    if (name == "pi") return Make(Kind::kPi, {});
    if (name == "infinity") return Make(Kind::kInfinity, {});
    if (name == "half" || name == "quarter" || name == "threequarters") {
      return Make(Kind::kQuotient,
                  {Number(name == "threequarters" ? 3 : 1), Number(name == "half" ? 2 : 4)});
    }
    if (name == "frac") {
      const int over = Argument();
      if (Failed()) return over;
      const int under = Argument();
      return Make(Kind::kQuotient, {over, under});
    }
    if (name == "binom") {
      const int n = Argument();
      if (Failed()) return n;
      return Make(Kind::kFunction, {n, Argument()}, "binom");
    }
    if (name == "sqrt" || name == "cbrt") return Root(name);
    if (name == "begin") return Matrix();
    if (name == "sum" || name == "prod") return Series(name);
    if (!IsFunction(name)) return Fail("\\" + name + " is not supported");
    return Function(name);
  }

  int Root(const std::string& name) {
    int degree = -1;
    if (name == "cbrt") {
      degree = Number(3);
    } else if (Take('[')) {
      degree = Relation();
      if (!Take(']')) return FailHere();
    }
    if (Failed()) return Number(0);
    // "sqrt 1/2" in words is (sqrt 1)/2; "\sqrt19" in LaTeX is a digit, but who writes it means 19.
    int inner;
    if (peek().kind == TokenKind::kNumber) {
      inner = Literal();
    } else {
      inner = Argument();
    }
    if (degree < 0) return Make(Kind::kFunction, {inner}, "sqrt");
    return Make(Kind::kFunction, {inner, degree}, "root");
  }

  int Function(const std::string& name) {
    int exponent = -1, base = -1;
    while (!TooMuch() && (peek().mark('^') || peek().mark('_'))) {
      const bool power = peek().mark('^');
      ++at_;
      const int value = peek().mark('{') ? Braced() : SignedPower();
      (power ? exponent : base) = value;
    }
    std::vector<int> arguments;
    if (peek().mark('(') || peek().mark('{')) {
      const int group = peek().mark('{') ? Braced() : Bracketed();
      if (Failed()) return group;
      arguments =
          kind(group) == Kind::kGroup ? expression_.at(group).children : std::vector<int>{group};
    } else {
      arguments = {BareArgument()};
    }
    if (Failed()) return Number(0);
    if (base >= 0) arguments.push_back(base);
    // sin^{-1} is the inverse function.
    if (exponent >= 0 && IsMinusOne(exponent))
      return Make(Kind::kFunction, std::move(arguments), "arc" + name);
    const int function = Make(Kind::kFunction, std::move(arguments), name);
    return exponent < 0 ? function : Make(Kind::kPower, {function, exponent});
  }

  bool IsMinusOne(int node) const {
    const Node& n = expression_.at(node);
    return n.kind == Kind::kNegate && kind(n.children[0]) == Kind::kNumber &&
           expression_.at(n.children[0]).value == 1;
  }

  // "sin 2x cos y": the argument ends before the next function, sign or bar.
  int BareArgument() {
    const Level level(this);
    std::vector<int> factors = {SignedPower()};
    while (!TooMuch() && StartsFactor() &&
           !(peek().kind == TokenKind::kName && IsFunction(peek().text)) &&
           peek().kind != TokenKind::kNumber && !peek().mark('(')) {
      factors.push_back(Power());
    }
    return factors.size() == 1 ? factors[0] : Make(Kind::kProduct, std::move(factors));
  }

  // \sum_{k=0}^{n} body: opaque but for its parts.
  int Series(const std::string& name) {
    std::vector<int> parts;
    for (const char c : {'_', '^'}) {
      if (!Take(c)) continue;
      parts.push_back(peek().mark('{') ? Braced() : Primary());
      if (Failed()) return Number(0);
    }
    if (parts.size() != 2) return Fail("\\" + name + " without limits is not supported");
    parts.push_back(Term());
    return Make(Kind::kFunction, std::move(parts), name);
  }

  int Matrix() {
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
      if (!Take('\\')) break;
    }
    if (Failed()) return Number(0);
    if (!peek().is(TokenKind::kName, "end") || cells.empty()) return FailHere();
    ++at_;
    const int matrix = Make(Kind::kMatrix, std::move(cells));
    expression_.nodes[matrix].columns = std::max(1, columns);
    return matrix;
  }

  static char CloseOf(char open) {
    switch (open) {
      case '(':
        return ')';
      case '[':
        return ']';
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

  int Bracketed() {
    const char open = peek().text[0];
    if (absl::string_view("([\"{|LC").find(open) == absl::string_view::npos) return FailHere();
    ++at_;
    if (open == '|') return Absolute();
    const int bars = std::exchange(bars_, 0);
    std::vector<int> parts;
    char close = 0;
    while (!TooMuch()) {
      if (parts.empty() && (Take('\''))) {
        close = '\'';
        break;
      }
      parts.push_back(Relation());
      if (Failed()) return Number(0);
      if (Take(',') || Take(';') || (peek().kind == TokenKind::kAnd && ++at_)) continue;
      // An interval may end differently: [0,1).
      const bool interval = (open == '(' || open == '[') && parts.size() == 2;
      for (const char c : {CloseOf(open), interval ? ')' : '\0', interval ? ']' : '\0'}) {
        if (close == 0 && c != 0 && Take(c)) close = c;
      }
      if (close == 0) return FailHere();
      break;
    }
    bars_ = bars;
    if (Failed()) return Number(0);
    if (open == 'L' || open == 'C')
      return Make(Kind::kFunction, std::move(parts), open == 'L' ? "floor" : "ceiling");
    if (parts.size() == 1 && open != '"' && close != '\'') {
      // Brackets around one thing only group it; "[5]" is a list of one, which equals its element.
      return parts[0];
    }
    // Braces of LaTeX around a list, as in "${1,3}$", bind nothing.
    if (open == '{') return Make(Kind::kList, std::move(parts));
    const int group = Make(Kind::kGroup, std::move(parts));
    expression_.nodes[group].open = open == '"' ? '{' : open;
    expression_.nodes[group].close = close == '\'' ? '}' : close;
    return group;
  }

  int Absolute() {
    const Level level(this);
    ++bars_;
    const int inner = Sum();
    --bars_;
    if (!Take('|')) return FailHere();
    return Make(Kind::kFunction, {inner}, "abs");
  }

  std::vector<Token> tokens_;
  Budget* const budget_;
  Expression expression_;
  size_t at_ = 0;
  size_t literal_end_ = 0;  // behind the last literal that was read
  int depth_ = 0;
  int bars_ = 0;  // open "|": the next one closes
};

}  // namespace

Expression ParseExpression(absl::string_view text, Budget* budget) {
  Expression failed;
  if (text.size() > kExpressionBytesMax) {
    failed.problem = "it is longer than " + std::to_string(kExpressionBytesMax) + " bytes";
    failed.out_of_budget = true;
    return failed;
  }
  std::vector<Token> tokens = Tokenize(text);
  if (tokens.empty()) {
    failed.problem = "it holds signs of no known meaning";
    return failed;
  }
  return Parser(std::move(tokens), budget).Run();
}

}  // namespace espalier::reward

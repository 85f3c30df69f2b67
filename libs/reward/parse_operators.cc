// Sums, products, powers and the marks behind a value; what the parser shares with its other parts.
#include <algorithm>
#include <utility>

#include "libs/reward/parser.h"

namespace espalier::reward {

Expression Parser::Run() {
  const int root = Answer();
  expression_.root = Failed() ? -1 : root;
  return std::move(expression_);
}

const Token& Parser::peek(int ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

bool Parser::Take(char mark) {
  if (!peek().mark(mark)) return false;
  ++at_;
  return true;
}

int Parser::Fail(const std::string& problem, bool budget) {
  if (expression_.problem.empty()) {
    expression_.problem = problem;
    expression_.out_of_budget = budget;
  }
  return Number(0);
}

int Parser::FailHere() {
  return Fail(peek().kind == TokenKind::kEnd ? "it ends too early"
                                             : "'" + peek().text + "' was not expected");
}

bool Parser::TooMuch() {
  if (Failed()) return true;
  if (depth_ > kDepthMax) return Fail("it is nested too deeply", true), true;
  if (expression_.nodes.size() > kNodesMax || !budget_->Spend())
    return Fail("it is too long", true), true;
  return false;
}

int Parser::Make(Kind kind, std::vector<int> children, std::string name) {
  Node node{kind};
  node.children = std::move(children);
  node.name = std::move(name);
  return expression_.Add(std::move(node));
}

int Parser::Number(long value) {
  Node node{Kind::kNumber};
  node.value = value;
  return expression_.Add(std::move(node));
}

int Parser::Sum() {
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
bool Parser::StartsFactor() const {
  const Token& token = peek();
  if (token.kind == TokenKind::kSymbol || token.kind == TokenKind::kNumber) return true;
  if (token.kind == TokenKind::kName)
    return token.text != "end" && token.text != "mod" && token.text != "choose";
  if (token.mark('[')) {
    // In "[0,1[" it closes.
    const Token& next = peek(1);
    if (next.kind == TokenKind::kEnd || next.kind == TokenKind::kAnd) return false;
    return next.kind != TokenKind::kMark ||
           absl::string_view("(-+\"{|[").find(next.text[0]) != absl::string_view::npos;
  }
  return token.mark('(') || token.mark('{') || token.mark('L') || token.mark('C') ||
         (token.mark('|') && bars_ == 0);
}

int Parser::Term() {
  std::vector<int> factors = {Power()};
  while (!TooMuch()) {
    if (Take('*')) {
      factors.push_back(SignedPower());
    } else if (Take('/')) {
      const int over = factors.size() == 1 ? factors[0] : Make(Kind::kProduct, factors);
      const int under = SignedPower();
      factors = {Make(Kind::kQuotient, {over, under}, "/")};
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
bool Parser::Implicit(std::vector<int>* factors) {
  const Node& last = expression_.at(factors->back());
  const bool after_integer = last.kind == Kind::kNumber && !last.decimal && literal_end_ == at_;
  if (peek().kind == TokenKind::kNumber) {
    // "3! 7!"
    if (last.kind == Kind::kFactorial) return factors->push_back(Power()), true;
    // "1 1/2", but not "3 4"; "x 2" is no product either.
    const bool fraction =
        peek(1).mark('/') && peek(2).kind == TokenKind::kNumber && peek().space_before;
    if (!after_integer || !fraction) return false;
    const int over = Literal();
    ++at_;
    const int under = Literal();
    const int quotient = Marks(Make(Kind::kQuotient, {over, under}, "/"));
    factors->back() = MixedNumber(factors->back(), quotient);
    return true;
  }
  const bool fraction_follows = peek().is(TokenKind::kName, "frac");
  const int factor = Power();
  if (after_integer && fraction_follows && IsPositiveFraction(factor)) {
    factors->back() = MixedNumber(factors->back(), factor);
  } else {
    factors->push_back(factor);
  }
  return true;
}

// A percent or degree sign behind the fraction is one of the whole.
int Parser::MixedNumber(int whole, int fraction) {
  const Kind mark = kind(fraction);
  if (mark == Kind::kPercent || mark == Kind::kDegree)
    return Make(mark, {MixedNumber(whole, expression_.at(fraction).children[0])});
  return Make(Kind::kSum, {whole, fraction});
}

bool Parser::IsPositiveFraction(int node) const {
  const Node& n = expression_.at(node);
  if (n.kind == Kind::kPercent || n.kind == Kind::kDegree) return IsPositiveFraction(n.children[0]);
  if (n.kind != Kind::kQuotient) return false;
  return kind(n.children[0]) == Kind::kNumber && kind(n.children[1]) == Kind::kNumber;
}

int Parser::SignedPower() {
  const Level level(this);
  if (TooMuch()) return Number(0);
  if (Take('-')) return Make(Kind::kNegate, {SignedPower()});
  if (Take('+')) return SignedPower();
  return Power();
}

int Parser::Power() {
  const Level level(this);
  if (TooMuch()) return Number(0);
  int base = Postfix();
  while (!TooMuch() && peek().mark('^')) {
    ++at_;
    if (Take('o') || (peek().mark('{') && peek(1).mark('o') && peek(2).mark('}') && (at_ += 3))) {
      base = Marks(Make(Kind::kDegree, {base}));
      continue;
    }
    const int exponent = peek().mark('{') ? Braced() : SignedPower();
    base = Make(Kind::kPower, {base, exponent});
    base = Marks(base);
  }
  return base;
}

int Parser::Postfix() { return Marks(Primary()); }

int Parser::Marks(int node) {
  while (!TooMuch()) {
    if (peek().mark('!') && peek(1).mark('!')) {
      at_ += 2;
      node = Make(Kind::kFunction, {node}, "doublefactorial");
    } else if (Take('!')) {
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

}  // namespace espalier::reward

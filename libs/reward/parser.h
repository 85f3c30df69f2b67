// Parser: recursive descent over the tokens of one answer, each level of which costs one of
// kDepthMax. The first error stops it; `problem` says what was found.
//   answer   = relation {("," | ";" | "and" | "or") relation} [words]    a bare list when there are
//              several
//   relation = ratio {("=" | "<" | … | "in") ratio}
//   ratio    = union {":" union}                                         two make a quotient
//   union    = sum {("∪" | "∩" | "\") sum}
//   sum      = ["+" | "-" | "±"] term {("+" | "-" | "±") term}
//   term     = power {["*" | "/"] power}                                 products may be implicit
//   power    = postfix ["^" exponent]
//   postfix  = primary {"!" | "%" | "°"}
//   primary  = number | symbol | function | bracketed list | "|" sum "|" | matrix
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "libs/reward/expression.h"
#include "libs/reward/lexer.h"

namespace espalier::reward {

class Parser {
 public:
  Parser(std::vector<Token> tokens, Budget* budget) : tokens_(std::move(tokens)), budget_(budget) {}

  Expression Run();

 private:
  // Guards every level of nesting.
  struct Level {
    explicit Level(Parser* parser) : parser(parser) { ++parser->depth_; }
    ~Level() { --parser->depth_; }
    Parser* parser;
  };

  // --- tokens (parse_operators.cc)
  const Token& peek(int ahead = 0) const;
  bool Take(char mark);
  bool Failed() const { return !expression_.problem.empty(); }
  int Fail(const std::string& problem, bool budget = false);
  int FailHere();
  bool TooMuch();

  // --- nodes
  int Make(Kind kind, std::vector<int> children, std::string name = "");
  int Number(long value);
  Kind kind(int node) const { return expression_.at(node).kind; }
  bool IsNumber(int node, long value) const {
    return kind(node) == Kind::kNumber && expression_.at(node).value == value;
  }

  // --- lists, relations, brackets (parse_sequences.cc)
  int Answer();
  void Words();
  int Relation();
  int Ratio();
  int Union();
  int Bracketed();
  int CloseBracket(char open, char close, std::vector<int> parts);
  int Condition(std::vector<int>* parts);
  int Absolute();
  int Matrix(const std::string& begin);
  int Determinant(const std::vector<int>& cells, int size, int depth);
  int MatrixOfRows(const std::vector<int>& rows);

  // --- operators (parse_operators.cc)
  int Sum();
  bool StartsFactor() const;
  int Term();
  bool Implicit(std::vector<int>* factors);
  int MixedNumber(int whole, int fraction);
  bool IsPositiveFraction(int node) const;
  int SignedPower();
  int Power();
  int Postfix();
  int Marks(int node);

  // --- atoms (parse_atoms.cc)
  int Primary();
  int TextAtom();
  int Literal();
  int Symbol();
  int ChoiceOf(const std::string& name);
  int FrontChoice();
  std::string Subscript();
  int Braced();
  int Argument();
  int Named();
  int Root(const std::string& name);
  int Function(const std::string& name);
  bool IsMinusOne(int node) const;
  int BareArgument();
  int Series(const std::string& name);

  std::vector<Token> tokens_;
  Budget* const budget_;
  Expression expression_;
  size_t at_ = 0;
  size_t literal_end_ = 0;  // behind the last literal that was read
  int depth_ = 0;
  int bars_ = 0;  // open "|": the next one closes
};

// Functions that are written before their argument.
bool IsFunctionName(absl::string_view name);

}  // namespace espalier::reward

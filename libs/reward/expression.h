// Expression: an answer as a tree in one arena, and the budget under which all work on it stands.
#pragma once

#include <gmpxx.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace espalier::reward {

// Work that one verification may do. Whoever runs out says so; nobody waits or throws.
struct Budget {
  int64_t steps = 60'000;
  bool Spend(int64_t count = 1) { return (steps -= count) >= 0; }
  bool spent() const { return steps < 0; }
};

inline constexpr size_t kExpressionBytesMax = 4000;
inline constexpr size_t kNodesMax = 3000;
inline constexpr int kDepthMax = 64;
inline constexpr int64_t kBitsMax = 1 << 16;  // of any exact number

enum class Kind : uint8_t {
  kNumber,  // value; decimal with `digits` places
  kSymbol,  // name, subscript included
  kPi,
  kEuler,
  kInfinity,
  kSum,        // children
  kNegate,     // child
  kProduct,    // children
  kQuotient,   // over, under
  kPower,      // base, exponent
  kFactorial,  // child
  kFunction,   // name, arguments
  kPlusMinus,  // child, with either sign; name "+" or, for minus-plus, "-"
  kPercent,    // child
  kDegree,     // child
  kGroup,      // open, close, children: tuple, point, interval, set
  kList,       // children, bare
  kRelation,   // children, and one operator between each two in `name`: = < > l(<=) g(>=) #(!=)
               // i(in) :
  kUnion,      // children
  kMatrix,     // children row by row, `columns` a row
  kText,       // name: words
};

struct Node {
  Kind kind;
  bool decimal = false;
  char open = 0, close = 0;
  int digits = 0;
  int columns = 0;
  std::string name;
  std::vector<int> children;
  mpq_class value;
};

struct Expression {
  std::vector<Node> nodes;
  int root = -1;
  std::string unit;            // words behind the expression, such as "miles"
  std::string problem;         // why there is none
  bool out_of_budget = false;  // the problem is size, not syntax

  bool ok() const { return root >= 0; }
  const Node& at(int index) const { return nodes[index]; }
  const Node& top() const { return nodes[root]; }
  int Add(Node node) {
    nodes.push_back(std::move(node));
    return static_cast<int>(nodes.size()) - 1;
  }
};

// Values of indices, while the body of a sum is worked on.
using Bindings = std::vector<std::pair<std::string, mpq_class>>;

// Reads LaTeX or plain mathematics; see parser.h for the grammar.
Expression ParseExpression(absl::string_view text, Budget* budget);

// Canonical text of a subtree, for reports and for naming opaque terms. Bounded by `budget`.
std::string ToText(const Expression& expression, int node, Budget* budget);

// Names of the symbols below `node`, sorted, each once.
std::vector<std::string> SymbolsOf(const Expression& expression, int node);

}  // namespace espalier::reward

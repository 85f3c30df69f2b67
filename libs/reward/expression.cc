// Canonical text and symbols of trees. Trees are at most kDepthMax deep, so recursion is bounded.
#include "libs/reward/expression.h"

#include <algorithm>

#include "absl/strings/str_join.h"

namespace espalier::reward {
namespace {

// Longer texts are cut: they name opaque terms, and two different terms must not share a cut name.
constexpr size_t kTextBytesMax = 2000;

class Writer {
 public:
  Writer(const Expression& expression, Budget* budget) : expression_(expression), budget_(budget) {}

  std::string Write(int index) {
    if (!budget_->Spend()) return "?";
    const Node& node = expression_.at(index);
    switch (node.kind) {
      case Kind::kNumber:
        return node.value.get_str();
      case Kind::kSymbol:
      case Kind::kText:
        return node.name;
      case Kind::kPi:
        return "pi";
      case Kind::kEuler:
        return "e";
      case Kind::kInfinity:
        return "infinity";
      case Kind::kSum:
        return "(" + Join(node, " + ", true) + ")";
      case Kind::kNegate:
        return "-" + Write(node.children[0]);
      case Kind::kProduct:
        return Join(node, "*", true);
      case Kind::kQuotient:
        return "(" + Join(node, "/") + ")";
      case Kind::kPower:
        return "(" + Join(node, "^") + ")";
      case Kind::kFactorial:
        return Write(node.children[0]) + "!";
      case Kind::kFunction:
        return node.name + "(" + Join(node, ", ") + ")";
      case Kind::kPlusMinus:
        return (node.name == "+" ? "±" : "∓") + Write(node.children[0]);
      case Kind::kPercent:
        return Write(node.children[0]) + "%";
      case Kind::kDegree:
        return Write(node.children[0]) + "°";
      case Kind::kGroup:
        return std::string(1, node.open) + Join(node, ", ") + std::string(1, node.close);
      case Kind::kList:
        return Join(node, ", ");
      case Kind::kRelation:
        return Relation(node);
      case Kind::kUnion:
        return Join(node, " ∪ ");
      case Kind::kMatrix:
        return "[" + Join(node, ", ") + "]";
    }
    return "?";
  }

 private:
  // `sorted` where order does not matter, so that equal terms get equal names.
  std::string Join(const Node& node, const char* between, bool sorted = false) {
    std::vector<std::string> parts;
    size_t size = 0;
    for (const int child : node.children) {
      if (size > kTextBytesMax) break;
      parts.push_back(Write(child));
      size += parts.back().size();
    }
    if (sorted) std::sort(parts.begin(), parts.end());
    return absl::StrJoin(parts, between);
  }

  std::string Relation(const Node& node) {
    std::string text = Write(node.children[0]);
    for (size_t i = 1; i < node.children.size(); ++i) {
      const char op = node.name[i - 1];
      text += op == 'l'   ? " <= "
              : op == 'g' ? " >= "
              : op == '#' ? " != "
              : op == 'i' ? " in "
                          : std::string(" ") + op + " ";
      text += Write(node.children[i]);
    }
    return text;
  }

  const Expression& expression_;
  Budget* const budget_;
};

void Collect(const Expression& expression, int index, std::vector<std::string>* names) {
  const Node& node = expression.at(index);
  if (node.kind == Kind::kSymbol) names->push_back(node.name);
  for (const int child : node.children) Collect(expression, child, names);
}

}  // namespace

std::string ToText(const Expression& expression, int node, Budget* budget) {
  return Writer(expression, budget).Write(node);
}

std::vector<std::string> SymbolsOf(const Expression& expression, int node) {
  std::vector<std::string> names;
  Collect(expression, node, &names);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace espalier::reward

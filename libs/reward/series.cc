// Recursion follows the tree, which is at most kDepthMax deep.
#include "libs/reward/series.h"

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

bool IsNegativeNumber(const Expression& expression, int node) {
  const Node& n = expression.at(node);
  return n.kind == Kind::kNegate && expression.at(n.children[0]).kind == Kind::kNumber;
}

}  // namespace

std::optional<Series> ReadSeries(const Expression& expression, int node) {
  const Node& n = expression.at(node);
  if (n.kind != Kind::kFunction || n.children.size() != 3 || (n.name != "sum" && n.name != "prod"))
    return std::nullopt;
  const Node& from = expression.at(n.children[0]);
  if (from.kind != Kind::kRelation || from.name != "=" ||
      expression.at(from.children[0]).kind != Kind::kSymbol)
    return std::nullopt;
  Series series;
  series.sum = n.name == "sum";
  series.index = expression.at(from.children[0]).name;
  series.lower = from.children[1];
  series.upper = n.children[1];
  series.body = n.children[2];
  series.infinite = expression.at(series.upper).kind == Kind::kInfinity;
  return series;
}

void CollectIntegers(const Expression& expression, int node, std::vector<std::string>* names) {
  const Node& n = expression.at(node);
  const auto collect = [&](int child) {
    for (std::string& name : SymbolsOf(expression, child)) names->push_back(std::move(name));
  };
  if (const auto series = ReadSeries(expression, node)) {
    collect(series->lower);
    collect(series->upper);
  } else if (n.kind == Kind::kFactorial ||
             (n.kind == Kind::kFunction && (n.name == "binom" || n.name == "permutations"))) {
    for (const int child : n.children) collect(child);
  } else if (n.kind == Kind::kPower && IsNegativeNumber(expression, n.children[0])) {
    collect(n.children[1]);
  }
  for (const int child : n.children) CollectIntegers(expression, child, names);
}

std::string BoundName(const std::string& name, const Bindings& bindings) {
  const size_t mark = name.find('_');
  if (mark == std::string::npos || bindings.empty()) return name;
  std::string bound = name.substr(0, mark + 1);
  for (size_t at = mark + 1; at < name.size(); ++at) {
    const std::string letter = name.substr(at, 1);
    const std::string* value = nullptr;
    std::string text;
    for (const auto& [index, number] : bindings) {
      // The index i is called "i'" beside the imaginary unit.
      if (index.substr(0, 1) != letter || (index.size() > 1 && index != "i'")) continue;
      text = number.get_str();
      value = &text;
    }
    bound += value != nullptr ? *value : letter;
  }
  return bound;
}

}  // namespace espalier::reward

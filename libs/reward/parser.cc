// ParseExpression: size limits, tokens, then the parser.
#include "libs/reward/parser.h"

namespace espalier::reward {

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

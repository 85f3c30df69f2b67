// Statements: the places of a text that commit to an answer: boxes, "####" lines and answer
// phrases. Working ("19 - 5 = 14.") is no statement.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace espalier::reward {

struct Statement {
  size_t marker = 0;          // where its box, "####" or phrase starts
  size_t begin = 0, end = 0;  // the answer itself
  size_t stop = 0;            // behind the sentence that states it
  std::string text;  // the answer as it stands; several boxes of one sentence are joined by commas
  const char* rule = "";  // "boxed", "hash" or "answer_phrase"
};

// All statements in order. Linear in the text's size but for a logarithm.
std::vector<Statement> FindStatements(absl::string_view text);

}  // namespace espalier::reward

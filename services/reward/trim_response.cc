// Tokens between "<|" and "|>" (also in full-width bars) are all special; others are named.
#include "services/reward/trim_response.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace espalier::reward {
namespace {

// A special token is one short word.
constexpr size_t kTokenBytesMax = 64;

bool CutSuffix(absl::string_view suffix, absl::string_view* text) {
  if (!absl::EndsWith(*text, suffix)) return false;
  text->remove_suffix(suffix.size());
  return true;
}

bool CutBarred(absl::string_view opening, absl::string_view closing, absl::string_view* text) {
  if (!absl::EndsWith(*text, closing)) return false;
  const size_t begin = text->rfind(opening);
  if (begin == absl::string_view::npos || text->size() - begin > kTokenBytesMax) return false;
  const absl::string_view word =
      text->substr(begin + opening.size(), text->size() - begin - opening.size() - closing.size());
  if (word.find_first_of(" \t\r\n<>|") != absl::string_view::npos) return false;
  *text = text->substr(0, begin);
  return true;
}

}  // namespace

absl::string_view TrimResponse(absl::string_view text) {
  static constexpr absl::string_view kNamed[] = {"</s>",  "<s>",           "<pad>", "<eos>",
                                                 "[PAD]", "<end_of_turn>", "[EOS]"};
  bool cut = true;
  while (cut) {
    text = absl::StripTrailingAsciiWhitespace(text);
    cut = CutBarred("<|", "|>", &text) || CutBarred("<｜", "｜>", &text);
    for (const absl::string_view name : kNamed) cut = CutSuffix(name, &text) || cut;
  }
  return text;
}

}  // namespace espalier::reward

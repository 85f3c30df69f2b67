// TrimResponse: a response as text, without the tokens that end a turn.
#pragma once

#include "absl/strings/string_view.h"

namespace espalier::reward {

// Cuts trailing whitespace and special tokens, such as "<|im_end|>" or "</s>": trainers decode a
// response with the tokens that ended it and padded it.
absl::string_view TrimResponse(absl::string_view response);

}  // namespace espalier::reward

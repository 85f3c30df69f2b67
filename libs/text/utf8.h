// UTF-8: where characters begin and end, and text that is always valid.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::text {

// Length in bytes of the character at `i`; 0 when the bytes there are none (overlong forms and
// surrogates included).
size_t CharacterLength(absl::string_view text, size_t i);

// The same text with every byte that is part of no character replaced by U+FFFD. What a model
// samples byte by byte need not be text, but a proto string must be.
std::string ValidUtf8(absl::string_view text);

}  // namespace espalier::text

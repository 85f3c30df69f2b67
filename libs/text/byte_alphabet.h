// GPT-2's byte alphabet: one printable character for each byte, so that a vocabulary of byte
// strings is readable JSON.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::text {

// Each byte as its character, in UTF-8.
std::string BytesToAlphabet(absl::string_view bytes);

// The way back; nothing when a character is not of the alphabet.
std::optional<std::string> AlphabetToBytes(absl::string_view characters);

}  // namespace espalier::text

// Big-endian numbers in keys, for the sources of this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace espalier::history {

// The lowest `bytes` bytes of `value`, most significant first.
void AppendBigEndian(std::string* out, uint64_t value, int bytes);
uint64_t ReadBigEndian(std::string_view bytes);

}  // namespace espalier::history

// The printable bytes of Latin-1 stand for themselves; the others take the characters from U+0100
// on, in order.
#include "libs/text/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace espalier::text {
namespace {

constexpr int kCodePointEnd = 256 + 68;  // 188 bytes are printable, 68 are not

constexpr bool IsPrintable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Tables {
  std::array<uint16_t, 256> to_code{};
  std::array<int16_t, kCodePointEnd> to_byte{};
};

constexpr Tables MakeTables() {
  Tables tables;
  for (int16_t& byte : tables.to_byte) byte = -1;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code = IsPrintable(byte) ? byte : next++;
    tables.to_code[byte] = static_cast<uint16_t>(code);
    tables.to_byte[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();
static_assert(kTables.to_code[' '] == 0x120);
static_assert(kTables.to_code[0xAD] == kCodePointEnd - 1);

}  // namespace

std::string BytesToAlphabet(absl::string_view bytes) {
  std::string characters;
  for (const char c : bytes) {
    const unsigned code = kTables.to_code[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      characters.push_back(static_cast<char>(code));
    } else {
      characters.push_back(static_cast<char>(0xC0 | (code >> 6)));
      characters.push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
  }
  return characters;
}

std::optional<std::string> AlphabetToBytes(absl::string_view characters) {
  std::string bytes;
  for (size_t i = 0; i < characters.size(); ++i) {
    unsigned code = static_cast<unsigned char>(characters[i]);
    if (code >= 0x80) {
      if (code < 0xC2 || code > 0xDF || i + 1 >= characters.size()) return std::nullopt;
      const unsigned tail = static_cast<unsigned char>(characters[++i]);
      if ((tail & 0xC0) != 0x80) return std::nullopt;
      code = ((code & 0x1F) << 6) | (tail & 0x3F);
    }
    if (code >= kCodePointEnd || kTables.to_byte[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kTables.to_byte[code]));
  }
  return bytes;
}

}  // namespace espalier::text

// Varints and zigzag differences, for the codings of this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace espalier::history {

inline void PutVarint(std::string* out, uint64_t value) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// Differences wrap around modulo 2^64 on both sides, so any pair of counts survives.
inline uint64_t ZigZag(uint64_t difference) {
  return difference << 1 ^ (difference >> 63 != 0 ? ~uint64_t{0} : 0);
}
inline uint64_t UnZigZag(uint64_t coded) {
  return coded >> 1 ^ ((coded & 1) != 0 ? ~uint64_t{0} : 0);
}

// Takes bytes from the front; false when they do not suffice.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  bool Byte(char* out) {
    if (bytes_.empty()) return false;
    *out = bytes_.front();
    bytes_.remove_prefix(1);
    return true;
  }
  bool Bytes(size_t count, std::string_view* out) {
    if (count > bytes_.size()) return false;
    *out = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return true;
  }
  bool Varint(uint64_t* out) {
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      char byte;
      if (!Byte(&byte)) return false;
      const uint64_t bits = static_cast<unsigned char>(byte) & 0x7f;
      if (shift == 63 && bits > 1) return false;
      *out |= bits << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }
  size_t left() const { return bytes_.size(); }
  std::string_view rest() const { return bytes_; }

 private:
  std::string_view bytes_;
};

}  // namespace espalier::history

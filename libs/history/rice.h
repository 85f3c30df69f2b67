// Counts of one expert as bits: each against a running mean of those before, the difference in a
// Rice code. Noisy counts cost little more than their entropy, and no compressor has to run when
// they are read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace espalier::history {

// How a column is coded: which predictor, and how many low bits stand as they are. One byte.
struct ColumnCode {
  uint8_t predictor = 0;
  uint8_t low_bits = 0;

  uint8_t byte() const { return static_cast<uint8_t>(predictor << 6 | low_bits); }
  // False for a byte that no encoder writes.
  static bool FromByte(uint8_t byte, ColumnCode* code);
};

// Appends bits to a string, lowest first.
class BitWriter {
 public:
  explicit BitWriter(std::string* out) : out_(out) {}
  // count is at most 48; higher bits are zero.
  void Put(uint64_t bits, int count);
  void Finish();  // fills the last byte with zeros

 private:
  std::string* const out_;
  uint64_t buffer_ = 0;
  int count_ = 0;
};

// Reads past the end give zeros, which `Exhausted` tells of afterwards.
class BitReader {
 public:
  explicit BitReader(std::string_view bytes);
  // Reads values[1..] of a column whose first value is known, `stride` numbers apart.
  void Column(const ColumnCode& code, uint64_t* values, size_t count, size_t stride);
  // Whether exactly the bytes given were read, with zeros behind the last bit.
  bool Exhausted() const;

 private:
  void Refill();
  uint64_t Take(int count);
  uint64_t Code(int low_bits);

  const char* at_;
  const char* const end_;
  uint64_t buffer_ = 0;  // bits above count_ are those of the bytes at at_, or zero
  int count_ = 0;
  uint64_t bits_beyond_ = 0;
};

// The cheapest code for values[1..] by a good estimate, and their bits. `values` is a column
// without gaps.
ColumnCode ChooseCode(std::span<const uint64_t> values);
void WriteColumn(const ColumnCode& code, std::span<const uint64_t> values, BitWriter* bits);

}  // namespace espalier::history

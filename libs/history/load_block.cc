// Coding of packed load rows. Every length is checked against the bytes left before memory is taken
// for it.
#include "libs/history/load_block.h"

#include "absl/status/status.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

constexpr char kBlockFormat = 1;
constexpr char kStepFormat = 1;

absl::Status Damaged() {
  return absl::DataLossError(
      "a row of expert loads is damaged; restore the directory from a backup");
}

void PutVarint(std::string* out, uint64_t value) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// Differences wrap around modulo 2^64 on both sides, so any pair of counts survives.
uint64_t ZigZag(uint64_t difference) {
  return difference << 1 ^ (difference >> 63 != 0 ? ~uint64_t{0} : 0);
}
uint64_t UnZigZag(uint64_t coded) { return coded >> 1 ^ ((coded & 1) != 0 ? ~uint64_t{0} : 0); }

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  bool Byte(char* out) {
    if (bytes_.empty()) return false;
    *out = bytes_.front();
    bytes_.remove_prefix(1);
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

 private:
  std::string_view bytes_;
};

}  // namespace

std::string EncodeBlock(const std::vector<LoadBlock>& rows) {
  const size_t width = rows.empty() ? 0 : rows.front().tokens.size();
  std::string out;
  out.reserve(16 + rows.size() * (width * 3 / 2 + 2));
  out.push_back(kBlockFormat);
  PutVarint(&out, rows.size());
  PutVarint(&out, width);
  uint64_t step = 0;
  for (const LoadBlock& row : rows) {
    CHECK_EQ(row.tokens.size(), width);
    PutVarint(&out, row.first_step - step);
    step = row.first_step;
  }
  // An expert's counts stand together: their spread is alike, which the compressor exploits.
  for (size_t expert = 0; expert < width; ++expert) {
    uint64_t previous = 0;
    for (const LoadBlock& row : rows) {
      PutVarint(&out, ZigZag(row.tokens[expert] - previous));
      previous = row.tokens[expert];
    }
  }
  return out;
}

absl::StatusOr<std::vector<LoadBlock>> DecodeBlock(std::string_view bytes) {
  Reader reader(bytes);
  char format;
  uint64_t count, width;
  if (!reader.Byte(&format) || format != kBlockFormat) return Damaged();
  if (!reader.Varint(&count) || !reader.Varint(&width)) return Damaged();
  // Each step and each count takes a byte or more.
  if (count > reader.left()) return Damaged();
  if (count > 0 && width > (reader.left() - count) / count) return Damaged();
  std::vector<LoadBlock> rows(count);
  uint64_t step = 0;
  for (LoadBlock& row : rows) {
    uint64_t difference;
    if (!reader.Varint(&difference)) return Damaged();
    step += difference;
    row.first_step = step;
    row.tokens.resize(width);
  }
  for (size_t expert = 0; count > 0 && expert < width; ++expert) {
    uint64_t value = 0;
    for (LoadBlock& row : rows) {
      uint64_t coded;
      if (!reader.Varint(&coded)) return Damaged();
      value += UnZigZag(coded);
      row.tokens[expert] = value;
    }
  }
  if (reader.left() != 0) return Damaged();
  return rows;
}

std::string EncodeStep(const std::vector<LoadRow>& rows) {
  std::string out;
  out.push_back(kStepFormat);
  PutVarint(&out, rows.size());
  for (const LoadRow& row : rows) {
    PutVarint(&out, row.layer);
    PutVarint(&out, row.tokens.size());
    for (const uint64_t count : row.tokens) PutVarint(&out, count);
  }
  return out;
}

absl::StatusOr<std::vector<LoadRow>> DecodeStep(uint64_t step, std::string_view bytes) {
  Reader reader(bytes);
  char format;
  uint64_t count;
  if (!reader.Byte(&format) || format != kStepFormat) return Damaged();
  if (!reader.Varint(&count) || count > reader.left()) return Damaged();
  std::vector<LoadRow> rows;
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t layer, width;
    if (!reader.Varint(&layer) || layer > UINT32_MAX) return Damaged();
    if (!reader.Varint(&width) || width > reader.left()) return Damaged();
    LoadRow row{static_cast<uint32_t>(layer), step, std::vector<uint64_t>(width)};
    for (uint64_t& value : row.tokens) {
      if (!reader.Varint(&value)) return Damaged();
    }
    rows.push_back(std::move(row));
  }
  if (reader.left() != 0) return Damaged();
  return rows;
}

}  // namespace espalier::history

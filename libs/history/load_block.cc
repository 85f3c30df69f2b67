// Coding of packed load rows. Every length is checked against the bytes left before memory is taken
// for it.
#include "libs/history/load_block.h"

#include <algorithm>

#include "absl/status/status.h"
#include "libs/base/status_macros.h"
#include "libs/history/rice.h"
#include "libs/history/varint.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

constexpr char kVarintFormat = 1;  // of directories from before; read, not written
constexpr char kRiceFormat = 2;
constexpr char kStepFormat = 1;

absl::Status Damaged() {
  return absl::DataLossError(
      "a row of expert loads is damaged; restore the directory from a backup");
}

struct BlockHead {
  char format;
  uint64_t width;
  std::vector<uint64_t> first_steps;
};

absl::Status ReadHead(ByteReader* reader, BlockHead* head) {
  uint64_t count;
  if (!reader->Byte(&head->format)) return Damaged();
  if (head->format != kVarintFormat && head->format != kRiceFormat) return Damaged();
  if (!reader->Varint(&count) || !reader->Varint(&head->width)) return Damaged();
  // Each step takes a byte or more; so does an expert's first count, and each further one a bit.
  if (count > reader->left()) return Damaged();
  if (count > 0 && head->width > reader->left() - count) return Damaged();
  head->first_steps.resize(count);
  uint64_t step = 0;
  for (uint64_t& first_step : head->first_steps) {
    uint64_t difference;
    if (!reader->Varint(&difference)) return Damaged();
    first_step = step += difference;
  }
  const uint64_t bits_left = reader->left() * 8;
  if (count > 0 && head->width > bits_left / count) return Damaged();
  return absl::OkStatus();
}

// Both read an expert's counts `stride` numbers apart, from `tokens` + expert.
absl::Status ReadVarintColumns(ByteReader* reader, const BlockHead& head, uint64_t* tokens,
                               size_t stride) {
  for (size_t expert = 0; !head.first_steps.empty() && expert < head.width; ++expert) {
    uint64_t value = 0;
    for (size_t i = 0; i < head.first_steps.size(); ++i) {
      uint64_t coded;
      if (!reader->Varint(&coded)) return Damaged();
      value += UnZigZag(coded);
      tokens[i * stride + expert] = value;
    }
  }
  return reader->left() == 0 ? absl::OkStatus() : Damaged();
}

absl::Status ReadRiceColumns(ByteReader* reader, const BlockHead& head, uint64_t* tokens,
                             size_t stride) {
  const size_t count = head.first_steps.size();
  for (size_t expert = 0; count > 0 && expert < head.width; ++expert) {
    if (!reader->Varint(&tokens[expert])) return Damaged();
  }
  if (count < 2) return reader->left() == 0 ? absl::OkStatus() : Damaged();
  std::string_view codes;
  if (!reader->Bytes(head.width, &codes)) return Damaged();
  BitReader bits(reader->rest());
  for (size_t expert = 0; expert < head.width; ++expert) {
    ColumnCode code;
    if (!ColumnCode::FromByte(static_cast<uint8_t>(codes[expert]), &code)) return Damaged();
    bits.Column(code, tokens + expert, count, stride);
  }
  return bits.Exhausted() ? absl::OkStatus() : Damaged();
}

absl::Status ReadColumns(ByteReader* reader, const BlockHead& head, uint64_t* tokens,
                         size_t stride) {
  return head.format == kRiceFormat ? ReadRiceColumns(reader, head, tokens, stride)
                                    : ReadVarintColumns(reader, head, tokens, stride);
}

}  // namespace

std::string EncodeBlock(const LoadMatrix& rows) {
  const size_t count = rows.first_steps.size(), width = rows.width;
  CHECK_EQ(rows.tokens.size(), count * width);
  std::string out;
  out.reserve(16 + count * (width * 5 / 4 + 2) + 4 * width);
  out.push_back(kRiceFormat);
  PutVarint(&out, count);
  PutVarint(&out, width);
  uint64_t step = 0;
  for (const uint64_t first_step : rows.first_steps) {
    PutVarint(&out, first_step - step);
    step = first_step;
  }
  for (size_t expert = 0; count > 0 && expert < width; ++expert) {
    PutVarint(&out, rows.tokens[expert]);
  }
  if (count < 2) return out;
  // An expert's counts stand together: their spread is alike.
  const size_t codes_at = out.size();
  out.resize(codes_at + width);
  std::vector<uint64_t> column(count);
  BitWriter bits(&out);
  for (size_t expert = 0; expert < width; ++expert) {
    for (size_t i = 0; i < count; ++i) column[i] = rows.tokens[i * width + expert];
    const ColumnCode code = ChooseCode(column);
    out[codes_at + expert] = static_cast<char>(code.byte());
    WriteColumn(code, column, &bits);
  }
  bits.Finish();
  return out;
}

std::string EncodeBlock(const std::vector<LoadBlock>& rows) {
  LoadMatrix matrix{rows.empty() ? 0 : rows.front().tokens.size(), {}, {}};
  for (const LoadBlock& row : rows) {
    CHECK_EQ(row.tokens.size(), matrix.width);
    matrix.first_steps.push_back(row.first_step);
    matrix.tokens.insert(matrix.tokens.end(), row.tokens.begin(), row.tokens.end());
  }
  return EncodeBlock(matrix);
}

absl::StatusOr<std::vector<LoadBlock>> DecodeBlock(std::string_view bytes) {
  ByteReader reader(bytes);
  BlockHead head;
  RETURN_IF_ERROR(ReadHead(&reader, &head));
  std::vector<uint64_t> tokens(head.first_steps.size() * head.width);
  RETURN_IF_ERROR(ReadColumns(&reader, head, tokens.data(), head.width));
  std::vector<LoadBlock> rows;
  for (size_t i = 0; i < head.first_steps.size(); ++i) {
    const uint64_t* const row = tokens.data() + i * head.width;
    rows.push_back({head.first_steps[i], {row, row + head.width}});
  }
  return rows;
}

absl::Status DecodeBlock(std::string_view bytes, uint64_t first, uint64_t last, LoadMatrix* rows) {
  ByteReader reader(bytes);
  BlockHead head;
  RETURN_IF_ERROR(ReadHead(&reader, &head));
  if (head.width > rows->width) return Damaged();
  if (!std::is_sorted(head.first_steps.begin(), head.first_steps.end())) return Damaged();
  const size_t count = head.first_steps.size(), before = rows->tokens.size();
  // All rows at first; those that were not asked for, at either end, are cut off.
  rows->tokens.resize(before + count * rows->width);
  RETURN_IF_ERROR(ReadColumns(&reader, head, rows->tokens.data() + before, rows->width));
  const auto begin = rows->tokens.begin() + static_cast<ptrdiff_t>(before);
  size_t skipped = 0, kept = 0;
  for (const uint64_t step : head.first_steps) {
    if (step < first) ++skipped;
    if (step < first || step > last) continue;
    rows->first_steps.push_back(step);
    ++kept;
  }
  if (skipped > 0) rows->tokens.erase(begin, begin + static_cast<ptrdiff_t>(skipped * rows->width));
  rows->tokens.resize(before + kept * rows->width);
  return absl::OkStatus();
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
  ByteReader reader(bytes);
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

// The predictor is a mean in fixed point, updated by the same wrapping arithmetic on both sides, so
// every pair of counts survives whatever their size.
#include "libs/history/rice.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "libs/history/varint.h"

namespace espalier::history {
namespace {

static_assert(std::endian::native == std::endian::little, "bits are read eight bytes at a time");

constexpr int kFractionBits = 8;
constexpr uint64_t kOne = uint64_t{1} << kFractionBits;
// The mean of what was seen, until its gain would fall below: the last value, then slower and
// slower means. Loads that wander want the first, loads that only scatter the last.
constexpr uint64_t kGainMin[] = {kOne, kOne / 4, kOne / 16, kOne / 64};
constexpr int kPredictors = std::size(kGainMin);
// A quotient so large stands for 64 bits as they are.
constexpr int kEscape = 24;
constexpr int kLowBitsMax = 48;
// Gains for the values that a block has; longer columns go on with the last.
constexpr size_t kGains = 64;

constexpr auto kGainTable = [] {
  std::array<std::array<uint64_t, kGains>, kPredictors> table{};
  for (size_t p = 0; p < kPredictors; ++p) {
    for (size_t seen = 0; seen < kGains; ++seen) {
      table[p][seen] = std::max(kGainMin[p], kOne / (seen + 1));
    }
  }
  return table;
}();

class Predictor {
 public:
  Predictor(uint8_t kind, uint64_t first) : gains_(kGainTable[kind]), mean_(first * kOne) {}
  uint64_t next() const { return (mean_ + kOne / 2) >> kFractionBits; }
  // `difference` is the value less next(); `index` is the value's within its column.
  void See(uint64_t difference, size_t index) {
    mean_ += difference * gains_[std::min(index, kGains - 1)];
  }

 private:
  const std::array<uint64_t, kGains>& gains_;
  uint64_t mean_;
};

// Calls visit(zigzag difference) for values[1..].
template <typename Visit>
void ForEachDifference(uint8_t predictor, std::span<const uint64_t> values, Visit visit) {
  Predictor mean(predictor, values[0]);
  for (size_t i = 1; i < values.size(); ++i) {
    const uint64_t difference = values[i] - mean.next();
    mean.See(difference, i);
    visit(ZigZag(difference));
  }
}

uint64_t CostBits(uint64_t coded, int low_bits) {
  const uint64_t quotient = coded >> low_bits;
  return quotient >= kEscape ? kEscape + 64 : quotient + 1 + static_cast<uint64_t>(low_bits);
}

}  // namespace

bool ColumnCode::FromByte(uint8_t byte, ColumnCode* code) {
  code->predictor = byte >> 6;
  code->low_bits = byte & 63;
  return code->low_bits <= kLowBitsMax;
}

void BitWriter::Put(uint64_t bits, int count) {
  buffer_ |= bits << count_;
  count_ += count;
  while (count_ >= 8) {
    out_->push_back(static_cast<char>(buffer_));
    buffer_ >>= 8;
    count_ -= 8;
  }
}

void BitWriter::Finish() {
  if (count_ > 0) out_->push_back(static_cast<char>(buffer_));
  buffer_ = 0;
  count_ = 0;
}

ColumnCode ChooseCode(std::span<const uint64_t> values) {
  ColumnCode best;
  if (values.size() < 2) return best;
  uint64_t least = UINT64_MAX;
  for (uint8_t predictor = 0; predictor < kPredictors; ++predictor) {
    uint64_t sum = 0;
    ForEachDifference(predictor, values,
                      [&](uint64_t coded) { sum += std::min(coded, UINT64_MAX >> 16); });
    if (sum >= least) continue;
    least = sum;
    best.predictor = predictor;
  }
  const int guess = std::bit_width(least / (values.size() - 1));
  uint64_t fewest = UINT64_MAX;
  for (int low_bits = std::max(0, guess - 2); low_bits <= std::min(guess, kLowBitsMax);
       ++low_bits) {
    uint64_t bits = 0;
    ForEachDifference(best.predictor, values,
                      [&](uint64_t coded) { bits += CostBits(coded, low_bits); });
    if (bits >= fewest) continue;
    fewest = bits;
    best.low_bits = static_cast<uint8_t>(low_bits);
  }
  return best;
}

void WriteColumn(const ColumnCode& code, std::span<const uint64_t> values, BitWriter* bits) {
  ForEachDifference(code.predictor, values, [&](uint64_t coded) {
    const uint64_t quotient = coded >> code.low_bits;
    if (quotient >= kEscape) {
      bits->Put(0, kEscape);
      bits->Put(coded & UINT32_MAX, 32);
      bits->Put(coded >> 32, 32);
      return;
    }
    bits->Put(uint64_t{1} << quotient, static_cast<int>(quotient) + 1);
    bits->Put(coded & ((uint64_t{1} << code.low_bits) - 1), code.low_bits);
  });
}

BitReader::BitReader(std::string_view bytes)
    : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

// At least 56 bits stand in the buffer afterwards.
inline void BitReader::Refill() {
  if (end_ - at_ >= 8) {
    uint64_t next;
    memcpy(&next, at_, sizeof next);
    buffer_ |= next << count_;
    at_ += (63 - count_) >> 3;
    count_ |= 56;
    return;
  }
  while (count_ <= 56) {
    if (at_ < end_) {
      buffer_ |= static_cast<uint64_t>(static_cast<unsigned char>(*at_++)) << count_;
    } else {
      bits_beyond_ += 8;
    }
    count_ += 8;
  }
}

inline uint64_t BitReader::Take(int count) {
  const uint64_t bits = buffer_ & ((uint64_t{1} << count) - 1);
  buffer_ >>= count;
  count_ -= count;
  return bits;
}

inline uint64_t BitReader::Code(int low_bits) {
  Refill();
  const int quotient = std::countr_zero(buffer_ | uint64_t{1} << kEscape);
  if (quotient == kEscape) {
    Take(kEscape);
    const uint64_t low = Take(32);
    Refill();
    return low | Take(32) << 32;
  }
  Take(quotient + 1);
  if (low_bits > 56 - kEscape) Refill();
  return static_cast<uint64_t>(quotient) << low_bits | Take(low_bits);
}

void BitReader::Column(const ColumnCode& code, uint64_t* values, size_t count, size_t stride) {
  Predictor mean(code.predictor, values[0]);
  for (size_t i = 1; i < count; ++i) {
    values += stride;
    const uint64_t difference = UnZigZag(Code(code.low_bits));
    *values = mean.next() + difference;
    mean.See(difference, i);
  }
}

bool BitReader::Exhausted() const {
  if (at_ != end_) return false;
  // Of the buffer's bits those that really were there: less than a byte, all zero.
  const auto held = static_cast<int64_t>(count_) - static_cast<int64_t>(bits_beyond_);
  return held >= 0 && held < 8 && (buffer_ & ((uint64_t{1} << held) - 1)) == 0;
}

}  // namespace espalier::history

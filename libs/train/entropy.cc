// A radix selection: floats of one sign are ordered as their bits are, so three sums of histograms
// over the ranks (11, 11 and 10 bits, from the top) find the n-th largest exactly, in 48 KiB of
// traffic whatever the number of tokens.
#include "libs/train/entropy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/train/exchange.h"

namespace espalier::train {
namespace {

struct Digit {
  int shift = 0, bits = 0;
};
constexpr std::array<Digit, 3> kDigits = {{{21, 11}, {10, 11}, {0, 10}}};

// Rises with the entropy; rounding may leave an entropy just below zero.
uint32_t KeyOf(float entropy) { return entropy > 0 ? std::bit_cast<uint32_t>(entropy) : 0u; }

// Bits of a key above those of `digit`.
uint32_t Above(uint32_t key, const Digit& digit) {
  return static_cast<uint32_t>(uint64_t{key} >> (digit.shift + digit.bits));
}

// The `wanted`-th largest key of all ranks; *wanted becomes how many of the keys equal to it are
// among the largest.
absl::StatusOr<uint32_t> SelectKey(std::span<const uint32_t> keys,
                                   collective::Communicator& communicator, int64_t* wanted) {
  uint32_t prefix = 0;
  for (const Digit& digit : kDigits) {
    std::vector<int64_t> histogram(size_t{1} << digit.bits, 0);
    for (const uint32_t key : keys) {
      if (Above(key, digit) != prefix) continue;
      ++histogram[(key >> digit.shift) & (histogram.size() - 1)];
    }
    Exchange exchange(communicator);
    const int handle = exchange.AddSums(histogram);
    RETURN_IF_ERROR(exchange.Run());
    const auto counts = exchange.Sums(handle, static_cast<int64_t>(histogram.size()));
    int64_t value = static_cast<int64_t>(histogram.size()) - 1;
    while (value > 0 && counts[value] < *wanted) *wanted -= counts[value--];
    prefix = prefix << digit.bits | static_cast<uint32_t>(value);
  }
  return prefix;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> MarkHighestEntropies(std::span<const float> entropies,
                                                          double share,
                                                          collective::Communicator& communicator) {
  CHECK_GT(share, 0);
  CHECK_LE(share, 1);
  std::vector<uint32_t> keys;
  keys.reserve(entropies.size());
  for (const float entropy : entropies) keys.push_back(KeyOf(entropy));
  Exchange total(communicator);
  const int count = total.AddSum(static_cast<int64_t>(keys.size()));
  RETURN_IF_ERROR(total.Run());
  std::vector<uint8_t> marks(keys.size(), 0);
  if (total.Sum(count) == 0) return marks;
  const double most = static_cast<double>(total.Sum(count));
  int64_t wanted = static_cast<int64_t>(std::min(most, std::ceil(share * most)));
  ASSIGN_OR_RETURN(const uint32_t threshold, SelectKey(keys, communicator, &wanted));

  // Of the tokens at the threshold, as many as are still wanted, the lower ranks' first.
  const int ranks = communicator.size();
  std::vector<int64_t> ties(ranks, 0);
  ties[communicator.rank()] = std::count(keys.begin(), keys.end(), threshold);
  Exchange gather(communicator);
  const int handle = gather.AddSums(ties);
  RETURN_IF_ERROR(gather.Run());
  const auto ties_of = gather.Sums(handle, ranks);
  for (int rank = 0; rank < communicator.rank(); ++rank) wanted -= ties_of[rank];
  for (size_t i = 0; i < keys.size(); ++i) {
    marks[i] = keys[i] > threshold || (keys[i] == threshold && wanted-- > 0);
  }
  return marks;
}

}  // namespace espalier::train

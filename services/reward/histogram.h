// Histogram: durations in logarithmic buckets of 1/32 precision, counted without locks.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"

namespace espalier::reward {

// Any thread may record and read at any time. Threads count into shards of their own, so that they
// do not fight over cache lines; what is read while others record is a moment or two old.
class Histogram {
 public:
  // A bucket is at most 1/32 of its value wide.
  static constexpr int kPrecisionBits = 5;
  static constexpr int kOctaves = 36;  // the last one holds everything above 34 s
  static constexpr size_t kBuckets = size_t{kOctaves} << kPrecisionBits;
  static constexpr size_t kShards = 8;

  // The largest value of a bucket stands for all of it: quantiles are never flattered.
  struct Snapshot {
    std::vector<uint64_t> counts;  // by bucket
    uint64_t count = 0;
    absl::Duration sum, max;
    // `share` in 0 to 1; zero of an empty histogram.
    absl::Duration Quantile(double share) const;
  };

  // Values of a bucket are at most this; the last bucket holds all that is larger, too.
  static absl::Duration LargestOf(size_t bucket);

  Histogram();
  void Record(absl::Duration value);
  Snapshot Read() const;

 private:
  struct alignas(64) Shard {
    std::array<std::atomic<uint64_t>, kBuckets> counts{};
    std::atomic<uint64_t> sum_ns{0}, max_ns{0};
  };
  std::unique_ptr<std::array<Shard, kShards>> shards_;
};

// A number that many threads add to. Thread-safe.
class Counter {
 public:
  void Add(uint64_t amount = 1);
  uint64_t Read() const;

 private:
  struct alignas(64) Cell {
    std::atomic<uint64_t> value{0};
  };
  std::array<Cell, Histogram::kShards> cells_;
};

}  // namespace espalier::reward

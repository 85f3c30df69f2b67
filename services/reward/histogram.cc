// Values below 32 ns have a bucket each; above, each power of two is cut into 32 equal buckets.
#include "services/reward/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace espalier::reward {
namespace {

constexpr uint64_t kSteps = uint64_t{1} << Histogram::kPrecisionBits;

// Relaxed throughout: counts are read as statistics, nothing is ordered by them.
constexpr auto kRelaxed = std::memory_order_relaxed;

size_t BucketOf(uint64_t value) {
  if (value < kSteps) return value;
  const int shift = std::bit_width(value) - Histogram::kPrecisionBits - 1;
  const size_t bucket =
      (static_cast<size_t>(shift) << Histogram::kPrecisionBits) + (value >> shift);
  return std::min(bucket, Histogram::kBuckets - 1);
}

uint64_t LargestNsOf(size_t bucket) {
  if (bucket < kSteps) return bucket;
  const int shift = static_cast<int>(bucket >> Histogram::kPrecisionBits) - 1;
  const uint64_t step = bucket - (static_cast<uint64_t>(shift) << Histogram::kPrecisionBits);
  return ((step + 1) << shift) - 1;
}

size_t ShardOfThisThread() {
  static std::atomic<size_t> next{0};
  thread_local const size_t shard = next.fetch_add(1, kRelaxed) % Histogram::kShards;
  return shard;
}

}  // namespace

absl::Duration Histogram::LargestOf(size_t bucket) {
  return absl::Nanoseconds(LargestNsOf(bucket));
}

Histogram::Histogram() : shards_(std::make_unique<std::array<Shard, kShards>>()) {}

void Histogram::Record(absl::Duration value) {
  const uint64_t ns = static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(value)));
  Shard& shard = (*shards_)[ShardOfThisThread()];
  shard.counts[BucketOf(ns)].fetch_add(1, kRelaxed);
  shard.sum_ns.fetch_add(ns, kRelaxed);
  uint64_t largest = shard.max_ns.load(kRelaxed);
  while (ns > largest && !shard.max_ns.compare_exchange_weak(largest, ns, kRelaxed)) {
  }
}

Histogram::Snapshot Histogram::Read() const {
  Snapshot snapshot;
  snapshot.counts.assign(kBuckets, 0);
  uint64_t sum = 0, max = 0;
  for (const Shard& shard : *shards_) {
    for (size_t i = 0; i < kBuckets; ++i) snapshot.counts[i] += shard.counts[i].load(kRelaxed);
    sum += shard.sum_ns.load(kRelaxed);
    max = std::max(max, shard.max_ns.load(kRelaxed));
  }
  for (const uint64_t count : snapshot.counts) snapshot.count += count;
  snapshot.sum = absl::Nanoseconds(sum);
  snapshot.max = absl::Nanoseconds(max);
  return snapshot;
}

absl::Duration Histogram::Snapshot::Quantile(double share) const {
  if (count == 0) return absl::ZeroDuration();
  const double wanted = std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(count));
  const uint64_t rank = std::max<uint64_t>(1, static_cast<uint64_t>(wanted));
  uint64_t seen = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    seen += counts[i];
    if (seen >= rank) return std::min(max, LargestOf(i));
  }
  return max;
}

void Counter::Add(uint64_t amount) {
  cells_[ShardOfThisThread()].value.fetch_add(amount, kRelaxed);
}

uint64_t Counter::Read() const {
  uint64_t sum = 0;
  for (const Cell& cell : cells_) sum += cell.value.load(kRelaxed);
  return sum;
}

}  // namespace espalier::reward

// Figures of a simulation: counters, and a histogram of latencies that is bounded in memory.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace espalier::fleetsim {

// Not thread-safe. Buckets 2% apart from 10 microseconds to about an hour.
class Latencies {
 public:
  void Add(double seconds) {
    const double place = std::log(std::max(seconds, kFirst) / kFirst) / std::log(kStep);
    ++counts_[std::min<size_t>(static_cast<size_t>(place), kBuckets - 1)];
    ++count_;
    max_ = std::max(max_, seconds);
  }
  // Upper edge of the bucket that holds the share; 0 without any.
  double Quantile(double share) const {
    uint64_t seen = 0;
    const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_)));
    for (size_t i = 0; i < kBuckets && count_ > 0; ++i) {
      seen += counts_[i];
      // The last bucket has no upper edge.
      if (seen >= wanted && i + 1 < kBuckets)
        return std::min(max_, kFirst * std::pow(kStep, static_cast<double>(i + 1)));
    }
    return max_;
  }
  double max() const { return max_; }
  uint64_t count() const { return count_; }

 private:
  static constexpr double kFirst = 1e-5, kStep = 1.02;
  static constexpr size_t kBuckets = 1000;
  std::array<uint64_t, kBuckets> counts_{};
  uint64_t count_ = 0;
  double max_ = 0;
};

struct FleetStats {
  uint64_t reports_said = 0;  // steps taken, times ranks
  uint64_t reports_sent = 0;  // written to a stream; a report sent again counts again
  uint64_t reports_acked = 0;
  uint64_t reports_retaken = 0;  // unacknowledged when their epoch ended: their steps are retaken
  uint64_t report_bytes = 0;
  uint64_t words_heard = 0;
  uint64_t disconnects = 0;
  uint64_t restarts = 0;
  uint64_t reattached = 0;  // streams that went on with their epoch
  uint64_t fresh_attaches = 0;
  uint64_t assignments = 0;
  uint64_t releases = 0;
  uint64_t commands_applied = 0;
  uint64_t commands_refused = 0;
  uint64_t kept_max = 0;  // reports that one worker kept at once
  uint64_t assignment_bytes_max = 0;
  uint64_t command_bytes_max = 0;
  Latencies ack;              // from the step's end to its acknowledgement, all reports
  Latencies ack_undisturbed;  // of groups whose ranks were all attached meanwhile
};

}  // namespace espalier::fleetsim

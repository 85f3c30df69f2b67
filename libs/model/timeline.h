// Timeline: when each phase of a pass began and ended, layer by layer, for traces. Recording costs
// two readings of a clock and 40 bytes a phase; what is done with it comes later.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::model {

// kExchange is time within dispatch or combine in which ranks exchange rows: it ends when the last
// of them has come.
enum class Phase : uint8_t { kAttention, kRouter, kDispatch, kExperts, kCombine, kHead, kExchange };

// A phase as it was. A device fills in times of its own events, moved onto the host's steady clock.
struct PhaseMark {
  int64_t start_nanos = 0, end_nanos = 0;  // of the steady clock
  int64_t tokens = -1;                     // rows that the phase worked on; -1: not counted
  int32_t layer = -1;                      // -1: of no layer
  Phase phase = Phase::kHead;
  bool backward = false;
};

// Not thread-safe. Bounded: a pass with more phases than kMarksMax has the first of them.
class Timeline {
 public:
  static constexpr size_t kMarksMax = 16384;

  static int64_t Now() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }
  void Add(const PhaseMark& mark) {
    if (marks_.size() < kMarksMax) {
      marks_.push_back(mark);
    } else {
      ++left_out_;
    }
  }
  // The step will be told for certain: a device that would else measure few passes in detail measures this one.
  void Want(bool wanted) { wanted_ = wanted; }
  bool wanted() const { return wanted_; }
  void Clear() {
    wanted_ = false;
    marks_.clear();
    left_out_ = 0;
  }
  // By their ends: what lies within another mark comes before it.
  const std::vector<PhaseMark>& marks() const { return marks_; }
  size_t left_out() const { return left_out_; }

 private:
  std::vector<PhaseMark> marks_;
  size_t left_out_ = 0;
  bool wanted_ = false;
};

}  // namespace espalier::model

// EventTimeline: seconds of the device a phase, from events in the stream: nothing waits for them until the figures are asked for.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"

namespace espalier::model {

// A window is what lies between two calls of Collect: a step of training, of decoding. Some hundred events cost a short step half a percent, so
// every kEvery-th window is measured phase by phase, and the others as a whole, shared out like the last one that was measured. Not thread-safe.
class EventTimeline {
 public:
  explicit EventTimeline(cudaStream_t stream) : stream_(stream) {}

  // From here until the next mark, the stream's time belongs to *total (null: to nobody). A window ends with a mark of null.
  absl::Status Mark(double* total) {
    if (!detailed() && used_ > 0 && total != nullptr) return absl::OkStatus();
    if (used_ == events_.size()) {
      ASSIGN_OR_RETURN(kernels::cuda::Event event, kernels::cuda::MakeEvent());
      events_.push_back(std::move(event));
      totals_.push_back(nullptr);
    }
    totals_[used_] = total;
    RETURN_IF_CUDA_ERROR(cudaEventRecord(events_[used_++].get(), stream_));
    return absl::OkStatus();
  }

  // Adds up what was marked since the last call; the stream must have passed the last mark.
  absl::Status Collect() {
    if (used_ > 1) RETURN_IF_ERROR(detailed() ? CollectPhases() : ShareOut());
    if (used_ > 0) ++windows_;
    used_ = 0;
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kEvery = 8;
  // The first ones too: before that they hold what is done once only.
  bool detailed() const { return windows_ < 4 || windows_ % kEvery == 0; }

  absl::StatusOr<double> Seconds(size_t from, size_t to) const {
    float milliseconds = 0;
    RETURN_IF_CUDA_ERROR(
        cudaEventElapsedTime(&milliseconds, events_[from].get(), events_[to].get()));
    return milliseconds * 1e-3;
  }

  absl::Status CollectPhases() {
    shares_.clear();
    double whole = 0;
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (totals_[i] == nullptr) continue;
      ASSIGN_OR_RETURN(const double seconds, Seconds(i, i + 1));
      *totals_[i] += seconds;
      whole += seconds;
      size_t place = 0;
      while (place < shares_.size() && shares_[place].first != totals_[i]) ++place;
      if (place == shares_.size()) shares_.emplace_back(totals_[i], 0.0);
      shares_[place].second += seconds;
    }
    for (auto& [total, share] : shares_) share /= whole > 0 ? whole : 1;
    return absl::OkStatus();
  }

  absl::Status ShareOut() {
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (totals_[i] == nullptr) continue;
      ASSIGN_OR_RETURN(const double seconds, Seconds(i, i + 1));
      for (const auto& [total, share] : shares_) *total += seconds * share;
    }
    return absl::OkStatus();
  }

  const cudaStream_t stream_;
  std::vector<kernels::cuda::Event> events_;
  std::vector<double*> totals_;
  size_t used_ = 0;
  int64_t windows_ = 0;
  std::vector<std::pair<double*, double>> shares_;  // of the last window measured phase by phase
};

}  // namespace espalier::model

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

  // The next window is measured phase by phase, whichever it is.
  void WantDetail() { wanted_ = true; }
  // What marks from here on belong to; layer -1: to none.
  void SetPlace(int layer, bool backward) {
    layer_ = layer;
    backward_ = backward;
  }

  // From here until the next mark, the stream's time belongs to *total (null: to nobody). A window ends with a mark of null. `rows`: what the
  // phase works on; -1: not counted.
  absl::Status Mark(double* total, int64_t rows = -1) {
    if (used_ == 0) detailed_ = wanted_ || windows_ < 4 || windows_ % kEvery == 0;
    if (!detailed_ && used_ > 0 && total != nullptr) return absl::OkStatus();
    if (used_ == marks_.size()) {
      ASSIGN_OR_RETURN(kernels::cuda::Event event, kernels::cuda::MakeEvent());
      marks_.push_back({.event = std::move(event)});
    }
    Marked& mark = marks_[used_++];
    mark.total = total;
    mark.rows = rows;
    mark.layer = layer_;
    mark.backward = backward_;
    RETURN_IF_CUDA_ERROR(cudaEventRecord(mark.event.get(), stream_));
    return absl::OkStatus();
  }

  // Tells each phase of the window as it was: f(total, layer, backward, rows, begin, end), the times in seconds before the last mark. Before
  // Collect, of a detailed window, once the stream has passed the last mark.
  template <typename F>
  absl::Status Visit(F&& f) const {
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (marks_[i].total == nullptr) continue;
      ASSIGN_OR_RETURN(const double begin, Seconds(i, used_ - 1));
      ASSIGN_OR_RETURN(const double end, Seconds(i + 1, used_ - 1));
      f(marks_[i].total, marks_[i].layer, marks_[i].backward, marks_[i].rows, begin, end);
    }
    return absl::OkStatus();
  }

  // Adds up what was marked since the last call; the stream must have passed the last mark.
  absl::Status Collect() {
    if (used_ > 1) RETURN_IF_ERROR(detailed_ ? CollectPhases() : ShareOut());
    if (used_ > 0) ++windows_;
    used_ = 0;
    wanted_ = false;
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kEvery = 8;

  struct Marked {
    kernels::cuda::Event event;
    double* total = nullptr;
    int64_t rows = -1;
    int layer = -1;
    bool backward = false;
  };

  absl::StatusOr<double> Seconds(size_t from, size_t to) const {
    float milliseconds = 0;
    RETURN_IF_CUDA_ERROR(
        cudaEventElapsedTime(&milliseconds, marks_[from].event.get(), marks_[to].event.get()));
    return milliseconds * 1e-3;
  }

  absl::Status CollectPhases() {
    shares_.clear();
    double whole = 0;
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (marks_[i].total == nullptr) continue;
      ASSIGN_OR_RETURN(const double seconds, Seconds(i, i + 1));
      *marks_[i].total += seconds;
      whole += seconds;
      size_t place = 0;
      while (place < shares_.size() && shares_[place].first != marks_[i].total) ++place;
      if (place == shares_.size()) shares_.emplace_back(marks_[i].total, 0.0);
      shares_[place].second += seconds;
    }
    for (auto& [total, share] : shares_) share /= whole > 0 ? whole : 1;
    return absl::OkStatus();
  }

  absl::Status ShareOut() {
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (marks_[i].total == nullptr) continue;
      ASSIGN_OR_RETURN(const double seconds, Seconds(i, i + 1));
      for (const auto& [total, share] : shares_) *total += seconds * share;
    }
    return absl::OkStatus();
  }

  const cudaStream_t stream_;
  std::vector<Marked> marks_;
  size_t used_ = 0;
  int layer_ = -1;
  bool backward_ = false, wanted_ = false;
  bool detailed_ = true;  // this window; the first ones too: before that they hold what is done once only
  int64_t windows_ = 0;
  std::vector<std::pair<double*, double>> shares_;  // of the last window measured phase by phase
};

}  // namespace espalier::model

// EventTimeline: seconds of the device a phase, from events in the stream: nothing waits for them until the figures are asked for.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"

namespace espalier::model {

// Not thread-safe.
class EventTimeline {
 public:
  explicit EventTimeline(cudaStream_t stream) : stream_(stream) {}

  // From here until the next mark, the stream's time belongs to *total (null: to nobody).
  absl::Status Mark(double* total) {
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
    for (size_t i = 0; i + 1 < used_; ++i) {
      if (totals_[i] == nullptr) continue;
      float milliseconds = 0;
      RETURN_IF_CUDA_ERROR(
          cudaEventElapsedTime(&milliseconds, events_[i].get(), events_[i + 1].get()));
      *totals_[i] += milliseconds * 1e-3;
    }
    used_ = 0;
    return absl::OkStatus();
  }

 private:
  const cudaStream_t stream_;
  std::vector<kernels::cuda::Event> events_;
  std::vector<double*> totals_;
  size_t used_ = 0;
};

}  // namespace espalier::model

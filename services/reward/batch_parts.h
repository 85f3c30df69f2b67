// BatchParts: one ScoreBatch cut into parts that several threads may score, joined into the reply
// that ScoreBatch of the whole gives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "espalier/v1/reward_service.pb.h"

namespace espalier::reward {

// Text of all traces of a batch; beyond it the batch is refused.
inline constexpr size_t kBatchBytesMax = 32 << 20;
// Text of a part, about a third of a millisecond: short enough for others to come in between.
inline constexpr size_t kPartBytes = 8 << 10;

// Different parts may be scored at the same time, each once; Join follows the last of them.
class BatchParts {
 public:
  // `request` must outlive this. A request that would be refused has one part, which refuses it.
  explicit BatchParts(const v1::ScoreBatchRequest& request);

  size_t count() const { return parts_.size(); }
  size_t cost(size_t part) const { return parts_[part].bytes; }
  // Traces [begin, end) of the request.
  int begin(size_t part) const { return parts_[part].begin; }
  int end(size_t part) const { return parts_[part].end; }
  const v1::ScoreBatchRequest& request() const { return request_; }

  const absl::StatusOr<v1::ScoreBatchResponse>& Score(size_t part);
  // Instead of Score.
  void Skip(size_t part, absl::Status cause) { parts_[part].response = std::move(cause); }
  // The first failure of any part, or the reply.
  absl::StatusOr<v1::ScoreBatchResponse> Join();

 private:
  struct Part {
    Part(int first, int last) : begin(first), end(last) {}
    int begin, end;
    size_t bytes = 0;
    absl::StatusOr<v1::ScoreBatchResponse> response;
  };
  void Cut();
  bool ShapesByGroup() const;
  void MeasureGroup();

  const v1::ScoreBatchRequest& request_;
  size_t bytes_ = 0;
  std::vector<Part> parts_;
  std::once_flag measured_;
  int64_t shortest_ = 0, longest_ = 0;  // lengths of the group's traces, once measured
};

}  // namespace espalier::reward

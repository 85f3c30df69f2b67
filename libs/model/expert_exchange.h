// ExpertExchange<T>: carries token rows of one MoE layer to the ranks that hold their experts, and
// back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/buffer.h"
#include "libs/collective/communicator.h"
#include "libs/model/config.h"

namespace espalier::model {

// Two orders of rows are in play. "Slots" are this rank's (token, choice) pairs, grouped by expert
// in order of (rank that holds it, id). "Groups" are the rows of the experts that this rank holds,
// by expert, and within one by (source rank, token): so the order does not depend on where an
// expert lives. With one rank both are the same and nothing is copied. Not thread-safe; all calls
// but the constructor are collective.
template <typename T>
class ExpertExchange {
 public:
  ExpertExchange() = default;
  // `layout` is that of the layer.
  ExpertExchange(const LayerLayout& layout, collective::Communicator* communicator);

  // The place of each expert alive (aligned with LayerLayout::ids) among all in slot order.
  std::span<const int32_t> group_of() const { return group_of_; }
  bool single() const { return communicator_->size() == 1; }

  // Agrees on the row counts of a pass from the offsets of this rank's slots [experts alive + 1].
  absl::Status Plan(std::span<const int64_t> slot_offsets);

  // Offsets of the groups that this rank holds.
  std::span<const int64_t> group_offsets() const { return group_offsets_; }
  int64_t group_rows() const { return group_offsets_.back(); }
  int64_t slot_rows() const { return slot_rows_; }

  // Rows of `width` from slot order here into group order at their experts, and back.
  absl::Status ToExperts(const T* slots, T* groups, int64_t width, kernels::Buffer<T>& scratch);
  absl::Status FromExperts(const T* groups, T* slots, int64_t width, kernels::Buffer<T>& scratch);

 private:
  // A run of rows of one expert from one source rank: where it arrives, and where it belongs among
  // the groups.
  struct Segment {
    int64_t wire_row, group_row, rows;
  };

  collective::Communicator* communicator_ = nullptr;
  std::vector<int32_t> group_of_;
  std::vector<int64_t> first_group_;  // [ranks + 1] experts of rank r in slot order:
                                      // [first_group_[r], first_group_[r+1])
  int64_t held_max_ = 0;              // experts of the rank that holds most
  int64_t slot_rows_ = 0;
  std::vector<int64_t> group_offsets_;
  std::vector<int64_t> slot_counts_, group_counts_;  // rows to and from each rank
  std::vector<Segment> segments_;
};

}  // namespace espalier::model

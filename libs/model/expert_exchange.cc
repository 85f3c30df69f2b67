// The all-to-all of a MoE layer: counts first, then rows.
#include "libs/model/expert_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "libs/base/status_macros.h"

namespace espalier::model {

template <typename T>
ExpertExchange<T>::ExpertExchange(const LayerLayout& layout, collective::Communicator* communicator)
    : communicator_(communicator),
      group_of_(layout.ids.size()),
      first_group_(communicator->size() + 1) {
  int32_t next = 0;
  for (int rank = 0; rank < communicator->size(); ++rank) {
    for (size_t i = 0; i < layout.ids.size(); ++i) {
      if (layout.ranks[i] == rank) group_of_[i] = next++;
    }
    first_group_[rank + 1] = next;
    held_max_ = std::max(held_max_, first_group_[rank + 1] - first_group_[rank]);
  }
}

template <typename T>
absl::Status ExpertExchange<T>::Plan(std::span<const int64_t> slot_offsets) {
  slot_rows_ = slot_offsets.back();
  if (single()) {
    group_offsets_.assign(slot_offsets.begin(), slot_offsets.end());
    return absl::OkStatus();
  }
  const int ranks = communicator_->size();
  std::vector<int64_t> counts(ranks * held_max_), arriving(ranks * held_max_);
  slot_counts_.assign(ranks, 0);
  group_counts_.assign(ranks, 0);
  for (int rank = 0; rank < ranks; ++rank) {
    for (int64_t group = first_group_[rank]; group < first_group_[rank + 1]; ++group) {
      counts[rank * held_max_ + group - first_group_[rank]] =
          slot_offsets[group + 1] - slot_offsets[group];
    }
    slot_counts_[rank] = slot_offsets[first_group_[rank + 1]] - slot_offsets[first_group_[rank]];
  }
  RETURN_IF_ERROR(communicator_->AllToAll(counts, std::span<int64_t>(arriving)));

  const int64_t held =
      first_group_[communicator_->rank() + 1] - first_group_[communicator_->rank()];
  group_offsets_.assign(held + 1, 0);
  std::vector<int64_t> wire_row(ranks + 1, 0);  // of the next segment of each source
  for (int rank = 0; rank < ranks; ++rank) {
    group_counts_[rank] = std::accumulate(arriving.begin() + rank * held_max_,
                                          arriving.begin() + (rank + 1) * held_max_, int64_t{0});
    wire_row[rank + 1] = wire_row[rank] + group_counts_[rank];
  }
  segments_.clear();
  int64_t group_row = 0;
  for (int64_t expert = 0; expert < held; ++expert) {
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t rows = arriving[rank * held_max_ + expert];
      if (rows > 0) segments_.push_back({wire_row[rank], group_row, rows});
      wire_row[rank] += rows;
      group_row += rows;
    }
    group_offsets_[expert + 1] = group_row;
  }
  return absl::OkStatus();
}

namespace {

std::vector<int64_t> Bytes(std::span<const int64_t> rows, int64_t row_bytes) {
  std::vector<int64_t> bytes(rows.begin(), rows.end());
  for (int64_t& value : bytes) value *= row_bytes;
  return bytes;
}

}  // namespace

template <typename T>
absl::Status ExpertExchange<T>::ToExperts(const T* slots, T* groups, int64_t width,
                                          kernels::Buffer<T>& scratch) {
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T));
  T* wire = scratch.Get(group_rows() * width);
  RETURN_IF_ERROR(communicator_->AllToAllV(
      std::as_bytes(std::span<const T>(slots, slot_rows_ * width)), Bytes(slot_counts_, row_bytes),
      std::as_writable_bytes(std::span<T>(wire, group_rows() * width)),
      Bytes(group_counts_, row_bytes)));
  for (const Segment& segment : segments_) {
    std::memcpy(groups + segment.group_row * width, wire + segment.wire_row * width,
                segment.rows * row_bytes);
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status ExpertExchange<T>::FromExperts(const T* groups, T* slots, int64_t width,
                                            kernels::Buffer<T>& scratch) {
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T));
  T* wire = scratch.Get(group_rows() * width);
  for (const Segment& segment : segments_) {
    std::memcpy(wire + segment.wire_row * width, groups + segment.group_row * width,
                segment.rows * row_bytes);
  }
  return communicator_->AllToAllV(std::as_bytes(std::span<const T>(wire, group_rows() * width)),
                                  Bytes(group_counts_, row_bytes),
                                  std::as_writable_bytes(std::span<T>(slots, slot_rows_ * width)),
                                  Bytes(slot_counts_, row_bytes));
}

template class ExpertExchange<float>;
template class ExpertExchange<double>;
template class ExpertExchange<std::byte>;

}  // namespace espalier::model

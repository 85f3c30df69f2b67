// Counts of all layers stand in one flat array, so that they travel in one piece.
#include "libs/train/loads.h"

#include <algorithm>

#include "libs/observe/log.h"

namespace espalier::train {

void LoadCounter::Reset(const model::ExpertLayout& layout) {
  layout_ = layout;
  offsets_.clear();
  int64_t offset = 0;
  for (const model::LayerLayout& layer : layout_.layers) {
    offsets_.push_back(offset);
    offset += static_cast<int64_t>(layer.ids.size());
  }
  local_.assign(offset, 0);
  global_.assign(offset, 0);
}

void LoadCounter::Add(const std::vector<model::LayerRouteCounts>& counts) {
  CHECK_EQ(counts.size(), layout_.layers.size());
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    // A rank without a token in this pass may leave its counts empty.
    if (counts[layer].empty()) continue;
    CHECK_EQ(counts[layer].size(), layout_.layers[layer].ids.size());
    for (size_t i = 0; i < counts[layer].size(); ++i)
      local_[offsets_[layer] + i] += counts[layer][i];
  }
}

void LoadCounter::Pack(Exchange* exchange) {
  handle_ = exchange->AddSums(local_);
  std::fill(local_.begin(), local_.end(), 0);
}

void LoadCounter::Unpack(const Exchange& exchange) {
  const auto sums = exchange.Sums(handle_, static_cast<int64_t>(global_.size()));
  for (size_t i = 0; i < sums.size(); ++i) global_[i] += sums[i];
}

void LoadCounter::TakeLoads(int rank, v1::StepReport* report) {
  for (size_t layer = 0; layer < layout_.layers.size(); ++layer) {
    const model::LayerLayout& layout = layout_.layers[layer];
    v1::LayerLoads* loads = nullptr;
    for (size_t i = 0; i < layout.ids.size(); ++i) {
      if (layout.ranks[i] != rank) continue;
      if (loads == nullptr) {
        loads = report->add_loads();
        loads->set_layer(static_cast<uint32_t>(layer));
      }
      loads->add_experts(static_cast<uint32_t>(layout.ids[i]));
      loads->add_tokens(static_cast<uint64_t>(global_[offsets_[layer] + i]));
    }
  }
  std::fill(global_.begin(), global_.end(), 0);
}

}  // namespace espalier::train

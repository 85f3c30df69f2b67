// Figures of all layers stand in one flat array, so that they travel in one piece.
#include "libs/train/loads.h"

#include <algorithm>

#include "kernels/output_norm.h"
#include "libs/observe/log.h"

namespace espalier::train {
namespace {

// Of sums in kernels::kOutputNormUnits.
uint64_t ToThousandths(int64_t sum) {
  constexpr auto kPerThousandth = static_cast<int64_t>(kernels::kOutputNormUnits / 1000);
  return static_cast<uint64_t>((sum + kPerThousandth / 2) / kPerThousandth);
}

}  // namespace

void LoadCounter::Sums::Reset(int64_t size) {
  local.assign(size, 0);
  global.assign(size, 0);
}

void LoadCounter::Sums::Add(int64_t offset, const std::vector<int64_t>& layer) {
  for (size_t i = 0; i < layer.size(); ++i) local[offset + i] += layer[i];
}

void LoadCounter::Sums::Pack(Exchange* exchange) {
  handle = exchange->AddSums(local);
  std::fill(local.begin(), local.end(), 0);
}

void LoadCounter::Sums::Unpack(const Exchange& exchange) {
  const auto sums = exchange.Sums(handle, static_cast<int64_t>(global.size()));
  for (size_t i = 0; i < sums.size(); ++i) global[i] += sums[i];
}

void LoadCounter::Reset(const model::ExpertLayout& layout, bool with_norms) {
  layout_ = layout;
  with_norms_ = with_norms;
  offsets_.clear();
  int64_t offset = 0;
  for (const model::LayerLayout& layer : layout_.layers) {
    offsets_.push_back(offset);
    offset += static_cast<int64_t>(layer.ids.size());
  }
  tokens_.Reset(offset);
  norms_.Reset(with_norms ? offset : 0);
}

void LoadCounter::Add(const std::vector<model::LayerRouteCounts>& counts,
                      const std::vector<model::LayerOutputNorms>& norms) {
  CHECK_EQ(counts.size(), layout_.layers.size());
  CHECK_EQ(norms.size(), with_norms_ ? counts.size() : 0);
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    // A rank without a token in this pass may leave its counts empty.
    if (counts[layer].empty()) continue;
    CHECK_EQ(counts[layer].size(), layout_.layers[layer].ids.size());
    tokens_.Add(offsets_[layer], counts[layer]);
    if (!with_norms_) continue;
    CHECK_EQ(norms[layer].size(), counts[layer].size());
    norms_.Add(offsets_[layer], norms[layer]);
  }
}

void LoadCounter::Pack(Exchange* exchange) {
  tokens_.Pack(exchange);
  if (with_norms_) norms_.Pack(exchange);
}

void LoadCounter::Unpack(const Exchange& exchange) {
  tokens_.Unpack(exchange);
  if (with_norms_) norms_.Unpack(exchange);
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
      loads->add_tokens(static_cast<uint64_t>(tokens_.global[offsets_[layer] + i]));
      if (with_norms_) loads->add_output_norms(ToThousandths(norms_.global[offsets_[layer] + i]));
    }
  }
  std::fill(tokens_.global.begin(), tokens_.global.end(), 0);
  std::fill(norms_.global.begin(), norms_.global.end(), 0);
}

}  // namespace espalier::train

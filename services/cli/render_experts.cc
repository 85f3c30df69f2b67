// Cells of the heatmap: a colour of 256 and a block by load, digits where neither can be shown.
#include "services/cli/render_experts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace espalier::cli {
namespace {

// Load against the mean, in steps of a factor two: below 1/8 … above 4.
constexpr int kLevels = 7;
constexpr std::array<const char*, kLevels> kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "█"};
constexpr std::array<int, kLevels> kColors = {17, 19, 27, 37, 34, 214, 196};

int LevelOf(double over_mean) {
  if (over_mean <= 0) return 0;
  return std::clamp(static_cast<int>(std::floor(std::log2(over_mean))) + 4, 0, kLevels - 1);
}

std::string Cell(double over_mean, const Style& style) {
  const int level = LevelOf(over_mean);
  const std::string block =
      style.unicode ? kBlocks[static_cast<size_t>(level)] : absl::StrCat(level);
  if (!style.color) return block;
  return absl::StrFormat("\x1b[38;5;%dm%s\x1b[0m", kColors[static_cast<size_t>(level)], block);
}

std::vector<double> SumRows(const v1::LoadMatrix& matrix) {
  std::vector<double> sums(matrix.experts(), 0);
  for (int i = 0; i < matrix.tokens_size() && matrix.experts() > 0; ++i) {
    sums[static_cast<size_t>(i) % matrix.experts()] += static_cast<double>(matrix.tokens(i));
  }
  return sums;
}

std::string RenderLayer(const v1::LoadMatrix& matrix, const v1::LayerLayout& layout,
                        const Style& style) {
  const std::vector<double> loads = SumRows(matrix);
  double total = 0;
  std::map<uint32_t, std::vector<uint32_t>> experts_of;
  std::map<uint32_t, double> load_of;
  const int count = std::min(layout.experts_size(), layout.ranks_size());
  for (int i = 0; i < count; ++i) {
    const double load = layout.experts(i) < loads.size() ? loads[layout.experts(i)] : 0;
    experts_of[layout.ranks(i)].push_back(layout.experts(i));
    load_of[layout.ranks(i)] += load;
    total += load;
  }
  const double mean = count > 0 ? total / count : 0;
  const double rank_mean = load_of.empty() ? 0 : total / static_cast<double>(load_of.size());
  std::string text = absl::StrCat(Paint(absl::StrCat("layer ", matrix.layer()), Tone::kBold, style),
                                  "  ", count, " of ", matrix.experts(), " experts alive\n");
  for (const auto& [rank, experts] : experts_of) {
    std::string cells;
    for (const uint32_t expert : experts) {
      const double load = expert < loads.size() ? loads[expert] : 0;
      cells += Cell(mean > 0 ? load / mean : 0, style);
    }
    absl::StrAppend(&text, absl::StrFormat("  rank %-3d ", rank), cells,
                    absl::StrFormat("  %.3f of the mean, %d experts\n",
                                    rank_mean > 0 ? load_of[rank] / rank_mean : 0, experts.size()));
  }
  return text;
}

}  // namespace

std::string RenderExperts(const v1::GetLoadsResponse& loads, const v1::GetLayoutResponse& layout,
                          const Style& style) {
  std::map<uint32_t, const v1::LayerLayout*> by_layer;
  for (const v1::LayerLayout& layer : layout.layout().layers()) by_layer[layer.layer()] = &layer;
  std::string text;
  for (const v1::LoadMatrix& matrix : loads.layers()) {
    const auto found = by_layer.find(matrix.layer());
    if (found != by_layer.end()) text += RenderLayer(matrix, *found->second, style);
  }
  if (text.empty()) return "No loads recorded yet.\n";
  text += "load of an expert against its layer's mean: ";
  constexpr std::array<const char*, kLevels> kWords = {"<1/8", "<1/4", "<1/2", "<1",
                                                       "<2",   "<4",   "4+"};
  for (int level = 0; level < kLevels; ++level) {
    absl::StrAppend(&text, Cell(std::exp2(level - 4) * 1.01, style), " ",
                    kWords[static_cast<size_t>(level)], "  ");
  }
  return text + "\n";
}

}  // namespace espalier::cli

// LoadBook: joins the reports of all ranks by step.
#include "services/coordinator/load_book.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::coordinator {
namespace {

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

}  // namespace

double CompleteStep::Imbalance() const {
  double sum = 0;
  int counted = 0;
  for (const LayerStep& layer : layers) {
    const uint64_t total =
        std::accumulate(layer.rank_tokens.begin(), layer.rank_tokens.end(), uint64_t{0});
    if (total == 0) continue;
    const uint64_t heaviest = *std::max_element(layer.rank_tokens.begin(), layer.rank_tokens.end());
    sum += static_cast<double>(heaviest) * static_cast<double>(layer.rank_tokens.size()) /
           static_cast<double>(total);
    ++counted;
  }
  return counted == 0 ? 1 : sum / counted;
}

uint64_t CompleteStep::ExpertsAlive() const {
  uint64_t alive = 0;
  for (const LayerStep& layer : layers) {
    alive +=
        std::count_if(layer.ranks.begin(), layer.ranks.end(), [](int rank) { return rank >= 0; });
  }
  return alive;
}

void LoadBook::Restart(uint64_t step) {
  pending_.clear();
  whole_count_ = 0;
  complete_step_ = step;
}

absl::Status LoadBook::Check(const v1::StepReport& report) const {
  if (report.rank() >= rank_count_) {
    return absl::InvalidArgumentError(
        absl::StrCat("report.rank: ", report.rank(), "; the run has ", rank_count_, " ranks"));
  }
  if (report.first_step() == 0 || report.first_step() > report.last_step()) {
    return absl::InvalidArgumentError(absl::StrCat("report.first_step: ", report.first_step(),
                                                   " with last_step ", report.last_step(),
                                                   "; steps count from 1, first to last"));
  }
  for (const v1::LayerLoads& layer : report.loads()) {
    if (layer.layer() >= kLayersMax) {
      return absl::InvalidArgumentError(absl::StrCat("report.loads: layer ", layer.layer(),
                                                     "; layers are numbered below ", kLayersMax));
    }
    if (layer.experts_size() != layer.tokens_size()) {
      return absl::InvalidArgumentError(absl::StrCat("report.loads of layer ", layer.layer(), ": ",
                                                     layer.experts_size(), " experts but ",
                                                     layer.tokens_size(), " token counts"));
    }
    if (layer.output_norms_size() != 0 && layer.output_norms_size() != layer.experts_size()) {
      return absl::InvalidArgumentError(absl::StrCat("report.loads of layer ", layer.layer(), ": ",
                                                     layer.experts_size(), " experts but ",
                                                     layer.output_norms_size(), " output norms"));
    }
    for (const uint32_t expert : layer.experts()) {
      if (expert >= expert_count_) {
        return absl::InvalidArgumentError(absl::StrCat("report.loads of layer ", layer.layer(),
                                                       ": expert ", expert, "; the model has ",
                                                       expert_count_));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CompleteStep>> LoadBook::Add(const v1::StepReport& report) {
  RETURN_IF_ERROR(Check(report));
  std::vector<CompleteStep> complete;
  if (report.first_step() <= complete_step_) return complete;

  Partial& partial = pending_[report.first_step()];
  if (partial.reported.empty()) {
    partial.step.first_step = report.first_step();
    partial.step.last_step = report.last_step();
    partial.reported.resize(rank_count_);
  } else if (partial.step.last_step != report.last_step()) {
    return absl::InvalidArgumentError(absl::StrCat("report.last_step: ", report.last_step(),
                                                   " from rank ", report.rank(), "; others said ",
                                                   partial.step.last_step));
  }
  if (partial.reported[report.rank()]) return complete;
  partial.reported[report.rank()] = true;
  Join(report, &partial);
  if (++partial.count == rank_count_) ++whole_count_;
  Advance(&complete);
  return complete;
}

std::vector<StepSpan> LoadBook::TakeLost() { return std::exchange(lost_, {}); }

void LoadBook::Join(const v1::StepReport& report, Partial* partial) const {
  CompleteStep& step = partial->step;
  const int rank = static_cast<int>(report.rank());
  step.tokens += static_cast<double>(report.tokens());
  step.seconds = std::max(step.seconds, Seconds(report.duration()));
  step.experts_seconds = std::max(step.experts_seconds, report.phases().experts_seconds());
  if (report.has_joules()) {
    ++partial->told_joules;
    step.joules = step.joules.value_or(0) + report.joules();
  }
  // The figures of the whole run are the lowest rank's that has any; its stage counts, or rank 0's.
  const bool speaks =
      report.has_metrics() && (partial->metrics_rank < 0 || rank < partial->metrics_rank);
  if (speaks) {
    partial->metrics_rank = rank;
    step.metrics = report.metrics();
  }
  if (speaks || (rank == 0 && partial->metrics_rank < 0)) {
    step.stage = report.stage();
    step.stage_index = report.stage_index();
  }
  for (int l = 0; l < report.loads_size(); ++l) {
    const v1::LayerLoads& loads = report.loads(l);
    // A dense layer has no experts on any rank.
    if (loads.experts_size() == 0) continue;
    LayerStep& layer = *FindLayer(loads.layer(), static_cast<size_t>(l), &step);
    uint64_t rank_tokens = 0;
    for (int i = 0; i < loads.experts_size(); ++i) {
      const uint32_t expert = loads.experts(i);
      layer.tokens[expert] += loads.tokens(i);
      // Should two ranks claim an expert, the higher one has it, whoever spoke first.
      layer.ranks[expert] = std::max(layer.ranks[expert], rank);
      rank_tokens += loads.tokens(i);
    }
    layer.rank_tokens[report.rank()] += rank_tokens;
    if (loads.output_norms_size() == 0) continue;
    layer.output_norms.resize(expert_count_);
    for (int i = 0; i < loads.experts_size(); ++i) {
      layer.output_norms[loads.experts(i)] += loads.output_norms(i);
    }
  }
}

LayerStep* LoadBook::FindLayer(uint32_t layer, size_t hint, CompleteStep* step) const {
  std::vector<LayerStep>& layers = step->layers;
  if (hint < layers.size() && layers[hint].layer == layer) return &layers[hint];
  const auto at = std::lower_bound(
      layers.begin(), layers.end(), layer,
      [](const LayerStep& known, uint32_t wanted) { return known.layer < wanted; });
  if (at != layers.end() && at->layer == layer) return &*at;
  LayerStep fresh;
  fresh.layer = layer;
  fresh.tokens.assign(expert_count_, 0);
  fresh.ranks.assign(expert_count_, -1);
  fresh.rank_tokens.assign(rank_count_, 0);
  return &*layers.insert(at, std::move(fresh));
}

void LoadBook::Finish(CompleteStep* step) const {
  // The step's own figure covers every rank once; the ranks' sum stands in where nobody gave one.
  if (step->metrics.has_value() && step->metrics->global_tokens() > 0) {
    step->tokens = static_cast<double>(step->metrics->global_tokens()) *
                   static_cast<double>(step->last_step - step->first_step + 1);
  }
}

void LoadBook::Advance(std::vector<CompleteStep>* complete) {
  while (!pending_.empty()) {
    const auto oldest = pending_.begin();
    const uint64_t first = oldest->first, last = oldest->second.step.last_step;
    const bool whole = oldest->second.count == rank_count_;
    if (first > complete_step_) {
      // A rank that lost a report must not hold up the others for ever.
      const bool impatient = pending_.size() > kPendingMax || whole_count_ >= kPatience;
      if ((!whole || first > complete_step_ + 1) && !impatient) return;
      if (first > complete_step_ + 1) GiveUp(complete_step_ + 1, first - 1);
      if (whole) {
        if (oldest->second.told_joules < rank_count_) oldest->second.step.joules.reset();
        Finish(&oldest->second.step);
        complete->push_back(std::move(oldest->second.step));
      } else {
        GiveUp(first, last);
      }
      complete_step_ = last;
    }
    // Else its beginning was covered by a longer report: it cannot count again.
    if (whole) --whole_count_;
    pending_.erase(oldest);
  }
}

void LoadBook::GiveUp(uint64_t first, uint64_t last) {
  lost_steps_ += last - first + 1;
  if (!lost_.empty() && lost_.back().last + 1 == first) {
    lost_.back().last = last;
  } else {
    lost_.push_back({first, last});
  }
}

}  // namespace espalier::coordinator

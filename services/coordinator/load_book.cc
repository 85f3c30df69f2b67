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
    if (layer.experts_size() != layer.tokens_size()) {
      return absl::InvalidArgumentError(absl::StrCat("report.loads of layer ", layer.layer(), ": ",
                                                     layer.experts_size(), " experts but ",
                                                     layer.tokens_size(), " token counts"));
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

absl::StatusOr<std::vector<CompleteStep>> LoadBook::Add(v1::StepReport report) {
  RETURN_IF_ERROR(Check(report));
  std::vector<CompleteStep> complete;
  if (report.first_step() <= complete_step_) return complete;

  Partial& partial = pending_[report.first_step()];
  if (partial.reports.empty()) {
    partial.last_step = report.last_step();
    partial.reports.resize(rank_count_);
  } else if (partial.last_step != report.last_step()) {
    return absl::InvalidArgumentError(absl::StrCat("report.last_step: ", report.last_step(),
                                                   " from rank ", report.rank(), "; others said ",
                                                   partial.last_step));
  }
  std::optional<v1::StepReport>& slot = partial.reports[report.rank()];
  if (!slot.has_value()) {
    ++partial.count;
    slot = std::move(report);
  }

  // A rank that lost a report must not hold up the others for ever.
  const auto waiting = [&] {
    return std::count_if(pending_.begin(), pending_.end(),
                         [&](const auto& entry) { return entry.second.count == rank_count_; });
  };
  while (!pending_.empty()) {
    const auto oldest = pending_.begin();
    if (oldest->second.count == rank_count_) {
      complete.push_back(Join(oldest->first, oldest->second));
    } else if (pending_.size() > kPendingMax ||
               (pending_.size() > kPatience && waiting() >= kPatience)) {
      lost_steps_ += oldest->second.last_step - oldest->first + 1;
    } else {
      break;
    }
    complete_step_ = std::max(complete_step_, oldest->second.last_step);
    pending_.erase(oldest);
  }
  return complete;
}

CompleteStep LoadBook::Join(uint64_t first_step, const Partial& partial) const {
  CompleteStep step;
  step.first_step = first_step;
  step.last_step = partial.last_step;
  std::map<uint32_t, LayerStep> layers;
  for (const auto& report : partial.reports) {
    step.tokens += static_cast<double>(report->tokens());
    step.seconds = std::max(step.seconds, Seconds(report->duration()));
    step.experts_seconds = std::max(step.experts_seconds, report->phases().experts_seconds());
    if (report->has_metrics() && !step.metrics.has_value()) {
      step.metrics = report->metrics();
      step.stage = report->stage();
      step.stage_index = report->stage_index();
    }
    for (const v1::LayerLoads& loads : report->loads()) {
      LayerStep& layer = layers[loads.layer()];
      if (layer.tokens.empty()) {
        layer.layer = loads.layer();
        layer.tokens.assign(expert_count_, 0);
        layer.ranks.assign(expert_count_, -1);
        layer.rank_tokens.assign(rank_count_, 0);
      }
      for (int i = 0; i < loads.experts_size(); ++i) {
        layer.tokens[loads.experts(i)] += loads.tokens(i);
        layer.ranks[loads.experts(i)] = static_cast<int>(report->rank());
        layer.rank_tokens[report->rank()] += loads.tokens(i);
      }
    }
  }
  if (step.stage == v1::STAGE_KIND_UNSPECIFIED) {
    step.stage = partial.reports.front()->stage();
    step.stage_index = partial.reports.front()->stage_index();
  }
  // The step's own figure covers every rank once; the ranks' sum stands in where nobody gave one.
  if (step.metrics.has_value() && step.metrics->global_tokens() > 0) {
    step.tokens = static_cast<double>(step.metrics->global_tokens()) *
                  static_cast<double>(step.last_step - step.first_step + 1);
  }
  for (auto& [index, layer] : layers) {
    // A dense layer has no experts on any rank.
    if (std::any_of(layer.ranks.begin(), layer.ranks.end(), [](int rank) { return rank >= 0; })) {
      step.layers.push_back(std::move(layer));
    }
  }
  return step;
}

}  // namespace espalier::coordinator

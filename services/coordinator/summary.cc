// FigureBook: medians that leave out warm-up, evaluations, commands and checkpoints.
#include "services/coordinator/summary.h"

#include <algorithm>
#include <limits>

#include "libs/spec/spec.h"

namespace espalier::coordinator {
namespace {

constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();

double TokensPerSecond(const StepFigure& figure) { return figure.tokens_per_second; }
double Imbalance(const StepFigure& figure) { return figure.imbalance; }

}  // namespace

void FigureBook::Add(const StepFigure& figure) {
  if (!figures_.empty() && figure.step <= figures_.back().step) return;
  figures_.push_back(figure);
  if (figures_.size() <= kFiguresMax) return;
  std::vector<StepFigure> kept;
  const size_t half = figures_.size() / 2;
  for (size_t i = 0; i < figures_.size(); ++i) {
    if (i >= half || i % 2 == 0) kept.push_back(figures_[i]);
  }
  figures_ = std::move(kept);
}

void FigureBook::TruncateAfter(uint64_t step) {
  while (!figures_.empty() && figures_.back().step > step) figures_.pop_back();
}

void FigureBook::Disturb(uint64_t step) {
  disturbed_.insert(step);
  if (disturbed_.size() > kFiguresMax) disturbed_.erase(disturbed_.begin());
}

bool FigureBook::Typical(const StepFigure& figure) const {
  return !figure.evaluated && !disturbed_.contains(figure.step) &&
         (figure.step == 0 || !disturbed_.contains(figure.step - 1));
}

std::optional<double> FigureBook::Median(uint64_t first, uint64_t last, v1::StageKind stage,
                                         const std::function<double(const StepFigure&)>& of) const {
  std::vector<double> values;
  // Where every step was disturbed (an evaluation each), all of them have to do.
  for (const bool typical_only : {true, false}) {
    for (const StepFigure& figure : figures_) {
      if (figure.step < first || figure.step > last || figure.stage != stage) continue;
      if (!typical_only || Typical(figure)) values.push_back(of(figure));
    }
    if (!values.empty()) break;
  }
  if (values.empty()) return std::nullopt;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::optional<double> FigureBook::Mean(uint64_t first, uint64_t last, v1::StageKind stage,
                                       const std::function<double(const StepFigure&)>& of) const {
  double sum = 0;
  size_t count = 0;
  for (const StepFigure& figure : figures_) {
    if (figure.step < first || figure.step > last || figure.stage != stage) continue;
    sum += of(figure);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

void FigureBook::Summarise(const Cuts& cuts, v1::RunSummary* summary) const {
  const auto stage = v1::STAGE_KIND_PRETRAIN;
  // Without a layout, "before" is the whole of pretraining and there is no "after".
  const uint64_t before_end = cuts.first.value_or(kEnd);
  std::optional<double> speed = Median(kWarmupSteps + 1, before_end, stage, TokensPerSecond);
  if (!speed.has_value()) speed = Median(1, before_end, stage, TokensPerSecond);
  if (speed.has_value()) summary->set_tokens_per_second_before_prune(*speed);

  uint64_t window_end = 0;
  for (const StepFigure& figure : figures_) {
    if (figure.stage == stage && figure.step <= before_end) window_end = figure.step;
  }
  const uint64_t window_first =
      window_end > cuts.window_steps ? window_end - cuts.window_steps + 1 : 1;
  const auto before = Mean(window_first, window_end, stage, Imbalance);
  if (before.has_value()) summary->set_imbalance_before(*before);
  if (!cuts.last.has_value()) return;
  const auto after_speed = Median(*cuts.last + 1, kEnd, stage, TokensPerSecond);
  if (after_speed.has_value()) summary->set_tokens_per_second_after(*after_speed);
  const auto after = Mean(*cuts.last + 1, kEnd, stage, Imbalance);
  if (after.has_value()) summary->set_imbalance_after(*after);
}

void FigureBook::DescribeRecent(v1::RunProgress* progress) const {
  if (figures_.empty()) return;
  const v1::StageKind stage = figures_.back().stage;
  double tokens = 0, seconds = 0, imbalance = 0, step_seconds = 0;
  size_t count = 0;
  for (auto it = figures_.rbegin(); it != figures_.rend() && count < kRecent && it->stage == stage;
       ++it) {
    tokens += it->tokens_per_second * it->step_seconds;
    seconds += it->step_seconds;
    step_seconds += it->step_seconds;
    imbalance += it->imbalance;
    ++count;
  }
  progress->set_tokens_per_second(seconds > 0 ? tokens / seconds : 0);
  progress->set_imbalance(imbalance / static_cast<double>(count));
  // Later stages are taken to run at the pace of this one: nothing better is known yet.
  const uint64_t left =
      progress->steps_total() > progress->step() ? progress->steps_total() - progress->step() : 0;
  progress->set_seconds_left(static_cast<double>(left) * step_seconds / static_cast<double>(count));
}

void DescribePlace(const v1::RunSpec& spec, uint64_t step, v1::RunProgress* progress) {
  uint64_t total = 0;
  bool placed = false;
  for (int i = 0; i < spec.stages_size(); ++i) {
    const v1::StageSpec& stage = spec.stages(i);
    const uint64_t steps = spec::StageSteps(stage);
    // A step belongs to the stage that it ends in; before the first step, the first stage is next.
    if (!placed && steps > 0 && step <= total + steps) {
      placed = true;
      progress->set_stage_index(static_cast<uint32_t>(i));
      progress->set_stage_name(spec::StageName(stage));
      progress->set_stage_step(step > total ? step - total : 0);
      progress->set_stage_steps(steps);
      progress->set_stage(stage.has_pretrain()    ? v1::STAGE_KIND_PRETRAIN
                          : stage.has_finetune()  ? v1::STAGE_KIND_FINETUNE
                          : stage.has_reinforce() ? v1::STAGE_KIND_REINFORCE
                                                  : v1::STAGE_KIND_EXPORT);
    }
    total += steps;
  }
  progress->set_step(step);
  progress->set_steps_total(total);
}

uint64_t StageEnd(const v1::RunSpec& spec, uint64_t step) {
  uint64_t total = 0;
  for (const v1::StageSpec& stage : spec.stages()) {
    total += spec::StageSteps(stage);
    if (step <= total) return total;
  }
  return total;
}

}  // namespace espalier::coordinator

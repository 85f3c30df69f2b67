// LiveRun: construction from its record, and the snapshot that clients get.
#include "services/coordinator/run.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "services/coordinator/times.h"

namespace espalier::coordinator {

LiveRun::LiveRun(RunRecord r)
    : record(std::move(r)),
      book(record.run().spec().workers().count(), record.run().spec().model().experts()),
      pilot(record.run().spec()) {}

bool LiveRun::ended() const { return IsEnded(record.run().state()); }

void LiveRun::Record(const v1::SeriesPoint& point, double experts_seconds) {
  StepFigure figure;
  figure.step = point.step();
  figure.stage = point.stage();
  figure.evaluated = point.has_heldout_loss() || point.reinforce().evaluation();
  figure.tokens_per_second = point.tokens_per_second();
  figure.step_seconds = point.step_seconds();
  figure.experts_seconds = experts_seconds;
  figure.imbalance = point.imbalance();
  figures.Add(figure);
  progress.set_step(point.step());
  progress.set_stage(point.stage());
  progress.set_loss(point.loss());
  if (point.has_heldout_loss()) progress.set_heldout_loss(point.heldout_loss());
  if (point.has_reinforce()) *progress.mutable_reinforce() = point.reinforce();
  if (point.experts_alive() > 0) progress.set_experts_alive(point.experts_alive());
  if (point.stage() != v1::STAGE_KIND_PRETRAIN || !point.has_heldout_loss()) return;
  pretrain_heldout = point.heldout_loss();
  if (heldout.size() >= kHeldoutPointsMax) heldout.erase(heldout.begin());
  heldout.push_back({static_cast<double>(point.step()), point.heldout_loss()});
}

const v1::Decision* LiveRun::pending_decision() const {
  for (const auto& [id, decision] : open_decisions) {
    if (decision.state() != v1::DECISION_STATE_APPLIED &&
        decision.state() != v1::DECISION_STATE_WAITING)
      return &decision;
  }
  return nullptr;
}

v1::Decision* LiveRun::waiting_decision() {
  for (auto& [id, decision] : open_decisions) {
    if (decision.state() == v1::DECISION_STATE_WAITING) return &decision;
  }
  return nullptr;
}

uint64_t LiveRun::stage_end(uint64_t step) const {
  if (external()) return std::numeric_limits<uint64_t>::max();
  return StageEnd(record.run().spec(), step);
}

void LiveRun::GoBack(uint64_t step) {
  figures.TruncateAfter(step);
  std::erase_if(heldout, [step](const planner::LossPoint& point) {
    return point.step > static_cast<double>(step);
  });
  auto* gaps = record.mutable_gaps();
  while (!gaps->empty() && gaps->rbegin()->first_step() > step) gaps->RemoveLast();
  if (!gaps->empty() && gaps->rbegin()->last_step() > step) gaps->rbegin()->set_last_step(step);
  durable_step = step;
  book.Restart(step);
  progress.set_step(step);
}

bool IsEnded(v1::RunState state) {
  return state == v1::RUN_STATE_COMPLETED || state == v1::RUN_STATE_STOPPED ||
         state == v1::RUN_STATE_FAILED;
}

bool IsOpen(v1::DecisionState state) {
  return state == v1::DECISION_STATE_COMMANDED || state == v1::DECISION_STATE_APPLIED ||
         state == v1::DECISION_STATE_OBSERVED || state == v1::DECISION_STATE_ROLLING_BACK ||
         state == v1::DECISION_STATE_WAITING;
}

const char* StateWord(v1::RunState state) {
  switch (state) {
    case v1::RUN_STATE_PENDING:
      return "pending";
    case v1::RUN_STATE_RUNNING:
      return "running";
    case v1::RUN_STATE_PAUSED:
      return "paused";
    case v1::RUN_STATE_RECOVERING:
      return "recovering";
    case v1::RUN_STATE_COMPLETED:
      return "completed";
    case v1::RUN_STATE_STOPPED:
      return "stopped";
    case v1::RUN_STATE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

v1::Run Snapshot(const LiveRun& run, absl::Time now) {
  v1::Run out = run.record.run();
  // The progress and summary of an ended run were fixed when it ended.
  if (run.ended()) return out;
  v1::RunProgress* progress = out.mutable_progress();
  *progress = run.progress;
  DescribePlace(out.spec(), run.progress.step(), progress);
  run.figures.DescribeRecent(progress);
  const v1::ModelSpec& model = out.spec().model();
  progress->set_experts_total(uint64_t{model.experts()} *
                              (model.layers() - std::min(model.layers(), model.dense_layers())));
  progress->set_params(out.summary().params_after());

  Cuts cuts;
  const v1::RunSummary& known = run.record.run().summary();
  if (known.has_prune_step()) {
    cuts.first = known.prune_step();
  } else if (run.record.first_layout_step() > 0) {
    cuts.first = run.record.first_layout_step();
  }
  if (run.record.last_layout_step() > 0) cuts.last = run.record.last_layout_step();
  cuts.window_steps = std::max(1u, out.spec().prune().window_steps());
  v1::RunSummary* summary = out.mutable_summary();
  run.figures.Summarise(cuts, summary);
  if (out.has_start_time()) {
    summary->set_wall_seconds(absl::ToDoubleSeconds(now - FromProto(out.start_time())));
  }
  summary->set_export_path(out.export_path());
  return out;
}

}  // namespace espalier::coordinator

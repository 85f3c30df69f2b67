// The live display and the report of a run.
#include "services/cli/render_run.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/render_table.h"

namespace espalier::cli {
namespace {

constexpr int kBarColumns = 36;

std::string StageTitle(const v1::RunProgress& progress, const v1::RunSpec& spec) {
  return absl::StrCat("stage ", progress.stage_index() + 1, "/", std::max(1, spec.stages_size()),
                      " ", Printable(progress.stage_name()));
}

double ShareOf(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string ReinforceText(const v1::ReinforceMetrics& metrics) {
  return absl::StrFormat("accuracy %.1f%%, %.1f tokens a trace, reward %.2f, %.2f re-statements",
                         metrics.accuracy() * 100, metrics.mean_trace_tokens(),
                         metrics.mean_reward(), metrics.mean_reflections());
}

std::string SpeedText(const v1::RunProgress& progress) {
  std::string text = absl::StrCat(Count(progress.tokens_per_second()), " tokens/s");
  if (progress.imbalance() > 0) {
    absl::StrAppend(&text, absl::StrFormat("   load imbalance %.3f (busiest rank / mean)",
                                           progress.imbalance()));
  }
  return text;
}

std::string LossText(const v1::RunProgress& progress) {
  std::string text = absl::StrFormat("loss %.4f", progress.loss());
  if (progress.has_heldout_loss()) {
    absl::StrAppend(&text, absl::StrFormat("   held-out %.4f", progress.heldout_loss()));
  }
  return text;
}

std::string ExpertsText(const v1::RunProgress& progress) {
  return absl::StrCat(progress.experts_alive(), " of ", progress.experts_total(), " alive, ",
                      Count(static_cast<double>(progress.params())), " parameters");
}

// "before → after (change)" of one figure of the summary.
void AddChange(const char* name, const std::optional<double>& before,
               const std::optional<double>& after, const std::string& format_before,
               const std::string& format_after, bool percent, const Style& style,
               std::string* out) {
  if (!before.has_value() && !after.has_value()) return;
  std::string line =
      absl::StrCat("  ", Pad(name, 26), before.has_value() ? format_before : "?",
                   style.unicode ? " → " : " -> ", after.has_value() ? format_after : "?");
  if (percent && before.has_value() && after.has_value() && *before != 0) {
    line += Paint(absl::StrFormat("  (%+.1f%%)", (*after / *before - 1) * 100), Tone::kDim, style);
  }
  absl::StrAppend(out, line, "\n");
}

void AddNumbers(const char* name, std::optional<double> before, std::optional<double> after,
                int digits, double scale, bool percent, const Style& style, std::string* out) {
  const auto text = [&](const std::optional<double>& value) {
    return absl::StrFormat("%.*f", digits, value.value_or(0) * scale);
  };
  AddChange(name, before, after, text(before), text(after), percent, style, out);
}

template <typename T>
std::optional<double> Maybe(bool has, T value) {
  return has ? std::optional<double>(static_cast<double>(value)) : std::nullopt;
}

uint64_t Sum(const google::protobuf::RepeatedField<uint32_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

std::string PerLayer(const google::protobuf::RepeatedField<uint32_t>& counts) {
  std::string text;
  for (const uint32_t count : counts) absl::StrAppend(&text, text.empty() ? "" : " ", count);
  return text;
}

}  // namespace

bool HasEnded(v1::RunState state) {
  return state == v1::RUN_STATE_COMPLETED || state == v1::RUN_STATE_STOPPED ||
         state == v1::RUN_STATE_FAILED;
}

void WatchView::Update(const v1::WatchRunResponse& message) {
  run = message.run();
  const v1::RunProgress& progress = run.progress();
  if (progress.stage_index() != last_stage_) losses.clear();
  last_stage_ = progress.stage_index();
  if (progress.step() != last_step_ && progress.step() > 0) losses.push_back(progress.loss());
  last_step_ = progress.step();
  if (losses.size() > kLossesMax) {
    for (size_t i = 0; i < kLossesMax / 2; ++i) losses[i] = (losses[2 * i] + losses[2 * i + 1]) / 2;
    losses.resize(kLossesMax / 2);
  }
  for (const v1::RunEvent& event : message.events()) {
    events.push_back(event);
    if (events.size() > kEventsMax) events.pop_front();
  }
}

std::vector<std::string> RenderWatch(const WatchView& view, const Style& style) {
  const v1::Run& run = view.run;
  const v1::RunProgress& progress = run.progress();
  std::vector<std::string> lines;
  lines.push_back(
      absl::StrCat(Paint(Printable(run.spec().name()), Tone::kBold, style), " ", run.run_id(), "  ",
                   Paint(StateName(run.state()), StateTone(run.state()), style),
                   run.detail().empty() ? "" : absl::StrCat("  ", Printable(run.detail()))));
  const double whole = ShareOf(progress.step(), progress.steps_total());
  lines.push_back(
      absl::StrFormat("  %s %s %3.0f%%  step %d/%d%s", Pad("run", 22),
                      Paint(Bar(whole, kBarColumns, style), Tone::kGreen, style), whole * 100,
                      progress.step(), progress.steps_total(),
                      HasEnded(run.state()) || progress.step() == 0
                          ? ""
                          : absl::StrCat("  ", Duration(progress.seconds_left()), " left")));
  const double stage = ShareOf(progress.stage_step(), progress.stage_steps());
  lines.push_back(absl::StrFormat("  %s %s %3.0f%%  step %d/%d",
                                  Pad(StageTitle(progress, run.spec()), 22),
                                  Paint(Bar(stage, kBarColumns, style), Tone::kCyan, style),
                                  stage * 100, progress.stage_step(), progress.stage_steps()));
  if (progress.step() > 0) {
    lines.push_back(absl::StrCat("  ", LossText(progress), "   ",
                                 Paint(Sparkline(view.losses, 40, style), Tone::kCyan, style)));
    lines.push_back(absl::StrCat("  ", SpeedText(progress)));
  }
  if (progress.experts_total() > 0) {
    const double alive = ShareOf(progress.experts_alive(), progress.experts_total());
    lines.push_back(absl::StrCat("  experts ", Bar(alive, 16, style), " ", ExpertsText(progress)));
  }
  if (progress.has_reinforce()) {
    lines.push_back(absl::StrCat("  traces ", ReinforceText(progress.reinforce())));
  }
  for (const v1::RunEvent& event : view.events) lines.push_back("  " + RenderEvent(event, style));
  if (!view.notice.empty())
    lines.push_back("  " + Paint(Printable(view.notice), Tone::kYellow, style));
  for (std::string& line : lines) line = Cut(line, style.columns);
  return lines;
}

std::string RenderProgressLine(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  std::string line = absl::StrCat(run.run_id(), " ", StateName(run.state()));
  if (progress.step() > 0) {
    absl::StrAppend(&line, "  ", StageTitle(progress, run.spec()), "  step ", progress.step(), "/",
                    progress.steps_total(), "  ", LossText(progress), "  ",
                    Count(progress.tokens_per_second()), " tokens/s",
                    absl::StrFormat("  imbalance %.3f", progress.imbalance()), "  experts ",
                    progress.experts_alive(), "/", progress.experts_total());
    if (progress.has_reinforce()) absl::StrAppend(&line, "  ", ReinforceText(progress.reinforce()));
    if (!HasEnded(run.state()))
      absl::StrAppend(&line, "  ", Duration(progress.seconds_left()), " left");
  }
  if (!run.detail().empty()) absl::StrAppend(&line, "  (", Printable(run.detail()), ")");
  return line;
}

std::string RenderRun(const v1::Run& run, const Style& style) {
  WatchView view;
  view.run = run;
  std::string text;
  for (const std::string& line : RenderWatch(view, style)) absl::StrAppend(&text, line, "\n");
  if (!run.checkpoint().empty())
    absl::StrAppend(&text, "  checkpoint ", Printable(run.checkpoint()), "\n");
  if (!run.export_path().empty())
    absl::StrAppend(&text, "  export     ", Printable(run.export_path()), "\n");
  return text;
}

std::string RenderReport(const v1::Run& run, const Style& style) {
  const v1::RunSummary& s = run.summary();
  std::string out = absl::StrCat(
      Paint("Report of ", Tone::kBold, style), Printable(run.spec().name()), " (", run.run_id(),
      "), ", Paint(StateName(run.state()), StateTone(run.state()), style),
      s.has_wall_seconds() ? absl::StrCat(" after ", Duration(s.wall_seconds())) : "", "\n");
  AddNumbers("parameters, M", Maybe(s.has_params_before(), s.params_before()),
             Maybe(s.has_params_after(), s.params_after()), 3, 1e-6, true, style, &out);
  AddNumbers("experts", Maybe(s.experts_before_size() > 0, Sum(s.experts_before())),
             Maybe(s.experts_after_size() > 0, Sum(s.experts_after())), 0, 1, true, style, &out);
  if (s.experts_after_size() > 0) {
    absl::StrAppend(&out, "  ", Pad("  per layer now", 26), PerLayer(s.experts_after()), "\n");
  }
  AddNumbers("held-out loss",
             Maybe(s.has_heldout_loss_before_prune(), s.heldout_loss_before_prune()),
             Maybe(s.has_heldout_loss_end_pretrain(), s.heldout_loss_end_pretrain()), 4, 1, false,
             style, &out);
  AddNumbers("training tokens/s",
             Maybe(s.has_tokens_per_second_before_prune(), s.tokens_per_second_before_prune()),
             Maybe(s.has_tokens_per_second_after(), s.tokens_per_second_after()), 0, 1, true, style,
             &out);
  AddNumbers("load imbalance (max/mean)", Maybe(s.has_imbalance_before(), s.imbalance_before()),
             Maybe(s.has_imbalance_after(), s.imbalance_after()), 3, 1, false, style, &out);
  if (s.has_experts_moved())
    absl::StrAppend(&out, "  ", Pad("experts moved", 26), s.experts_moved(), "\n");
  AddNumbers("reasoning accuracy, %",
             Maybe(s.has_reasoning_accuracy_before_rl(), s.reasoning_accuracy_before_rl()),
             Maybe(s.has_reasoning_accuracy_after_rl(), s.reasoning_accuracy_after_rl()), 1, 100,
             false, style, &out);
  AddNumbers("tokens of a trace",
             Maybe(s.has_mean_trace_tokens_before_rl(), s.mean_trace_tokens_before_rl()),
             Maybe(s.has_mean_trace_tokens_after_rl(), s.mean_trace_tokens_after_rl()), 1, 1, true,
             style, &out);
  if (!s.export_path().empty())
    absl::StrAppend(&out, "  ", Pad("export", 26), Printable(s.export_path()), "\n");
  if (!run.detail().empty())
    absl::StrAppend(&out, "  ", Pad("detail", 26), Printable(run.detail()), "\n");
  return out;
}

}  // namespace espalier::cli

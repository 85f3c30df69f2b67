// Tables of runs, workers, events and fields.
#include "services/cli/render_table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace espalier::cli {
namespace {

std::string TimeText(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

}  // namespace

std::string RenderTable(const std::vector<std::vector<std::string>>& rows, const Style& style) {
  std::vector<int> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], ColumnsOf(row[i]));
  }
  std::string table;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      const bool last = i + 1 == rows[r].size();
      const std::string cell = r == 0 ? Paint(rows[r][i], Tone::kDim, style) : rows[r][i];
      line += last ? cell : Pad(cell, widths[i] + 2);
    }
    absl::StrAppend(&table, line, "\n");
  }
  return table;
}

std::string StateName(v1::RunState state) {
  const std::string name = v1::RunState_Name(state);
  constexpr size_t kPrefix = sizeof("RUN_STATE_") - 1;
  return name.size() > kPrefix ? absl::AsciiStrToLower(name.substr(kPrefix)) : "unknown";
}

Tone StateTone(v1::RunState state) {
  switch (state) {
    case v1::RUN_STATE_COMPLETED:
    case v1::RUN_STATE_RUNNING:
      return Tone::kGreen;
    case v1::RUN_STATE_FAILED:
      return Tone::kRed;
    case v1::RUN_STATE_RECOVERING:
    case v1::RUN_STATE_PAUSED:
    case v1::RUN_STATE_PENDING:
      return Tone::kYellow;
    default:
      return Tone::kPlain;
  }
}

std::string RenderRuns(const v1::ListRunsResponse& runs, const Style& style) {
  if (runs.runs_size() == 0) {
    return "No runs yet. Start one: espalier run submit deploy/runs/quickstart.yaml --watch\n";
  }
  std::vector<std::vector<std::string>> rows = {
      {"RUN", "NAME", "STATE", "STAGE", "STEP", "LOSS", "CREATED"}};
  for (const v1::Run& run : runs.runs()) {
    const v1::RunProgress& progress = run.progress();
    rows.push_back({run.run_id(), Printable(run.spec().name()),
                    Paint(StateName(run.state()), StateTone(run.state()), style),
                    Printable(progress.stage_name()),
                    absl::StrCat(progress.step(), "/", progress.steps_total()),
                    progress.step() > 0 ? absl::StrFormat("%.3f", progress.loss()) : "",
                    TimeText(run.create_time())});
  }
  return RenderTable(rows, style);
}

std::string RenderWorkers(const v1::ListWorkersResponse& workers, const Style& style) {
  if (workers.workers_size() == 0) {
    return "No workers attached. Start one: espalier-worker --coordinator HOST:PORT --data-root "
           "FOLDER\n";
  }
  std::vector<std::vector<std::string>> rows = {
      {"WORKER", "HOST", "LINK", "BACKEND", "THREADS", "RUN", "RANK", "HEARD"}};
  for (const v1::WorkerInfo& worker : workers.workers()) {
    const bool busy = !worker.run_id().empty();
    rows.push_back({Printable(worker.worker_id()), Printable(worker.host()),
                    Printable(worker.link_endpoint()), Printable(worker.backend()),
                    absl::StrCat(worker.threads()), busy ? worker.run_id() : "(idle)",
                    busy ? absl::StrCat(worker.rank()) : "", TimeText(worker.last_heard_time())});
  }
  return RenderTable(rows, style);
}

std::string RenderEvent(const v1::RunEvent& event, const Style& style) {
  const Tone tone = event.severity() == v1::EVENT_SEVERITY_ERROR     ? Tone::kRed
                    : event.severity() == v1::EVENT_SEVERITY_WARNING ? Tone::kYellow
                                                                     : Tone::kPlain;
  return absl::StrCat(
      Paint(absl::StrFormat("step %-6d", event.step()), Tone::kDim, style), " ",
      Paint(Printable(event.text().empty() ? event.name() : event.text()), tone, style));
}

std::string RenderFields(const std::vector<spec::FieldHelp>& fields, const Style& style) {
  std::string text;
  for (const spec::FieldHelp& field : fields) {
    absl::StrAppend(&text, Paint(field.path, Tone::kBold, style), "  ",
                    Paint(absl::StrCat(field.type, field.limits.empty() ? "" : ", ", field.limits,
                                       field.default_value.empty() ? "" : "; default ",
                                       field.default_value == "(required)" ? "none, required"
                                                                           : field.default_value),
                          Tone::kDim, style),
                    "\n    ", field.help, "\n");
  }
  return text;
}

}  // namespace espalier::cli

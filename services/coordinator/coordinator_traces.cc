// Traces: ranks' spans kept and served, the root of each step, and the trace of each decision.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "services/coordinator/coordinator.h"

namespace espalier::coordinator {

void Coordinator::HandleTrace(LiveRun* run, const v1::RankTrace& trace) {
  if (const absl::Status good = CheckTrace(trace, run->rank_count()); !good.ok()) {
    LOG_EVERY_N(WARNING, 100) << "trace_refused run=" << run->id() << " cause=" << good;
    return;
  }
  if (!ledger_->health().ok()) return;
  ledger_->PutTrace(run->id(), trace);
  for (const uint64_t step : run->traces.Keep(trace.step(), trace.ByteSizeLong()))
    ledger_->DropTrace(run->id(), step);
  ExportRoots(*run, run->traces.Join(trace, run->rank_count()));
}

void Coordinator::ExportRoots(const LiveRun& run, const std::vector<StepRootSpan>& roots) {
  if (options_.spans == nullptr || roots.empty()) return;
  std::vector<observe::Span> spans;
  for (const StepRootSpan& root : roots) spans.push_back(root.ToSpan(run.id(), run.rank_count()));
  options_.spans->Add(std::move(spans));
}

void Coordinator::TraceCommand(LiveRun* run, const v1::Command& command) {
  if (options_.spans == nullptr || command.decision_id().empty()) return;
  DecisionTimes::Command& times =
      run->decision_times[command.decision_id()].commands[command.sequence()];
  const auto* field = v1::Command::descriptor()->FindFieldByNumber(command.action_case());
  times.action = field == nullptr ? "unknown" : std::string(field->name());
  times.stored_nanos = absl::GetCurrentTimeNanos();
}

DecisionTimes::Command* Coordinator::TimesOf(LiveRun* run, const v1::Command& command) {
  const auto decision = run->decision_times.find(command.decision_id());
  if (decision == run->decision_times.end()) return nullptr;
  const auto found = decision->second.commands.find(command.sequence());
  return found == decision->second.commands.end() ? nullptr : &found->second;
}

void Coordinator::TraceAck(LiveRun* run, const v1::Command& command, const v1::CommandAck& ack) {
  DecisionTimes::Command* times = TimesOf(run, command);
  if (times == nullptr || ack.start_unix_nanos() == 0) return;
  times->epoch = run->record.run().epoch();
  times->applied_step = ack.step();
  times->applies.push_back({ack.rank(), static_cast<int64_t>(ack.start_unix_nanos()),
                            static_cast<int64_t>(ack.end_unix_nanos())});
}

void Coordinator::TraceApplied(LiveRun* run, const v1::Command& command) {
  if (DecisionTimes::Command* times = TimesOf(run, command))
    times->applied_nanos = absl::GetCurrentTimeNanos();
}

void Coordinator::TraceDecision(LiveRun* run, const v1::Decision& decision) {
  if (options_.spans == nullptr) return;
  auto times = run->decision_times.extract(decision.decision_id());
  options_.spans->Add(DecisionSpans(decision, times.empty() ? DecisionTimes{} : times.mapped(),
                                    absl::GetCurrentTimeNanos()));
}

void Coordinator::ListTraces(v1::ListTracesRequest request, Done<v1::ListTracesResponse> done) {
  OnReadPool<v1::ListTracesResponse>(
      request.run_id(), done,
      [this](LiveRun* run) -> std::function<absl::StatusOr<v1::ListTracesResponse>()> {
        return [this, id = run->id()]() -> absl::StatusOr<v1::ListTracesResponse> {
          ASSIGN_OR_RETURN(const auto steps, ledger_->TracedSteps(id));
          v1::ListTracesResponse response;
          for (const auto& [step, bytes] : steps) response.add_steps(step);
          return response;
        };
      });
}

void Coordinator::GetTrace(v1::GetTraceRequest request, Done<v1::GetTraceResponse> done) {
  OnReadPool<v1::GetTraceResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::GetTraceResponse>()> {
        return [this, request, id = run->id(),
                ranks = run->rank_count()]() -> absl::StatusOr<v1::GetTraceResponse> {
          ASSIGN_OR_RETURN(const auto traces, ledger_->ReadTrace(id, request.step()));
          v1::GetTraceResponse response;
          response.set_run_id(id);
          response.set_rank_count(ranks);
          uint64_t epoch = 0;
          for (const v1::RankTrace& trace : traces) epoch = std::max(epoch, trace.epoch());
          for (const v1::RankTrace& trace : traces) {
            if (trace.epoch() == epoch) *response.add_ranks() = trace;
          }
          if (response.ranks_size() > 0) return response;
          ASSIGN_OR_RETURN(const auto steps, ledger_->TracedSteps(id));
          return absl::NotFoundError(absl::StrCat(
              "step: run ", id, " keeps no trace of step ", request.step(), "; ",
              steps.empty()
                  ? "it has none yet (the coordinator's --trace-every)"
                  : absl::StrCat("kept are ",
                                 absl::StrJoin(steps, ", ", [](std::string* out, const auto& step) {
                                   absl::StrAppend(out, step.first);
                                 }))));
        };
      });
}

}  // namespace espalier::coordinator

// Coordinator: the slow loop. Runs, workers, commands and decisions, all on one thread, durable
// before they are spoken of.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "espalier/v1/fleet_service.pb.h"
#include "espalier/v1/history_service.pb.h"
#include "espalier/v1/plan_service.pb.h"
#include "espalier/v1/run_service.pb.h"
#include "services/coordinator/coordinator_metrics.h"
#include "services/coordinator/executor.h"
#include "services/coordinator/fleet.h"
#include "services/coordinator/ledger.h"
#include "services/coordinator/policy_client.h"
#include "services/coordinator/run.h"

namespace espalier::coordinator {

struct CoordinatorOptions {
  std::string data;     // directory of the ledger
  std::string backups;  // directory that backups go to; empty: beside `data`
  absl::Duration lease = absl::Seconds(10);
  // Newest steps of a run whose loads are kept at the finest resolution; sixteen times as many at
  // each coarser one. 0 keeps all.
  uint64_t retain_steps = 1'000'000;
  observe::Metrics* metrics = nullptr;  // counts into; must outlive the coordinator
  observe::SpanSink* spans = nullptr;   // gets roots of steps and traces of decisions; likewise
  uint64_t trace_every = 100;           // one step in so many is traced; 0: none
  absl::Status Validate() const;
};

// Thread-safe: every public method posts its work and returns; `done` is called once, on a thread
// of the coordinator's. Nothing is answered, sent or acknowledged before what it says is durable.
class Coordinator {
 public:
  // Recoveries in a row that reached no new step before the run is given up.
  static constexpr uint32_t kFruitlessRecoveriesMax = 5;
  static constexpr uint32_t kPageDefault = 50;
  static constexpr uint32_t kPageMax = 1000;
  static constexpr uint32_t kSeriesPointsDefault = 500;
  static constexpr uint32_t kSeriesPointsMax = 10000;
  static constexpr uint32_t kLoadRowsDefault = 512;
  // Cells (rows times experts, over all layers) of one GetLoads answer.
  static constexpr uint64_t kLoadCellsMax = 4 << 20;

  // Opens the ledger and takes up every run that had not ended.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(const CoordinatorOptions& options);
  // Likewise over a ledger that the caller opened.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(const CoordinatorOptions& options,
                                                            std::unique_ptr<Ledger> ledger);
  // Runs what is queued. Streams must have ended, or end later without effect.
  ~Coordinator();

  // OK, or why nothing can be written any more.
  absl::Status health() const { return ledger_->health(); }

  // `by`: who asks (rpc::CallerOf), for the events and decisions that tell of it.
  void SubmitRun(v1::SubmitRunRequest request, std::string by, Done<v1::SubmitRunResponse> done);
  void GetRun(v1::GetRunRequest request, Done<v1::GetRunResponse> done);
  void ListRuns(v1::ListRunsRequest request, Done<v1::ListRunsResponse> done);
  void PauseRun(v1::PauseRunRequest request, std::string by, Done<v1::PauseRunResponse> done);
  void ResumeRun(v1::ResumeRunRequest request, std::string by, Done<v1::ResumeRunResponse> done);
  void StopRun(v1::StopRunRequest request, std::string by, Done<v1::StopRunResponse> done);
  void ExportRun(v1::ExportRunRequest request, std::string by, Done<v1::ExportRunResponse> done);
  void ListWorkers(v1::ListWorkersRequest request, Done<v1::ListWorkersResponse> done);
  // `failed` hears why there is nothing to watch; else the watcher hears from now on.
  void WatchRun(v1::WatchRunRequest request, std::shared_ptr<RunWatcher> watcher,
                std::function<void(absl::Status)> failed);

  void ProposePlan(v1::ProposePlanRequest request, Done<v1::ProposePlanResponse> done);
  void ApplyPlan(v1::ApplyPlanRequest request, std::string by, Done<v1::ApplyPlanResponse> done);
  void ListDecisions(v1::ListDecisionsRequest request, Done<v1::ListDecisionsResponse> done);
  void ExplainDecision(v1::ExplainDecisionRequest request, Done<v1::ExplainDecisionResponse> done);
  void RejectDecision(v1::RejectDecisionRequest request, std::string by,
                      Done<v1::RejectDecisionResponse> done);
  void RollbackDecision(v1::RollbackDecisionRequest request, std::string by,
                        Done<v1::RollbackDecisionResponse> done);

  void GetLoads(v1::GetLoadsRequest request, Done<v1::GetLoadsResponse> done);
  void GetLayout(v1::GetLayoutRequest request, Done<v1::GetLayoutResponse> done);
  void ListEvents(v1::ListEventsRequest request, Done<v1::ListEventsResponse> done);
  void GetSeries(v1::GetSeriesRequest request, Done<v1::GetSeriesResponse> done);
  void ListGaps(v1::ListGapsRequest request, Done<v1::ListGapsResponse> done);
  void CreateBackup(v1::CreateBackupRequest request, Done<v1::CreateBackupResponse> done);
  void ListTraces(v1::ListTracesRequest request, Done<v1::ListTracesResponse> done);
  void GetTrace(v1::GetTraceRequest request, Done<v1::GetTraceResponse> done);

  // Another trainer's reports and acks; answered when they are durable.
  void ReportSteps(v1::ReportStepsRequest request, Done<v1::ReportStepsResponse> done);

  // A word came over `link`; the first must be Hello. Calls link->Processed() once it was handled.
  void Heard(std::shared_ptr<WorkerLink> link, std::shared_ptr<const v1::AttachRequest> word);
  // The stream of `link` is over: `clean` when the worker closed it itself.
  void Closed(std::shared_ptr<WorkerLink> link, bool clean);

 private:
  struct PlanQuestion;   // plan_question.h
  struct DecisionCause;  // plan_question.h
  struct PolicyTurn;     // plan_question.h

  Coordinator(const CoordinatorOptions& options, std::unique_ptr<Ledger> ledger);

  // coordinator.cc: start, batches, events.
  absl::Status Load();
  absl::Status LoadLive(LiveRun* run);
  void RestartPilot(LiveRun* run);
  void AfterBatch();
  void Tick();
  void CountAll(absl::Time now);
  void Touch(LiveRun* run, bool record_changed);
  void Notify(LiveRun* run);
  void AddEvent(LiveRun* run, v1::RunEvent event);
  void AddEvent(LiveRun* run, v1::EventSeverity severity, const std::string& name,
                const std::string& text, const std::map<std::string, std::string>& fields = {});
  // An event that says who asked for something.
  void NoteRequest(LiveRun* run, const std::string& by, const std::string& action);
  absl::Status Writable() const;
  absl::StatusOr<LiveRun*> FindRun(const std::string& reference);
  // Runs `work` on the executor, or answers `done` that too much is waiting.
  template <typename Response>
  void OnExecutor(const Done<Response>& done, std::function<void()> work) {
    if (executor_.TryPost(std::move(work))) return;
    done(
        absl::UnavailableError("the coordinator has too many requests waiting; retry in a moment"));
  }
  // Finds the run on the executor, then runs `read` on the read pool.
  template <typename Response>
  void OnReadPool(const std::string& reference, Done<Response> done,
                  std::function<std::function<absl::StatusOr<Response>()>(LiveRun*)> prepare) {
    OnExecutor<Response>(done, [this, reference, done, prepare] {
      const absl::StatusOr<LiveRun*> run = FindRun(reference);
      if (!run.ok()) return done(run.status());
      auto read = prepare(*run);
      if (pool_.TryPost([done, read] { done(read()); })) return;
      done(absl::UnavailableError("the coordinator has too many reads waiting; retry in a moment"));
    });
  }

  // coordinator_runs.cc: life of a run.
  void DoSubmit(const v1::SubmitRunRequest& request, const std::string& by, const Done<v1::SubmitRunResponse>& done);
  absl::Status CheckTrainedHere(const LiveRun& run, const char* verb) const;
  absl::Status CheckCommandable(const LiveRun& run, const char* verb) const;
  uint64_t AddCommand(LiveRun* run, v1::Command command);
  void SendCommand(const std::string& run_id, const v1::Command& command);
  void AssignWaiting();
  void Assign(LiveRun* run, const std::vector<Worker*>& workers);
  void SendAssignments(const std::string& run_id, uint64_t epoch);
  void ReleaseMembers(LiveRun* run, uint64_t epoch, const std::string& reason);
  void Interrupt(LiveRun* run, const std::string& cause);
  void End(LiveRun* run, v1::RunState state, const std::string& detail);
  std::string NewRunId();
  std::string NewLinkKey();

  // coordinator_words.cc: what workers say.
  void HandleWord(const std::shared_ptr<WorkerLink>& link, const v1::AttachRequest& word,
                  absl::Time received);
  void HandleHello(const std::shared_ptr<WorkerLink>& link, const v1::Hello& hello,
                   absl::Time received);
  void HandleClosed(const std::shared_ptr<WorkerLink>& link, bool clean);
  LiveRun* RunOf(Worker* worker, const std::string& run_id, uint64_t epoch, uint32_t rank);
  void HandleReport(LiveRun* run, Worker* worker, const v1::StepReport& report);
  absl::Status TakeReport(LiveRun* run, const v1::StepReport& report);
  void HandleStep(LiveRun* run, const CompleteStep& step);
  void HandleEvent(LiveRun* run, const v1::RunEvent& event);
  void HandleEnd(LiveRun* run, Worker* worker, const v1::AssignmentEnd& end);
  void HandleAck(LiveRun* run, const v1::CommandAck& ack);
  void CommandFailed(LiveRun* run, OpenCommand* open, const v1::CommandAck& ack);
  void CommandApplied(LiveRun* run, uint64_t sequence);
  void LoseWorker(Worker* worker, const std::string& cause);
  void StepsDurable(LiveRun* run);

  // coordinator_traces.cc: spans of ranks, steps and decisions.
  void HandleTrace(LiveRun* run, const v1::RankTrace& trace);
  void ExportRoots(const LiveRun& run, const std::vector<StepRootSpan>& roots);
  void TraceCommand(LiveRun* run, const v1::Command& command);
  void TraceAck(LiveRun* run, const v1::Command& command, const v1::CommandAck& ack);
  void TraceApplied(LiveRun* run, const v1::Command& command);
  // `decision` is over: its trace is sent.
  void TraceDecision(LiveRun* run, const v1::Decision& decision);
  static DecisionTimes::Command* TimesOf(LiveRun* run, const v1::Command& command);

  // coordinator_plans.cc: decisions.
  void LayoutApplied(LiveRun* run, const OpenCommand& open);
  void VerifyDecisions(LiveRun* run, bool stage_over);
  PlanQuestion AskPlan(const LiveRun& run, uint32_t window_steps) const;
  // Reads the window's loads into the question.
  absl::Status ReadWindow(PlanQuestion* question) const;
  absl::StatusOr<v1::Plan> AnswerPlan(PlanQuestion question) const;
  absl::StatusOr<PlanQuestion> QuestionFor(LiveRun* run, const v1::PlanOptions& options) const;
  // Writes a decision down, and commands it or lets it wait for approval.
  v1::Decision Decide(LiveRun* run, v1::Plan plan, const v1::PrunePolicy& policy,
                      const DecisionCause& cause);
  void CommandDecision(LiveRun* run, v1::Decision* decision);
  void FinishApply(const PlanQuestion& question, const std::string& request_id,
                   const std::string& by, v1::Plan plan,
                   const Done<v1::ApplyPlanResponse>& done);

  // coordinator_policy.cc: when the policy plans, and who plans for it.
  void ConsiderPolicy(LiveRun* run);
  void PlanBuiltin(LiveRun* run, const Intent& intent);
  void TakeBuiltin(LiveRun* run, const Intent& intent, v1::Plan plan, absl::Time asked);
  // Asks the run's PolicyService; `intent` is what the built-in policy wants at this step.
  void AskService(LiveRun* run, const std::optional<Intent>& intent);
  void ServiceAnswered(const PolicyTurn& turn, const grpc::Status& status,
                       const v1::DecidePlanResponse& answer);

  // coordinator_approval.cc: decisions that wait for somebody's word.
  void ApproveDecision(LiveRun* run, const v1::ApplyPlanRequest& request, const std::string& by,
                       const Done<v1::ApplyPlanResponse>& done);
  // Those that wait lapse, and `why` is kept with them.
  void LapseWaiting(LiveRun* run, const std::string& why);
  void LapseLate(LiveRun* run);

  // coordinator_external.cc: runs of another trainer.
  void DoReport(v1::ReportStepsRequest* request, const Done<v1::ReportStepsResponse>& done);
  void AnswerReport(const std::string& run_id, const Done<v1::ReportStepsResponse>& done);
  void StartExternal(LiveRun* run);

  // coordinator_guard.cc: prunes that are watched, and decisions taken back.
  void CommandFirst(LiveRun* run, v1::Decision* decision);
  void CommandLayout(LiveRun* run, v1::Decision* decision);
  void CheckpointPinned(LiveRun* run, const OpenCommand& open);
  void HeldoutMeasured(LiveRun* run, const OpenCommand& open);
  void WatchDecisions(LiveRun* run);
  void Judge(LiveRun* run, v1::Decision* decision);
  void Drop(LiveRun* run, v1::Decision* decision);
  absl::Status RollBack(LiveRun* run, v1::Decision* decision, const std::string& reason);
  void RollBackOrFail(LiveRun* run, v1::Decision* decision, const std::string& reason);
  void GoBackToGuard(LiveRun* run, v1::Decision* decision);
  absl::StatusOr<v1::ExpertLayout> LayoutBefore(const LiveRun& run,
                                                const v1::Decision& decision) const;
  void DecisionFailed(LiveRun* run, v1::Decision* decision, const OpenCommand& open,
                      const std::string& error);
  void DecisionRolledBack(LiveRun* run, v1::Decision* decision);
  // Writes it, and counts it when its state is new.
  void SaveDecision(LiveRun* run, const v1::Decision& decision);
  void ExpireLoads(LiveRun* run);

  const CoordinatorOptions options_;
  const std::unique_ptr<Ledger> ledger_;
  // All below belongs to the executor's thread.
  std::map<std::string, std::unique_ptr<LiveRun>> runs_;  // by id
  std::map<std::string, std::string> requests_;           // submit request id -> run id
  CoordinatorMetrics metrics_;
  absl::Time counted_at_;  // when the gauges of the whole process were last set
  std::vector<std::string> touched_;
  std::set<std::string> new_steps_;
  Fleet fleet_;
  bool assign_wanted_ = false;
  std::mt19937_64 random_;
  ReadPool pool_;
  PolicyClient policies_;
  // Last: its thread uses all above, and ends first.
  Executor executor_;
};

}  // namespace espalier::coordinator

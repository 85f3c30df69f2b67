// Ledger: what the coordinator must not lose, as typed reads and batched writes over
// history::Store.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "espalier/v1/history_service.pb.h"
#include "espalier/v1/plan_service.pb.h"
#include "libs/history/store.h"
#include "services/coordinator/records.pb.h"

namespace espalier::coordinator {

// Writes gather until Flush and become durable together; they and Flush belong to the executor's
// thread. Reads are thread-safe and see what was flushed.
class Ledger {
 public:
  // Called once after the flush that made the writes before it durable, or that failed to.
  using AfterFlush = std::function<void(const absl::Status&)>;

  static absl::StatusOr<std::unique_ptr<Ledger>> Open(const std::string& directory);
  // Takes any store: tests wrap one that fails.
  explicit Ledger(std::unique_ptr<history::Store> store);

  void PutRun(const RunRecord& record);
  void PutRequest(const std::string& scope, const std::string& request_id, const std::string& id);
  void PutCommand(const std::string& run_id, const v1::Command& command);
  void PutDecision(const v1::Decision& decision);
  void PutEvent(uint64_t number, const v1::RunEvent& event);
  void PutPoint(const std::string& run_id, const v1::SeriesPoint& point);
  // Under NormsOf(run_id), output norms are kept like loads.
  void PutLoads(const std::string& run_id, std::vector<history::LoadRow> rows);
  static std::string NormsOf(const std::string& run_id) { return run_id + "/norms"; }
  // Forgets rows and points after `step`; flushed together with the rest.
  void TruncateAfter(const std::string& run_id, uint64_t step);
  // One rank's spans of a step; those of another epoch are replaced.
  void PutTrace(const std::string& run_id, const v1::RankTrace& trace);
  // All ranks' of a step.
  void DropTrace(const std::string& run_id, uint64_t step);
  void Then(AfterFlush after) { after_.push_back(std::move(after)); }

  bool HasWork() const {
    return !writes_.empty() || !loads_.empty() || !truncate_.empty() || !after_.empty();
  }
  // Loads first, then the rest in one commit, then the callbacks (which may write again:
  // HasWork()).
  absl::Status Flush();

  absl::StatusOr<std::vector<RunRecord>> ReadRuns() const;
  absl::StatusOr<std::string> FindRequest(const std::string& scope,
                                          const std::string& request_id) const;
  // Commands with first <= sequence, in order. Sequence 0 holds the layout that the run began with.
  absl::StatusOr<std::vector<v1::Command>> ReadCommands(const std::string& run_id,
                                                        uint64_t first) const;
  absl::StatusOr<v1::Command> ReadCommand(const std::string& run_id, uint64_t sequence) const;
  absl::StatusOr<v1::Decision> ReadDecision(const std::string& run_id, const std::string& id) const;
  // Newest first, those older than `before` (all when empty), at most `limit`.
  absl::StatusOr<std::vector<v1::Decision>> ReadDecisions(const std::string& run_id,
                                                          const std::string& before,
                                                          size_t limit) const;
  // Oldest first, from event number `first`; `next` is the number after the last one visited.
  absl::StatusOr<std::vector<v1::RunEvent>> ReadEvents(const std::string& run_id, uint64_t first,
                                                       size_t limit, uint64_t* next) const;
  // Number of the next event to be written.
  absl::StatusOr<uint64_t> NextEvent(const std::string& run_id) const;
  absl::Status ScanPoints(const std::string& run_id, uint64_t first, uint64_t last,
                          const std::function<void(const v1::SeriesPoint&)>& visit) const;
  absl::StatusOr<std::vector<history::LoadBlock>> ReadLoads(const std::string& run_id,
                                                            uint32_t layer, uint64_t first,
                                                            uint64_t last,
                                                            uint32_t resolution) const;
  absl::StatusOr<history::LoadMatrix> ReadMatrix(const std::string& run_id, uint32_t layer,
                                                 uint64_t first, uint64_t last,
                                                 uint32_t resolution) const;
  absl::StatusOr<std::vector<v1::RankTrace>> ReadTrace(const std::string& run_id,
                                                       uint64_t step) const;
  // Steps with traces, and their bytes.
  absl::StatusOr<std::map<uint64_t, uint64_t>> TracedSteps(const std::string& run_id) const;
  absl::Status health() const { return store_->health(); }
  // Sizes of the store by name, for metrics.
  std::map<std::string, double> StoreBytes() const { return store_->Bytes(); }

  // Lets loads expire at each resolution but for the newest `retain_steps` times 1, 16, 256 and
  // 4096 steps before `newest`. Thread-safe.
  // Nothing after `limit` goes.
  absl::Status Expire(const std::string& run_id, uint64_t newest, uint64_t retain_steps,
                      uint64_t limit);
  // First step that each of LoadHistory::kResolutions still holds; 0 where nothing has expired.
  absl::StatusOr<std::vector<uint64_t>> FirstKept(const std::string& run_id) const;
  // A copy of what was flushed, at `directory`; see history::Store::Backup. Thread-safe.
  absl::Status Backup(const std::string& directory) const { return store_->Backup(directory); }

 private:
  // Each append waits for a sync; those that wait at the same time share one.
  static constexpr size_t kAppendersMax = 16;
  absl::Status AppendAll(const std::map<std::string, std::vector<history::LoadRow>>& loads);

  std::unique_ptr<history::Store> store_;
  std::unique_ptr<history::LoadHistory> history_;
  std::vector<history::Store::Write> writes_;
  std::map<std::string, std::vector<history::LoadRow>> loads_;
  std::map<std::string, uint64_t> truncate_;
  std::vector<AfterFlush> after_;
};

}  // namespace espalier::coordinator

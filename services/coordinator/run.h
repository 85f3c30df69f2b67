// LiveRun: everything the coordinator knows of one run, and who waits for news of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "espalier/v1/fleet_service.pb.h"
#include "espalier/v1/plan_service.pb.h"
#include "espalier/v1/run_service.pb.h"
#include "libs/planner/guard.h"
#include "services/coordinator/load_book.h"
#include "services/coordinator/pilot.h"
#include "services/coordinator/records.pb.h"
#include "services/coordinator/summary.h"
#include "services/coordinator/trace_shelf.h"

namespace espalier::coordinator {

template <typename Response>
using Done = std::function<void(absl::StatusOr<Response>)>;

// Someone who watches a run. Thread-safe.
class RunWatcher {
 public:
  virtual ~RunWatcher() = default;
  // The run changed; `ended` says that this is the last word. False when nobody listens any more.
  virtual bool Notify(const v1::Run& run, const std::vector<v1::RunEvent>& events, bool ended) = 0;
};

// A command that not every rank has acknowledged yet. Of an external run, one that its trainer has
// not.
struct OpenCommand {
  v1::Command command;
  uint64_t epoch = 0;  // in which the acks below were given
  std::set<uint32_t> acked;
  std::string path;
  uint64_t bytes_moved = 0;
  uint64_t rank_bytes_max = 0;  // most that one rank sent
  double pause_seconds = 0;     // longest that a rank stood still
  std::optional<double> heldout_loss_before, heldout_loss_after;
  bool failed = false;
};

struct ExportWaiter {
  uint64_t sequence = 0;
  Done<v1::ExportRunResponse> done;
};

// Belongs to the executor's thread.
struct LiveRun {
  explicit LiveRun(RunRecord r);

  const std::string& id() const { return record.run().run_id(); }
  uint32_t rank_count() const { return record.run().spec().workers().count(); }
  bool ended() const;
  // Another trainer's: nobody is assigned, commands are advice.
  bool external() const { return record.run().spec().kind() == v1::RUN_KIND_EXTERNAL; }
  // Ranks are assigned: the run has members in its current epoch.
  bool manned() const { return !ended() && record.members_size() > 0; }
  // The decision that must come to its end before another is made; null when there is none.
  const v1::Decision* pending_decision() const;
  // The one that waits for approval, of which there is at most one; else null.
  v1::Decision* waiting_decision();
  // Last step of the stage that `step` belongs to; far away where nobody knows.
  uint64_t stage_end(uint64_t step) const;
  // Newest step that reads may ask for.
  uint64_t newest_step() const { return ended() ? record.run().progress().step() : durable_step; }
  // Takes a point of the series into the figures and the progress.
  void Record(const v1::SeriesPoint& point, double experts_seconds);
  // Forgets what came after `step`.
  void GoBack(uint64_t step);

  RunRecord record;
  uint64_t next_sequence = 1;
  uint64_t next_event = 1;
  uint64_t durable_step = 0;
  LoadBook book;
  Pilot pilot;
  FigureBook figures;
  v1::RunProgress progress;
  v1::ExpertLayout
      layout;  // in effect after the newest applied set_layout; empty before the first step
  std::map<uint64_t, OpenCommand> open_commands;       // by sequence
  std::map<std::string, v1::Decision> open_decisions;  // those that more will be said about
  std::map<std::string, v1::DecisionState> counted;    // state of an open decision as last counted
  TraceShelf traces;
  std::map<std::string, DecisionTimes> decision_times;  // of open decisions, where spans are sent
  std::optional<absl::Time> forget_at;                  // when its metrics go
  std::vector<planner::LossPoint> heldout;              // of pretraining, newest kHeldoutPointsMax
  absl::Time reattach_deadline = absl::InfiniteFuture();  // set after a restart of the coordinator
  std::vector<std::string> former;                        // worker ids by rank of the epoch before
  std::optional<double> pretrain_heldout;                 // newest held-out loss of pretraining
  uint64_t lost_steps = 0;                                // of the book, as far as an event told
  uint64_t expired_at = 0;                 // step at which old loads were last expired
  std::string skipped_reason;              // why the policy made no plan, as last said
  bool policy_asked = false;               // its PolicyService is thinking
  absl::Time policy_retry_at = absl::InfinitePast();  // it failed: not asked before
  bool dirty = false;                      // the record must be written
  bool touched = false;                    // watchers must hear
  std::vector<v1::RunEvent> fresh_events;  // since the last notification, at most kFreshEventsMax
  std::vector<std::shared_ptr<RunWatcher>> watchers;
  std::vector<ExportWaiter> export_waiters;
};

constexpr size_t kFreshEventsMax = 256;
constexpr size_t kHeldoutPointsMax = 1024;

bool IsEnded(v1::RunState state);
// A decision that more will be said about.
bool IsOpen(v1::DecisionState state);
const char* StateWord(v1::RunState state);
// The run as clients see it now.
v1::Run Snapshot(const LiveRun& run, absl::Time now);

}  // namespace espalier::coordinator

// Group: the ranks of one simulated run: their steps, the commands that they agree on, their
// checkpoints.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "espalier/v1/fleet_service.pb.h"
#include "services/fleetsim/layout.h"

namespace espalier::fleetsim {

struct GroupOptions {
  std::string run_id;
  uint32_t ranks = 1;
  uint32_t layers = 1;
  uint32_t experts = 1;
  uint32_t top_k = 1;
  uint64_t expert_bytes = 1;
  uint64_t steps = 1;             // the run is complete after these
  uint64_t checkpoint_every = 0;  // 0: by command only
  uint64_t checkpoints_kept = 2;  // newest; pinned ones are kept beside
};

// What all ranks did after one step, each for itself, with the same outcome.
struct Applied {
  v1::Command command;
  uint64_t step = 0;
  std::string error;                 // nothing changed
  std::vector<uint64_t> bytes_sent;  // by rank
  bool measured = false;             // held-out loss before and after
  std::string path;                  // of a checkpoint or an export
};

struct Progress {
  bool stepped = false;
  std::vector<Applied> applied;
  std::string checkpoint;  // written by the schedule after this step
  bool stopped = false;    // by command
  bool completed = false;
};

// Not thread-safe; no clock and no network: the caller says when a step is done and when a rank has
// heard something. As in a training, a step needs every rank of the epoch, and a command takes
// effect after the first step at which every rank holds it and all before it.
class Group {
 public:
  explicit Group(const GroupOptions& options);

  // A rank enters an epoch; the first one of a newer epoch takes the group back to the checkpoint
  // named. An error ends the run: no such checkpoint.
  absl::Status Enter(const v1::Assignment& assignment);
  // The rank has left (released, lost): the epoch takes no more steps.
  void Leave(uint64_t epoch, uint32_t rank);
  void Receive(uint64_t epoch, uint32_t rank, const v1::Command& command);
  // Every rank of the epoch is here.
  bool whole() const { return !broken_ && present_.size() == options_.ranks; }
  bool paused() const { return state_.paused; }
  bool over() const { return over_; }
  // Takes a step (none while paused) and carries out what is agreed after it. Requires whole().
  Progress Advance();

  const GroupOptions& options() const { return options_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t step() const { return state_.step; }
  uint64_t last_applied_sequence() const { return state_.sequence; }
  const std::set<uint32_t>& present() const { return present_; }
  // What held during `step`, as far as the group has come.
  std::shared_ptr<const Layout> LayoutAt(uint64_t step) const;

 private:
  // What a checkpoint holds.
  struct State {
    uint64_t step = 0;
    uint64_t sequence = 0;
    bool paused = false;
    std::shared_ptr<const Layout> layout;
  };
  struct Checkpoint {
    State state;
    bool pinned = false;
  };
  uint64_t Agreed() const;
  void ApplyAgreed(Progress* progress);
  Applied ApplyOne(const v1::Command& command);
  std::string WriteCheckpoint(bool pinned);

  const GroupOptions options_;
  uint64_t epoch_ = 0;
  bool broken_ = true;
  bool over_ = false;
  std::set<uint32_t> present_;
  std::map<uint64_t, v1::Command> commands_;  // by sequence, as any rank received them
  std::vector<uint64_t> contiguous_;          // by rank
  std::vector<std::set<uint64_t>> ahead_;     // by rank: received beyond a gap
  State state_;
  std::map<uint64_t, std::shared_ptr<const Layout>> layouts_;  // by the step they follow
  std::map<std::string, Checkpoint> checkpoints_;
};

}  // namespace espalier::fleetsim

// Group: agreement by minimum, replay of what was applied before a recovery, checkpoints.
#include "services/fleetsim/group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"

namespace espalier::fleetsim {

Group::Group(const GroupOptions& options) : options_(options) {
  state_.layout = InitialLayout(options_.layers, options_.experts, options_.ranks);
  layouts_[0] = state_.layout;
}

absl::Status Group::Enter(const v1::Assignment& assignment) {
  if (assignment.epoch() < epoch_) return absl::OkStatus();
  if (assignment.epoch() > epoch_) {
    State state;
    if (assignment.checkpoint().empty()) {
      state.layout = layouts_.at(0);
    } else if (const auto known = checkpoints_.find(assignment.checkpoint());
               known != checkpoints_.end()) {
      state = known->second.state;
    } else {
      return absl::NotFoundError(
          absl::StrCat("checkpoint ", assignment.checkpoint(), " is not of this run"));
    }
    epoch_ = assignment.epoch();
    state_ = std::move(state);
    layouts_.erase(layouts_.upper_bound(state_.step), layouts_.end());
    present_.clear();
    broken_ = over_ = false;
    commands_.clear();
    contiguous_.assign(options_.ranks, 0);
    ahead_.assign(options_.ranks, {});
  }
  CHECK_LT(assignment.rank(), options_.ranks);
  present_.insert(assignment.rank());
  for (const v1::Command& command : assignment.commands())
    Receive(epoch_, assignment.rank(), command);
  return absl::OkStatus();
}

void Group::Leave(uint64_t epoch, uint32_t rank) {
  if (epoch != epoch_) return;
  present_.erase(rank);
  broken_ = true;
}

void Group::Receive(uint64_t epoch, uint32_t rank, const v1::Command& command) {
  if (epoch != epoch_) return;
  commands_.emplace(command.sequence(), command);
  if (command.sequence() <= contiguous_[rank]) return;
  ahead_[rank].insert(command.sequence());
  while (ahead_[rank].erase(contiguous_[rank] + 1) > 0) ++contiguous_[rank];
}

uint64_t Group::Agreed() const { return *std::min_element(contiguous_.begin(), contiguous_.end()); }

Progress Group::Advance() {
  CHECK(whole()) << "run " << options_.run_id << " epoch " << epoch_;
  Progress progress;
  if (over_) return progress;
  // What was applied before the checkpoint's next step is applied before that step again.
  ApplyAgreed(&progress);
  if (!progress.stopped && !state_.paused) {
    ++state_.step;
    progress.stepped = true;
    ApplyAgreed(&progress);
    if (options_.checkpoint_every > 0 && state_.step % options_.checkpoint_every == 0)
      progress.checkpoint = WriteCheckpoint(false);
    progress.completed = !progress.stopped && state_.step >= options_.steps;
  }
  over_ = progress.stopped || progress.completed;
  return progress;
}

void Group::ApplyAgreed(Progress* progress) {
  const uint64_t agreed = Agreed();
  while (state_.sequence < agreed && !progress->stopped) {
    const v1::Command& command = commands_.at(state_.sequence + 1);
    // A replay waits for the step that the others of its time applied it after.
    if (!state_.paused && command.has_applied_step() && command.applied_step() > state_.step)
      return;
    ++state_.sequence;
    progress->applied.push_back(ApplyOne(command));
    progress->stopped = command.has_stop();
  }
}

Applied Group::ApplyOne(const v1::Command& command) {
  Applied applied;
  applied.command = command;
  applied.step = state_.step;
  applied.bytes_sent.assign(options_.ranks, 0);
  switch (command.action_case()) {
    case v1::Command::kSetLayout: {
      auto change = Apply(*state_.layout, command.set_layout(), options_.top_k);
      if (!change.ok()) {
        applied.error = std::string(change.status().message());
        break;
      }
      state_.layout = change->layout;
      layouts_[state_.step] = change->layout;
      applied.measured = change->choice_differs;
      for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        applied.bytes_sent[rank] = change->experts_sent[rank] * options_.expert_bytes;
      break;
    }
    case v1::Command::kCheckpoint:
      if (command.checkpoint().unpin().empty()) {
        applied.path = WriteCheckpoint(command.checkpoint().pin());
      } else if (checkpoints_.erase(command.checkpoint().unpin()) == 0) {
        applied.error = absl::StrCat("checkpoint.unpin: ", command.checkpoint().unpin(),
                                     " is not a checkpoint of this run");
      }
      break;
    case v1::Command::kStop:
      applied.path = WriteCheckpoint(false);
      break;
    case v1::Command::kPause:
      state_.paused = true;
      break;
    case v1::Command::kResume:
      state_.paused = false;
      break;
    case v1::Command::kExport:
      applied.path = absl::StrCat("sim/", options_.run_id, "/export-", state_.step);
      break;
    case v1::Command::kEvaluate:
      applied.measured = true;
      break;
    case v1::Command::kRevoked:
      break;
    case v1::Command::ACTION_NOT_SET:
      applied.error = absl::StrCat("command ", command.sequence(), " has no action known here");
      break;
  }
  return applied;
}

std::string Group::WriteCheckpoint(bool pinned) {
  const std::string path =
      absl::StrCat("sim/", options_.run_id, pinned ? "/pinned-" : "/step-",
                   absl::Dec(state_.step, absl::kZeroPad10), "-", state_.sequence);
  checkpoints_[path] = {state_, pinned};
  uint64_t newer = 0;
  for (auto it = checkpoints_.end(); it != checkpoints_.begin();) {
    --it;
    if (!it->second.pinned && ++newer > options_.checkpoints_kept) it = checkpoints_.erase(it);
  }
  return path;
}

std::shared_ptr<const Layout> Group::LayoutAt(uint64_t step) const {
  CHECK_GT(step, 0);
  return std::prev(layouts_.upper_bound(step - 1))->second;
}

}  // namespace espalier::fleetsim

// A step may be saved twice with different contents (a command came after it): the newer takes a
// name of its own, so that at every moment the older one is there until the newer is complete.
// Ranks may see the same folder under different paths: rank 0 decides, and names travel, not paths.
#include "libs/train/checkpointer.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/train/exchange.h"
#include "nlohmann/json.hpp"

namespace espalier::train {
namespace {

namespace fs = std::filesystem;

absl::Status MakeFolder(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot create ", directory, ": ", error.message(),
                   "; set checkpoints.directory or --data-root to a writable folder"));
}

}  // namespace

std::string RunDirectory(const RunState& state) {
  const std::string& directory = state.spec.checkpoints().directory();
  const std::string runs =
      ResolvePath(state.options.data_root, directory.empty() ? "runs" : directory);
  return (fs::path(runs) / state.assignment.run_id()).string();
}

std::string ProgressToJson(const Progress& progress) {
  nlohmann::json json;
  json["stage_index"] = progress.stage_index;
  json["step_in_stage"] = progress.step_in_stage;
  json["updates"] = progress.updates;
  json["skipped_steps"] = progress.skipped_steps;
  return json.dump();
}

absl::Status ProgressFromJson(const std::string& text, Progress* progress) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  for (const char* key : {"stage_index", "step_in_stage", "updates", "skipped_steps"}) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_number_unsigned()) {
      return absl::DataLossError(
          absl::StrCat("the checkpoint's trainer state has no number '", key, "': ", text));
    }
  }
  progress->stage_index = json["stage_index"].get<uint32_t>();
  progress->step_in_stage = json["step_in_stage"].get<uint64_t>();
  progress->updates = json["updates"].get<uint64_t>();
  progress->skipped_steps = json["skipped_steps"].get<uint64_t>();
  return absl::OkStatus();
}

std::string Checkpointer::Directory() const {
  return (fs::path(RunDirectory(state_)) / "checkpoints").string();
}

bool Checkpointer::IsOwn(const std::string& path) const {
  return model::IsCheckpointPath(Directory(), path);
}

void Checkpointer::NotePresent(const std::string& path) {
  present_ = {path, absl::StrCat(state_.progress.step, "/", ProgressToJson(state_.progress)),
              state_.progress.last_applied_sequence, state_.model->layout()};
}

void Checkpointer::NoteLoaded(const std::string& path) {
  NotePresent(path);
  went_back_ = IsOwn(path);
}

bool Checkpointer::Holds(CheckpointKeep keep) const {
  if (present_.path.empty() || !(present_.layout == state_.model->layout()) ||
      present_.progress !=
          absl::StrCat(state_.progress.step, "/", ProgressToJson(state_.progress))) {
    return false;
  }
  // Commands that it lacks are repeated by who resumes from it; a stop must not be.
  return keep == CheckpointKeep::kPinned
             ? IsOwn(present_.path)
             : present_.last_applied_sequence == state_.progress.last_applied_sequence;
}

absl::StatusOr<std::string> Checkpointer::Write(CheckpointKeep keep) {
  std::string name;  // of the folder to write; empty when nothing need be written
  absl::Status prepared;
  if (state_.root() && !Holds(keep)) prepared = Prepare(&name);
  RETURN_IF_ERROR(AgreeStatus(state_.communicator, prepared));
  RETURN_IF_ERROR(state_.communicator.Broadcast(0, &name));
  const bool written = !name.empty();
  if (written) RETURN_IF_ERROR(WriteNew((fs::path(Directory()) / name).string()));
  if (keep == CheckpointKeep::kPinned) {
    // Before the rotation, which would else be free to take it.
    const absl::Status pinned =
        state_.root() ? model::PinCheckpoint(present_.path) : absl::OkStatus();
    RETURN_IF_ERROR(AgreeStatus(state_.communicator, pinned));
  }
  if (!written) return present_.path;
  RETURN_IF_ERROR(Rotate());
  SendEvent(
      state_, v1::EVENT_SEVERITY_INFO, "checkpoint_written",
      absl::StrCat("Checkpoint of step ", state_.progress.step, " written to ", present_.path),
      {{"path", present_.path}, {"step", absl::StrCat(state_.progress.step)}});
  return present_.path;
}

absl::Status Checkpointer::Unpin(const std::string& path) {
  absl::Status unpinned;
  if (state_.root()) {
    unpinned =
        IsOwn(path)
            ? model::UnpinCheckpoint((fs::path(Directory()) / fs::path(path).filename()).string())
            : absl::InvalidArgumentError(
                  absl::StrCat("checkpoint.unpin: ", path,
                               " is not a checkpoint of this run; name one in ", Directory()));
  }
  RETURN_IF_ERROR(AgreeStatus(state_.communicator, unpinned));
  return Rotate();
}

absl::Status Checkpointer::Rotate() {
  absl::Status pruned;
  if (state_.root()) {
    // What the run stands on is never counted out by checkpoints of a course that it has left.
    pruned =
        model::PruneCheckpoints(Directory(), static_cast<int>(state_.spec.checkpoints().keep()),
                                IsOwn(present_.path) ? present_.path : "");
  }
  return AgreeStatus(state_.communicator, pruned);
}

absl::Status Checkpointer::Prepare(std::string* name) {
  RETURN_IF_ERROR(MakeFolder(Directory()));
  if (went_back_) RETURN_IF_ERROR(model::RemoveNewerCheckpoints(Directory(), present_.path));
  *name = fs::path(model::NextCheckpointPath(Directory(), state_.progress.step)).filename();
  return absl::OkStatus();
}

absl::Status Checkpointer::WriteNew(const std::string& path) {
  went_back_ = false;
  model::CheckpointState checkpoint;
  checkpoint.config = state_.model->config();
  checkpoint.layout = state_.model->layout();
  checkpoint.step = state_.progress.step;
  checkpoint.last_applied_sequence = state_.progress.last_applied_sequence;
  checkpoint.tokenizer_json = state_.data.tokenizer_json;
  checkpoint.trainer_json = ProgressToJson(state_.progress);
  const absl::Status written = model::WriteCheckpoint(*state_.model, checkpoint, path);
  if (!written.ok()) return IsLinkError(written) ? written : MarkAgreed(written);
  NotePresent(path);
  return absl::OkStatus();
}

absl::Status Checkpointer::WriteOrReport() {
  const absl::Status status = Write(CheckpointKeep::kInRotation).status();
  if (status.ok() || IsLinkError(status)) return status;
  SendEvent(state_, v1::EVENT_SEVERITY_ERROR, "checkpoint_failed",
            absl::StrCat("Checkpoint of step ", state_.progress.step, " was not written: ",
                         status.message(), ". Training goes on; older checkpoints are kept."),
            {{"step", absl::StrCat(state_.progress.step)}});
  return absl::OkStatus();
}

}  // namespace espalier::train

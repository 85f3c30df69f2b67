// A step may be saved twice with different contents (a command came after it): the newer takes the
// name, and the older one keeps existing under another until the newer is complete.
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

absl::Status Rename(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot rename ", from, " to ", to, ": ", error.message()));
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

std::string Checkpointer::Fingerprint() const {
  return absl::StrCat(state_.progress.step, "/", state_.progress.last_applied_sequence, "/",
                      ProgressToJson(state_.progress));
}

void Checkpointer::NoteLoaded(const std::string& path) {
  written_path_ = path;
  written_fingerprint_ = Fingerprint();
}

absl::StatusOr<std::string> Checkpointer::Write() {
  if (!written_path_.empty() && written_fingerprint_ == Fingerprint()) return written_path_;
  const fs::path directory = fs::path(RunDirectory(state_)) / "checkpoints";
  const std::string path = (directory / model::CheckpointName(state_.progress.step)).string();
  RETURN_IF_ERROR(WriteAside(path));
  written_path_ = path;
  written_fingerprint_ = Fingerprint();
  absl::Status pruned;
  if (state_.root()) {
    pruned = model::PruneCheckpoints(directory.string(),
                                     static_cast<int>(state_.spec.checkpoints().keep()));
  }
  RETURN_IF_ERROR(AgreeStatus(state_.communicator, pruned));
  SendEvent(state_, v1::EVENT_SEVERITY_INFO, "checkpoint_written",
            absl::StrCat("Checkpoint of step ", state_.progress.step, " written to ", path),
            {{"path", path}, {"step", absl::StrCat(state_.progress.step)}});
  return path;
}

absl::Status Checkpointer::WriteAside(const std::string& path) {
  const std::string superseded = absl::StrCat(path, ".superseded");
  absl::Status prepared;
  bool moved = false;
  if (state_.root()) {
    std::error_code error;
    fs::create_directories(fs::path(path).parent_path(), error);
    if (error) {
      prepared = absl::FailedPreconditionError(absl::StrCat(
          "cannot create ", fs::path(path).parent_path().string(), ": ", error.message(),
          "; set checkpoints.directory or --data-root to a writable folder"));
    } else if (fs::exists(path, error)) {
      fs::remove_all(superseded, error);
      prepared = Rename(path, superseded);
      moved = prepared.ok();
    }
  }
  RETURN_IF_ERROR(AgreeStatus(state_.communicator, prepared));
  model::CheckpointState checkpoint;
  checkpoint.config = state_.model->config();
  checkpoint.layout = state_.model->layout();
  checkpoint.step = state_.progress.step;
  checkpoint.last_applied_sequence = state_.progress.last_applied_sequence;
  checkpoint.tokenizer_json = state_.data.tokenizer_json;
  checkpoint.trainer_json = ProgressToJson(state_.progress);
  const absl::Status written = model::WriteCheckpoint(*state_.model, checkpoint, path);
  if (moved) {
    std::error_code error;
    if (written.ok()) {
      fs::remove_all(superseded, error);
    } else {
      fs::rename(superseded, path, error);
    }
  }
  if (!written.ok() && !IsLinkError(written)) return MarkAgreed(written);
  return written;
}

absl::Status Checkpointer::WriteOrReport() {
  const absl::Status status = Write().status();
  if (status.ok() || IsLinkError(status)) return status;
  SendEvent(state_, v1::EVENT_SEVERITY_ERROR, "checkpoint_failed",
            absl::StrCat("Checkpoint of step ", state_.progress.step, " was not written: ",
                         status.message(), ". Training goes on; older checkpoints are kept."),
            {{"step", absl::StrCat(state_.progress.step)}});
  return absl::OkStatus();
}

}  // namespace espalier::train

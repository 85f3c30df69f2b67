// A RocksDB checkpoint: tables are hard links where the filesystem is the same, else copies; the
// live log is copied as far as it reaches. It is made beside the target and renamed once it is
// synced, so what stands at the target is whole.
#include "libs/history/backup.h"

#include <fcntl.h>
#include <rocksdb/db.h>
#include <rocksdb/utilities/checkpoint.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/history/rocks_status.h"

namespace espalier::history {
namespace {

namespace fs = std::filesystem;

// Beside the target, so that a rename suffices; what a killed backup left is found by this name.
constexpr char kUnfinishedSuffix[] = ".unfinished";
constexpr char kCopyName[] = "copy";

absl::Status CheckTarget(const fs::path& source, const fs::path& target) {
  std::error_code error;
  if (fs::symlink_status(target, error).type() != fs::file_type::not_found) {
    return absl::AlreadyExistsError(
        absl::StrCat("backup directory ", target.string(),
                     " exists already; name one that does not, or remove it first"));
  }
  const fs::path parent = target.parent_path();
  if (!fs::is_directory(parent, error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "backup directory ", target.string(), ": its parent ", parent.string(), " is no directory",
        error ? absl::StrCat(": ", error.message()) : "", "; make it first"));
  }
  const fs::path inside = fs::weakly_canonical(parent, error);
  for (fs::path at = inside; !error; at = at.parent_path()) {
    if (at == fs::weakly_canonical(source, error)) {
      return absl::InvalidArgumentError(absl::StrCat("backup directory ", target.string(),
                                                     " lies within the history directory ",
                                                     source.string(), "; choose one outside"));
    }
    if (at == at.parent_path()) break;
  }
  return absl::OkStatus();
}

// Removes what a killed backup left, and nothing that is not from one.
absl::Status ClearUnfinished(const fs::path& unfinished) {
  std::error_code error;
  if (!fs::exists(unfinished, error)) return absl::OkStatus();
  for (auto it = fs::directory_iterator(unfinished, error);
       !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename();
    if (name == kCopyName || name == absl::StrCat(kCopyName, ".tmp")) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("backup needs the name ", unfinished.string(), " for itself, but ", name,
                     " in it is not from a backup; remove it or choose another directory"));
  }
  if (!error) fs::remove_all(unfinished, error);
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("what an earlier backup left at ", unfinished.string(),
                   " cannot be removed: ", error.message(), "; remove it"));
}

// A rename is durable once its directory is synced.
absl::Status SyncDirectory(const fs::path& directory) {
  const int handle = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = handle >= 0 && fsync(handle) == 0;
  const int cause = errno;
  if (handle >= 0) close(handle);
  if (synced) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("directory ", directory.string(), " cannot be synced: ", strerror(cause)));
}

absl::Status MakeCheckpoint(rocksdb::DB* db, const std::string& source, const std::string& target,
                            const std::string& copy) {
  rocksdb::Checkpoint* made = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(db, &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  if (status.ok()) status = checkpoint->CreateCheckpoint(copy);
  if (status.ok()) return absl::OkStatus();
  const absl::Status cause = FromRocks(status, source);
  return absl::Status(cause.code(), absl::StrCat("backup to ", target, " failed: ", cause.message(),
                                                 "; nothing was left there"));
}

}  // namespace

absl::Status WriteBackup(rocksdb::DB* db, const std::string& source, const std::string& target) {
  if (target.empty()) return absl::InvalidArgumentError("backup directory is empty; name one");
  fs::path whole = fs::absolute(target).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // "name/" is "name"
  RETURN_IF_ERROR(CheckTarget(source, whole));
  const fs::path unfinished = whole.string() + kUnfinishedSuffix;
  RETURN_IF_ERROR(ClearUnfinished(unfinished));
  std::error_code error;
  fs::create_directory(unfinished, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat("backup directory ", whole.string(),
                                                      " cannot be made: ", error.message(),
                                                      "; choose one that this process may write"));
  }
  const absl::Cleanup remove_unfinished = [&unfinished] {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
  };
  const fs::path copy = unfinished / kCopyName;
  RETURN_IF_ERROR(MakeCheckpoint(db, source, whole.string(), copy.string()));
  fs::rename(copy, whole, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat("backup directory ", whole.string(),
                                                      " cannot take its name: ", error.message(),
                                                      "; choose another"));
  }
  return SyncDirectory(whole.parent_path());
}

}  // namespace espalier::history

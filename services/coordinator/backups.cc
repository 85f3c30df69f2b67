// A copy is made beside its place and renamed into it.
#include "services/coordinator/backups.h"

#include <algorithm>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"

namespace espalier::coordinator {
namespace {

namespace fs = std::filesystem;

// RocksDB's pointer to its manifest.
bool HoldsStore(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / "CURRENT", error);
}

}  // namespace

uint64_t BytesBelow(const fs::path& folder) {
  uint64_t bytes = 0;
  std::error_code error;
  for (const auto& file : fs::recursive_directory_iterator(folder, error)) {
    if (file.is_regular_file(error)) bytes += file.file_size(error);
  }
  return bytes;
}

absl::Status KeepNewest(const fs::path& folder, const fs::path& written, uint32_t keep) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> found;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!entry.is_directory(error) || !HoldsStore(entry.path()) || entry.path() == written) continue;
    found.emplace_back(fs::last_write_time(entry.path(), error), entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  for (size_t i = keep > 0 ? keep - 1 : 0; i < found.size(); ++i) {
    fs::remove_all(found[i].second, error);
    if (error) {
      return absl::InternalError(absl::StrCat("the new backup is written, but the old one in ",
                                              found[i].second.string(),
                                              " cannot be removed: ", error.message()));
    }
    LOG(INFO) << "backup_removed path=" << found[i].second.string();
  }
  return absl::OkStatus();
}

absl::Status BeginFromBackup(const std::string& data, const std::string& backup) {
  if (backup.empty()) return absl::OkStatus();
  std::error_code error;
  if (fs::exists(data, error) && !fs::is_empty(data, error)) {
    LOG(INFO) << "restore_skipped data=" << data << " cause=\"it holds something already\"";
    return absl::OkStatus();
  }
  if (!HoldsStore(backup)) {
    return absl::NotFoundError(absl::StrCat("--restore: ", backup,
                                            " holds no backup; give the folder that `espalier "
                                            "history backup` named"));
  }
  const fs::path whole = data, part = whole.string() + ".restoring";
  fs::remove_all(part, error);
  fs::create_directories(whole.parent_path(), error);
  fs::copy(backup, part, fs::copy_options::recursive, error);
  if (!error) fs::remove(whole, error);  // empty, or not there
  if (!error) fs::rename(part, whole, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat("--restore: ", backup,
                                                      " cannot be copied to ", data, ": ",
                                                      error.message(), "; make room there"));
  }
  LOG(INFO) << "restored data=" << data << " backup=" << backup << " bytes=" << BytesBelow(whole);
  return absl::OkStatus();
}

}  // namespace espalier::coordinator

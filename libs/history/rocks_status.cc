// RocksDB's statuses carry no path and no remedy; both are added here.
#include "libs/history/rocks_status.h"

#include <rocksdb/status.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace espalier::history {

absl::Status FromRocks(const rocksdb::Status& status, const std::string& directory) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("history directory ", directory, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) {
    return absl::DataLossError(absl::StrCat(text, "; restore it from a backup"));
  }
  if (status.IsNoSpace() || absl::StrContains(text, "No space left") ||
      absl::StrContains(text, "File too large") || absl::StrContains(text, "quota exceeded")) {
    return absl::ResourceExhaustedError(absl::StrCat(text, "; make room and restart"));
  }
  if (status.IsInvalidArgument()) return absl::FailedPreconditionError(text);
  if (status.IsIOError()) return absl::UnavailableError(text);
  return absl::InternalError(text);
}

}  // namespace espalier::history

// Copies of the coordinator's directory: written while it works, pruned to the newest, and begun from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace espalier::coordinator {

// Bytes of the files below `folder`.
uint64_t BytesBelow(const std::filesystem::path& folder);

// Removes all but the newest `keep` backups in `folder`, never `written`. Only folders that hold a RocksDB are touched.
absl::Status KeepNewest(const std::filesystem::path& folder, const std::filesystem::path& written, uint32_t keep);

// Where `data` does not exist or is empty, makes it a copy of `backup`; else leaves it alone, so that a service may be started with
// the same flag again and again. The copy is complete or not there. NotFound and FailedPrecondition name the flag and the folder.
absl::Status BeginFromBackup(const std::string& data, const std::string& backup);

}  // namespace espalier::coordinator

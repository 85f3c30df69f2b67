// RocksDB's answers as ours: code, directory, cause and remedy. For the sources of this folder.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class Status;
}

namespace espalier::history {

// Says what went wrong with which directory and what to do about it.
absl::Status FromRocks(const rocksdb::Status& status, const std::string& directory);

}  // namespace espalier::history

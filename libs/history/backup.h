// A consistent copy of an open database, made whole or not at all. For the sources of this folder.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class DB;
}

namespace espalier::history {

// Copies everything that is durable in `db`, whose files lie in `source`, to `target`, which must
// not exist. Writes go on meanwhile. One call at a time for one target.
absl::Status WriteBackup(rocksdb::DB* db, const std::string& source, const std::string& target);

}  // namespace espalier::history

// Gives back the space of deleted ranges without holding up their deletion. For the sources of this folder.
#pragma once

#include <memory>
#include <string>

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
}  // namespace rocksdb

namespace espalier::history {

// A range deletion leaves its bytes in the tables until a compaction meets it, which may be never. This rewrites the
// tables concerned, in a thread of its own, once enough bytes have gathered (a quarter of the table, at least 4 MiB).
// Thread-safe. Must be gone before the database closes.
class Reclaimer {
 public:
  static std::unique_ptr<Reclaimer> Create(rocksdb::DB* db);
  virtual ~Reclaimer() = default;  // breaks off what is under way; it is taken up by a later deletion
  // The keys in [begin, end) of `family` have been deleted durably.
  virtual void Deleted(rocksdb::ColumnFamilyHandle* family, const std::string& begin,
                       const std::string& end) = 0;
};

}  // namespace espalier::history

// Store: everything the coordinator must not lose, in one RocksDB directory. The only folder that includes RocksDB.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::history {

// Tables of the directory; each is a column family, all opened together.
enum class Table {
  kRuns,       // run id -> serialized v1::Run record of the coordinator
  kRequests,   // request id -> run or decision id (idempotency)
  kCommands,   // (run id, sequence) -> v1::Command
  kDecisions,  // (run id, decision id) -> v1::Decision
  kEvents,     // (run id, event number) -> v1::RunEvent
  kSeries,     // (run id, step) -> v1::SeriesPoint
  kTraces,     // (run id, step and rank) -> v1::RankTrace
  kLoads,      // packed load rows; written by LoadHistory only
};

// Big-endian, so that keys sort by number; parts are joined with a length-safe separator.
std::string Key(const std::string& id);
std::string Key(const std::string& id, uint64_t number);
std::string Key(const std::string& id, const std::string& second);

// Thread-safe. A write returns OK only when it is synced to disk; concurrent writers share one sync (group commit).
// After a failed write (disk full) the store refuses further writes with the cause, and health() says so.
class Store {
 public:
  // FailedPrecondition when another process holds the directory; DataLoss when it is damaged.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& directory);
  virtual ~Store() = default;

  struct Write {
    Table table;
    std::string key;
    std::optional<std::string> value = std::nullopt;  // nullopt deletes
    std::optional<std::string> end = std::nullopt;    // deletes all keys in [key, end); without a value
  };
  // All or nothing. May block for a sync: never call it from a gRPC reaction.
  virtual absl::Status Commit(std::vector<Write> writes) = 0;
  virtual absl::StatusOr<std::string> Get(Table table, const std::string& key) const = 0;  // NotFound
  // Visits keys in [begin, end) in order, or in reverse; stops when `visit` returns false. An empty `end` is the table's end.
  virtual absl::Status Scan(Table table, const std::string& begin, const std::string& end, bool reverse,
                            const std::function<bool(const std::string& key, const std::string& value)>& visit) const = 0;
  virtual absl::Status health() const = 0;
  // Writes a consistent copy of everything that is durable now to `directory`, which must not exist; Open reads it like any
  // other. AlreadyExists, or the cause. Shares files with the original where both lie on one filesystem. Writes go on
  // meanwhile. Works beside the target, in `directory`.unfinished, and renames: what has the name is whole.
  virtual absl::Status Backup(const std::string& directory) const = 0;
  // Bytes by name: live_data, memtables, pending_compaction, table_readers.
  virtual std::map<std::string, double> Bytes() const = 0;
};

// First key after every key that starts with Key(id): the end of a scan over one run.
std::string KeyEnd(const std::string& id);

// Loads of one layer in one step over all experts (by original id; 0 for experts that are gone).
struct LoadRow {
  uint32_t layer = 0;
  uint64_t step = 0;
  std::vector<uint64_t> tokens;
};

struct LoadBlock {
  uint64_t first_step = 0;  // the row sums steps first_step .. first_step + resolution - 1, as far as recorded
  std::vector<uint64_t> tokens;
};

// The same rows in one piece of memory; a row that was recorded with fewer experts ends with zeros.
struct LoadMatrix {
  size_t width = 0;                   // experts in a row
  std::vector<uint64_t> first_steps;  // ascending, as in LoadBlock
  std::vector<uint64_t> tokens;       // row after row, width * first_steps.size()
};

// Expert loads of runs: packed rows per (run, layer, step block), delta-coded and compressed, with coarser resolutions
// (1, 16, 256, 4096 steps) beside the fine one. Rows of a step arrive complete (all ranks) and once; a repeated step is
// ignored. Thread-safe.
class LoadHistory {
 public:
  static constexpr uint32_t kResolutions[] = {1, 16, 256, 4096};
  static std::unique_ptr<LoadHistory> Create(Store* store);
  virtual ~LoadHistory() = default;
  // Durable when it returns OK. A step whose fine rows have expired is taken for a repeated one.
  virtual absl::Status Append(const std::string& run_id, const std::vector<LoadRow>& rows) = 0;
  // Drops rows after `step`: a run that went back to its checkpoint writes them again. Where expired rows were needed to take
  // a sum apart, the steps of that sum up to `step` are lost too (at most a block of the coarser resolution) and the log says
  // which; so expire only before the checkpoints to which a run may go back.
  virtual absl::Status TruncateAfter(const std::string& run_id, uint64_t step) = 0;
  // Rows that touch first_step..last_step. Appends go on beside it.
  virtual absl::StatusOr<std::vector<LoadBlock>> Read(const std::string& run_id, uint32_t layer, uint64_t first_step,
                                                      uint64_t last_step, uint32_t resolution) const = 0;
  // What Read returns, without a vector a row: for many rows.
  virtual absl::StatusOr<LoadMatrix> ReadMatrix(const std::string& run_id, uint32_t layer, uint64_t first_step,
                                                uint64_t last_step, uint32_t resolution) const = 0;
  // Drops the rows of `resolution` that lie wholly before `step`, in pieces of 64, 64, 256 and 4096 steps, as far as the next
  // coarser resolution has taken their sums (the coarsest goes too). Durable when it returns OK; the space comes back in the
  // background. Reads at an expired resolution begin later; other resolutions do not change. Repeating it changes nothing.
  virtual absl::Status Expire(const std::string& run_id, uint32_t resolution, uint64_t step) = 0;
  // First step that `resolution` still holds; 0 when nothing has expired.
  virtual absl::StatusOr<uint64_t> FirstKept(const std::string& run_id, uint32_t resolution) const = 0;
};

}  // namespace espalier::history

// Store on RocksDB: one column family a table, writes of concurrent callers joined into one synced
// batch.
#include "libs/history/store.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <cstdarg>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <system_error>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/status_macros.h"
#include "libs/history/backup.h"
#include "libs/history/reclaim.h"
#include "libs/history/rocks_status.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

// Order as in Table; the default family stays empty, as RocksDB insists on it.
constexpr const char* kFamilies[] = {"runs",   "requests", "commands", "decisions",
                                     "events", "series",   "traces",   "loads"};
constexpr size_t kTableCount = std::size(kFamilies);
static_assert(static_cast<size_t>(Table::kLoads) + 1 == kTableCount);

// A leader joins at most so much; the rest wait for the next sync.
constexpr size_t kGroupBytesMax = 8 << 20;
constexpr size_t kCacheBytes = 64 << 20;
constexpr size_t kMemtablesBytesMax = 64 << 20;

absl::Status FromRocksOpen(const rocksdb::Status& status, const std::string& directory) {
  if (status.IsIOError() && (absl::StrContains(status.ToString(), "lock file") ||
                             absl::StrContains(status.ToString(), "lock hold"))) {
    return absl::FailedPreconditionError(
        absl::StrCat("history directory ", directory,
                     " is in use by another process; stop that one or choose another directory"));
  }
  return FromRocks(status, directory);
}

// RocksDB makes an empty database where CURRENT is missing, even beside tables full of data.
absl::Status CheckNotBeheaded(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) return absl::OkStatus();
  if (std::filesystem::exists(std::filesystem::path(directory) / "CURRENT", error)) {
    return absl::OkStatus();
  }
  for (auto it = std::filesystem::directory_iterator(directory, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string extension = it->path().extension();
    if (extension == ".sst" || extension == ".log") {
      return absl::DataLossError(
          absl::StrCat("history directory ", directory, ": CURRENT is missing beside ",
                       it->path().filename().string(), "; restore it from a backup"));
    }
  }
  return absl::OkStatus();
}

// Keeps the first error that RocksDB met in the background. Thread-safe.
class ErrorListener : public rocksdb::EventListener {
 public:
  explicit ErrorListener(std::string directory) : directory_(std::move(directory)) {}

  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* status) override {
    absl::MutexLock lock(&mutex_);
    if (error_.ok()) error_ = FromRocks(*status, directory_);
  }
  absl::Status error() const {
    absl::MutexLock lock(&mutex_);
    return error_;
  }

 private:
  const std::string directory_;
  mutable absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

// RocksDB's warnings go to our log. Its own LOG file must not be: Debian's build keeps assertions
// on, and one of them ends the process at the second line that a full disk refuses.
class WarningLogger : public rocksdb::Logger {
 public:
  WarningLogger() : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    char line[1024];
    vsnprintf(line, sizeof line, format, arguments);
    LOG(WARNING) << "history_rocksdb says=" << line;
  }
};

rocksdb::ColumnFamilyOptions FamilyOptions(bool loads,
                                           const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kZSTD;
  options.write_buffer_size = loads ? 16 << 20 : 4 << 20;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;  // so that the cache bounds all memory of the tables
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_size = loads ? 64 << 10 : 8 << 10;
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

class RocksStore : public Store {
 public:
  RocksStore(std::string directory, std::shared_ptr<ErrorListener> listener)
      : directory_(std::move(directory)), listener_(std::move(listener)) {}

  // Handles before Close, Close before delete; callers have left by contract.
  ~RocksStore() override {
    if (db_ == nullptr) return;
    reclaimer_.reset();
    for (rocksdb::ColumnFamilyHandle* family : families_) {
      const rocksdb::Status status = db_->DestroyColumnFamilyHandle(family);
      if (!status.ok()) LOG(ERROR) << "history_handle_close_failed cause=" << status.ToString();
    }
    const rocksdb::Status status = db_->Close();
    if (!status.ok()) LOG(ERROR) << "history_close_failed cause=" << status.ToString();
  }

  absl::Status OpenDatabase() {
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    if (error) {
      return absl::FailedPreconditionError(absl::StrCat("history directory ", directory_,
                                                        " cannot be made: ", error.message(),
                                                        "; choose another or correct its parent"));
    }
    RETURN_IF_ERROR(CheckNotBeheaded(directory_));
    rocksdb::DBOptions options;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    options.paranoid_checks = true;
    // A torn last record was never acknowledged; damage anywhere else is reported, not skipped.
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
    options.max_bgerror_resume_count = 0;  // errors stick: a person looks first
    options.max_background_jobs = 2;
    options.db_write_buffer_size = kMemtablesBytesMax;
    options.max_total_wal_size = 4 * kMemtablesBytesMax;
    options.info_log = std::make_shared<WarningLogger>();  // shared by RocksDB's own parts
    options.listeners.push_back(listener_);  // shared by RocksDB's threads and this store
    const auto cache = rocksdb::NewLRUCache(kCacheBytes);
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    descriptors.emplace_back(rocksdb::kDefaultColumnFamilyName, FamilyOptions(false, cache));
    for (size_t i = 0; i < kTableCount; ++i) {
      const bool loads = i == static_cast<size_t>(Table::kLoads);
      descriptors.emplace_back(kFamilies[i], FamilyOptions(loads, cache));
    }
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status =
        rocksdb::DB::Open(options, directory_, descriptors, &families_, &db);
    db_.reset(db);
    RETURN_IF_ERROR(FromRocksOpen(status, directory_));
    reclaimer_ = Reclaimer::Create(db);
    return absl::OkStatus();
  }

  absl::Status Commit(std::vector<Write> writes) override {
    Waiter me{std::move(writes)};
    for (const Write& write : me.writes) {
      CHECK(!write.value.has_value() || !write.end.has_value());
      me.bytes += write.key.size() + (write.value.has_value() ? write.value->size() : 0);
    }
    absl::MutexLock lock(&mutex_);
    waiters_.push_back(&me);
    while (!me.done && waiters_.front() != &me) me.turn.Wait(&mutex_);
    if (me.done) return me.status;
    return LeadGroup();
  }

  absl::StatusOr<std::string> Get(Table table, const std::string& key) const override {
    std::string value;
    const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), Family(table), key, &value);
    if (status.IsNotFound()) {
      return absl::NotFoundError(absl::StrCat("no such key in table ", kFamilies[Index(table)]));
    }
    RETURN_IF_ERROR(FromRocks(status, directory_));
    return value;
  }

  absl::Status Scan(Table table, const std::string& begin, const std::string& end, bool reverse,
                    const std::function<bool(const std::string& key, const std::string& value)>&
                        visit) const override {
    rocksdb::ReadOptions options;
    const rocksdb::Slice lower(begin), upper(end);
    options.iterate_lower_bound = &lower;
    if (!end.empty()) options.iterate_upper_bound = &upper;
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, Family(table)));
    for (reverse ? it->SeekToLast() : it->SeekToFirst(); it->Valid();
         reverse ? it->Prev() : it->Next()) {
      if (!visit(it->key().ToString(), it->value().ToString())) break;
    }
    return FromRocks(it->status(), directory_);
  }

  absl::Status Backup(const std::string& directory) const override {
    absl::MutexLock lock(&backup_mutex_);
    return WriteBackup(db_.get(), directory_, directory);
  }

  std::map<std::string, double> Bytes() const override {
    std::map<std::string, double> bytes;
    for (const auto& [name, property] :
         {std::pair{"live_data", &rocksdb::DB::Properties::kEstimateLiveDataSize},
          std::pair{"memtables", &rocksdb::DB::Properties::kSizeAllMemTables},
          std::pair{"pending_compaction",
                    &rocksdb::DB::Properties::kEstimatePendingCompactionBytes},
          std::pair{"table_readers", &rocksdb::DB::Properties::kEstimateTableReadersMem}}) {
      uint64_t value = 0;
      if (db_->GetAggregatedIntProperty(*property, &value))
        bytes[name] = static_cast<double>(value);
    }
    return bytes;
  }
  absl::Status health() const override {
    {
      absl::MutexLock lock(&mutex_);
      if (!failed_.ok()) return failed_;
    }
    return listener_->error();
  }

 private:
  struct Waiter {
    std::vector<Write> writes;
    size_t bytes = 0;
    bool done = false;
    absl::Status status = absl::OkStatus();
    absl::CondVar turn = {};
  };

  static size_t Index(Table table) { return static_cast<size_t>(table); }
  rocksdb::ColumnFamilyHandle* Family(Table table) const { return families_[Index(table) + 1]; }

  // The front waiter writes for itself and for those behind it, outside the lock; they stay in the
  // queue meanwhile, so nobody else leads.
  absl::Status LeadGroup() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    size_t count = 0, bytes = 0;
    while (count < waiters_.size() &&
           (count == 0 || bytes + waiters_[count]->bytes <= kGroupBytesMax)) {
      bytes += waiters_[count++]->bytes;
    }
    const std::vector<Waiter*> group(waiters_.begin(), waiters_.begin() + count);
    absl::Status status = failed_;
    if (status.ok()) {
      mutex_.Unlock();
      status = WriteGroup(group);
      mutex_.Lock();
      if (!status.ok()) {
        failed_ = absl::Status(
            status.code(), absl::StrCat(status.message(), " (writes are refused until a restart)"));
        LOG(ERROR) << "history_write_failed cause=" << failed_;
      }
    }
    for (Waiter* waiter : group) {
      waiters_.pop_front();
      waiter->status = status;
      waiter->done = true;
      waiter->turn.Signal();
    }
    if (!waiters_.empty()) waiters_.front()->turn.Signal();
    return status;
  }

  absl::Status WriteGroup(const std::vector<Waiter*>& group) {
    rocksdb::WriteBatch batch;
    for (const Waiter* waiter : group) {
      for (const Write& write : waiter->writes) {
        RETURN_IF_ERROR(FromRocks(Put(write, &batch), directory_));
      }
    }
    if (batch.Count() == 0) return absl::OkStatus();
    rocksdb::WriteOptions options;
    options.sync = true;
    RETURN_IF_ERROR(FromRocks(db_->Write(options, &batch), directory_));
    for (const Waiter* waiter : group) {
      for (const Write& write : waiter->writes) {
        if (write.end.has_value()) reclaimer_->Deleted(Family(write.table), write.key, *write.end);
      }
    }
    return absl::OkStatus();
  }

  rocksdb::Status Put(const Write& write, rocksdb::WriteBatch* batch) const {
    rocksdb::ColumnFamilyHandle* const family = Family(write.table);
    if (write.value.has_value()) return batch->Put(family, write.key, *write.value);
    if (write.end.has_value()) return batch->DeleteRange(family, write.key, *write.end);
    return batch->Delete(family, write.key);
  }

  const std::string directory_;
  const std::shared_ptr<ErrorListener> listener_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  std::unique_ptr<Reclaimer> reclaimer_;  // goes before the handles and the database
  mutable absl::Mutex backup_mutex_;      // one backup at a time
  mutable absl::Mutex mutex_;
  std::deque<Waiter*> waiters_ ABSL_GUARDED_BY(mutex_);  // bounded by the callers' threads
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& directory) {
  auto store = std::make_unique<RocksStore>(directory, std::make_shared<ErrorListener>(directory));
  RETURN_IF_ERROR(store->OpenDatabase());
  return store;
}

}  // namespace espalier::history

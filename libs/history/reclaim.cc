// Deleted ranges wait by family and first key until they are worth a compaction. Tables are never
// dropped whole by range: a run that went back writes into a deleted range again.
#include "libs/history/reclaim.h"

#include <rocksdb/db.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

constexpr uint64_t kWasteBytesMin = 4 << 20;
constexpr uint64_t kWasteShare = 4;  // of the family's tables, one part in so many
// Ranges with less than this between them are one: their tables are the same.
constexpr uint64_t kGapBytesMax = 64 << 20;
// Ranges that wait; beyond it they are worked off whatever their size.
constexpr size_t kRangesMax = 4096;

using Family = rocksdb::ColumnFamilyHandle;

class RocksReclaimer : public Reclaimer {
 public:
  explicit RocksReclaimer(rocksdb::DB* db) : db_(db), thread_([this] { Work(); }) {}

  ~RocksReclaimer() override {
    canceled_ = true;
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    thread_.join();
  }

  void Deleted(Family* family, const std::string& begin, const std::string& end) override {
    const uint64_t bytes = SizeOf(family, begin, end);
    absl::MutexLock lock(&mutex_);
    Range& range = waiting_[family][begin];
    if (end < range.end) return;
    range = {end, bytes};
    due_ = due_ || IsDue(family);
  }

 private:
  struct Range {
    std::string end;
    uint64_t bytes = 0;
  };
  using Ranges = std::map<std::string, Range>;  // by first key

  // Of the tables only: what is in memory is deleted before it is written.
  uint64_t SizeOf(Family* family, const std::string& begin, const std::string& end) const {
    const rocksdb::Range range(begin, end);
    uint64_t bytes = 0;
    rocksdb::SizeApproximationOptions options;
    options.include_memtables = false;
    const rocksdb::Status status = db_->GetApproximateSizes(options, family, &range, 1, &bytes);
    return status.ok() ? bytes : 0;
  }

  bool IsDue(Family* family) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Ranges& ranges = waiting_.at(family);
    uint64_t waste = 0, tables = 0;
    for (const auto& [begin, range] : ranges) waste += range.bytes;
    db_->GetIntProperty(family, rocksdb::DB::Properties::kTotalSstFilesSize, &tables);
    return waste >= std::max(kWasteBytesMin, tables / kWasteShare) || ranges.size() > kRangesMax;
  }

  void Work() {
    while (true) {
      std::map<Family*, Ranges> taken;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(
            +[](RocksReclaimer* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
              return self->stopped_ || self->due_;
            },
            this));
        if (stopped_) return;
        due_ = false;
        taken.swap(waiting_);
      }
      for (const auto& [family, ranges] : taken) Reclaim(family, ranges);
    }
  }

  void Reclaim(Family* family, const Ranges& ranges) {
    for (auto first = ranges.begin(); first != ranges.end();) {
      std::string end = first->second.end;
      auto next = std::next(first);
      while (next != ranges.end() &&
             (next->first <= end || SizeOf(family, end, next->first) < kGapBytesMax)) {
        end = std::max(end, next->second.end);
        ++next;
      }
      Compact(family, first->first, end);
      first = next;
    }
  }

  void Compact(Family* family, const std::string& begin, const std::string& end) {
    if (canceled_) return;
    rocksdb::CompactRangeOptions options;
    options.exclusive_manual_compaction = false;
    options.canceled = &canceled_;
    const rocksdb::Slice low(begin), high(end);
    Note(db_->CompactRange(options, family, &low, &high));
  }

  // Space that is not given back harms nobody; a failing disk shows in the store's health.
  void Note(const rocksdb::Status& status) {
    if (status.ok() || canceled_) return;
    LOG(WARNING) << "history_reclaim_failed cause=" << status.ToString();
  }

  rocksdb::DB* const db_;
  std::atomic<bool> canceled_ = false;
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool due_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Family*, Ranges> waiting_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: it uses the members above
};

}  // namespace

std::unique_ptr<Reclaimer> Reclaimer::Create(rocksdb::DB* db) {
  return std::make_unique<RocksReclaimer>(db);
}

}  // namespace espalier::history

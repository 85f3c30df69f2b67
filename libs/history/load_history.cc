// LoadHistory: which runs are in memory, who may change or read one when, and what is read.
// Changes are planned by packing.cc, truncation.cc and expiry.cc; pieces.cc reads.
#include <sys/mman.h>

#include <algorithm>
#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/status_macros.h"
#include "libs/history/pieces.h"
#include "libs/history/run_changes.h"
#include "libs/history/run_state.h"
#include "libs/history/store.h"

namespace espalier::history {
namespace {

// Runs whose newest block is kept in memory; others are read again when they are needed.
constexpr size_t kRunsInMemoryMax = 16;
// Numbers for which a read takes memory ahead; beyond it the array grows as rows come.
constexpr uint64_t kReserveMax = uint64_t{1} << 25;
constexpr uintptr_t kHugePageBytes = 2 << 20;
constexpr uintptr_t kOwnMappingBytes = 32 << 20;  // the allocator maps whatever is larger by itself

// `mutex` is held over a commit: a run's steps are in order anyway, and other runs go on beside it,
// into the same sync. A reader holds `pieces` only, so appends pass it; what takes pieces away
// waits for readers. Lock `mutex` first.
struct Run {
  absl::Mutex mutex;
  bool loaded ABSL_GUARDED_BY(mutex) = false;
  RunState state ABSL_GUARDED_BY(mutex);
  absl::Mutex pieces ABSL_ACQUIRED_AFTER(mutex);
};

absl::StatusOr<int> LevelOf(uint32_t resolution) {
  const auto* found = std::find(std::begin(LoadHistory::kResolutions),
                                std::end(LoadHistory::kResolutions), resolution);
  if (found != std::end(LoadHistory::kResolutions)) {
    return static_cast<int>(found - LoadHistory::kResolutions);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("resolution: ", resolution, "; allowed are 1, 16, 256, 4096"));
}

// What one read needs of the state: the packed part, and the sums of the steps that wait.
struct Selection {
  LayerView view;
  uint64_t first, last;
  int level;
  LoadMatrix waiting;  // fine rows
};

Selection Select(const Store& store, const std::string& run_id, const RunState& state,
                 uint32_t layer, uint64_t first, uint64_t last, int level) {
  const LayerView view = ViewOf(store, run_id, state, layer);
  const uint64_t resolution = LoadHistory::kResolutions[level];
  Selection selection{
      view, first, std::min(last, state.newest.value_or(0)), level, {view.width, {}, {}}};
  for (const auto& [step, rows] : state.steps) {
    if (step < Floor(first, resolution) || Floor(step, resolution) > last) continue;
    for (const LoadRow& row : rows) {
      if (row.layer == layer) FoldRow(step, row.tokens, 1, &selection.waiting);
    }
  }
  return selection;
}

// Takes memory for `count` rows ahead, in huge pages where it is much: faults of small ones would
// take as long as the decoding. So large an array has a mapping of its own.
void Reserve(uint64_t count, LoadMatrix* rows) {
  rows->first_steps.reserve(std::min(count, kReserveMax));
  rows->tokens.reserve(std::min(count, kReserveMax / std::max<size_t>(1, rows->width)) *
                       rows->width);
  const uintptr_t at = reinterpret_cast<uintptr_t>(rows->tokens.data());
  const uintptr_t end = at + rows->tokens.capacity() * sizeof(uint64_t);
  const uintptr_t first = (at + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  if (end - at < kOwnMappingBytes || end < first + kHugePageBytes) return;
  // Advice only: without it the read is as right.
  madvise(reinterpret_cast<void*>(first), (end - first) / kHugePageBytes * kHugePageBytes,
          MADV_HUGEPAGE);
}

absl::StatusOr<LoadMatrix> ReadSelection(const Selection& selection) {
  const LayerView& view = selection.view;
  const uint64_t resolution = LoadHistory::kResolutions[selection.level];
  const uint64_t begin = Floor(selection.first, resolution);
  LoadMatrix rows{view.width, {}, {}};
  if (selection.last >= begin) {
    Reserve((selection.last - begin) / resolution + 1, &rows);
    if (view.packed_end > begin) {
      RETURN_IF_ERROR(ReadPacked(view, selection.first,
                                 std::min(selection.last, view.packed_end - 1), selection.level,
                                 &rows));
    }
  }
  Fold(selection.waiting, resolution, &rows);
  return rows;
}

class RocksLoadHistory : public LoadHistory {
 public:
  explicit RocksLoadHistory(Store* store) : store_(store) {}

  absl::Status Append(const std::string& run_id, const std::vector<LoadRow>& rows) override {
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    auto writes = PlanAppend(*store_, run_id, rows, &run->state);
    absl::Status status = writes.status();
    if (status.ok() && !writes->empty()) status = store_->Commit(*std::move(writes));
    // What is in memory may be ahead of the store: read it again next time.
    if (!status.ok()) run->loaded = false;
    return status;
  }

  absl::Status TruncateAfter(const std::string& run_id, uint64_t step) override {
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    if (!run->state.newest.has_value() || *run->state.newest <= step) return absl::OkStatus();
    absl::MutexLock no_readers(&run->pieces);
    run->loaded = false;
    ASSIGN_OR_RETURN(auto writes, PlanTruncate(*store_, run_id, step, std::move(run->state)));
    return store_->Commit(std::move(writes));
  }

  absl::Status Expire(const std::string& run_id, uint32_t resolution, uint64_t step) override {
    ASSIGN_OR_RETURN(const int level, LevelOf(resolution));
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    std::vector<Store::Write> writes = PlanExpire(run_id, level, step, &run->state);
    if (writes.empty()) return absl::OkStatus();
    absl::MutexLock no_readers(&run->pieces);
    const absl::Status status = store_->Commit(std::move(writes));
    if (!status.ok()) run->loaded = false;
    return status;
  }

  absl::StatusOr<uint64_t> FirstKept(const std::string& run_id,
                                     uint32_t resolution) const override {
    ASSIGN_OR_RETURN(const int level, LevelOf(resolution));
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    return run->state.first_kept[static_cast<size_t>(level)];
  }

  absl::StatusOr<LoadMatrix> ReadMatrix(const std::string& run_id, uint32_t layer,
                                        uint64_t first_step, uint64_t last_step,
                                        uint32_t resolution) const override {
    ASSIGN_OR_RETURN(const int level, LevelOf(resolution));
    if (first_step > last_step) {
      return absl::InvalidArgumentError(
          absl::StrCat("first_step: ", first_step, " is after last_step ", last_step));
    }
    const std::shared_ptr<Run> run = Find(run_id);
    run->mutex.Lock();
    const absl::Status loaded = Load(run_id, *run);
    if (!loaded.ok()) {
      run->mutex.Unlock();
      return loaded;
    }
    const Selection selection =
        Select(*store_, run_id, run->state, layer, first_step, last_step, level);
    run->pieces.ReaderLock();
    run->mutex.Unlock();
    absl::StatusOr<LoadMatrix> rows = ReadSelection(selection);
    run->pieces.ReaderUnlock();
    return rows;
  }

  absl::StatusOr<std::vector<LoadBlock>> Read(const std::string& run_id, uint32_t layer,
                                              uint64_t first_step, uint64_t last_step,
                                              uint32_t resolution) const override {
    ASSIGN_OR_RETURN(const LoadMatrix rows,
                     ReadMatrix(run_id, layer, first_step, last_step, resolution));
    std::vector<LoadBlock> blocks;
    blocks.reserve(rows.first_steps.size());
    for (size_t i = 0; i < rows.first_steps.size(); ++i) {
      const uint64_t* const row = rows.tokens.data() + i * rows.width;
      blocks.push_back({rows.first_steps[i], {row, row + rows.width}});
    }
    return blocks;
  }

 private:
  // `run` is in memory from here on; the one unused for longest leaves when there are too many.
  std::shared_ptr<Run> Find(const std::string& run_id) const {
    absl::MutexLock lock(&mutex_);
    auto it = std::find_if(runs_.begin(), runs_.end(),
                           [&](const auto& entry) { return entry.first == run_id; });
    if (it != runs_.end()) {
      runs_.splice(runs_.begin(), runs_, it);
      return runs_.front().second;
    }
    runs_.emplace_front(run_id, std::make_shared<Run>());
    // One in use stays: a second copy of it would write behind its back.
    for (auto old = std::prev(runs_.end());
         runs_.size() > kRunsInMemoryMax && old != runs_.begin();) {
      const auto before = std::prev(old);
      if (old->second.use_count() == 1) runs_.erase(old);
      old = before;
    }
    return runs_.front().second;
  }

  absl::Status Load(const std::string& run_id, Run& run) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    if (run.loaded) return absl::OkStatus();
    ASSIGN_OR_RETURN(run.state, LoadRunState(*store_, run_id));
    run.loaded = true;
    return absl::OkStatus();
  }

  Store* const store_;
  mutable absl::Mutex mutex_;
  // Most recently used first; shared with the calls under way.
  mutable std::list<std::pair<std::string, std::shared_ptr<Run>>> runs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<LoadHistory> LoadHistory::Create(Store* store) {
  return std::make_unique<RocksLoadHistory>(store);
}

}  // namespace espalier::history

// LoadHistory: steps wait as small rows until their block is full, then become packed rows at every
// resolution.
//
// Keys within a run: 'm' the run's state; 's' + step, a step whose block is not full; 'p' + level +
// layer + first step, a packed piece. A piece of level 0 holds the rows of 64 steps; one of level 1
// the sums of the same 64 steps, so four; levels 2 and 3 hold one sum of 256 and 4096 steps. A
// piece is written once, with its block, in one batch; sums that are not complete yet are taken
// from the finer level when read.
#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/status_macros.h"
#include "libs/history/keys.h"
#include "libs/history/load_block.h"
#include "libs/history/store.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

constexpr uint64_t kBlockSteps = 64;
constexpr int kLevelCount = std::size(LoadHistory::kResolutions);
// Steps that one piece of each level spans.
constexpr uint64_t kPieceSteps[kLevelCount] = {kBlockSteps, kBlockSteps, 256, 4096};
static_assert(kBlockSteps % LoadHistory::kResolutions[1] == 0);
// Runs whose newest block is kept in memory; others are read again when they are needed.
constexpr size_t kRunsInMemoryMax = 16;

uint64_t Floor(uint64_t step, uint64_t span) { return step / span * span; }

std::string StateKey(const std::string& run) { return Key(run) + 'm'; }
std::string StepKey(const std::string& run, uint64_t step) {
  std::string key = Key(run) + 's';
  AppendBigEndian(&key, step, 8);
  return key;
}
std::string PieceKey(const std::string& run, int level, uint32_t layer, uint64_t first_step) {
  std::string key = Key(run) + 'p';
  AppendBigEndian(&key, static_cast<uint64_t>(level), 1);
  AppendBigEndian(&key, layer, 4);
  AppendBigEndian(&key, first_step, 8);
  return key;
}
uint64_t StepOfKey(const std::string& key) {
  return ReadBigEndian(std::string_view(key).substr(key.size() - 8));
}

// Sums rows into blocks of `resolution` steps, aligned to its multiples.
void Fold(const std::vector<LoadBlock>& rows, uint64_t resolution, std::vector<LoadBlock>* sums) {
  for (const LoadBlock& row : rows) {
    const uint64_t first = Floor(row.first_step, resolution);
    if (sums->empty() || sums->back().first_step != first) sums->push_back({first, {}});
    auto& tokens = sums->back().tokens;
    if (tokens.size() < row.tokens.size()) tokens.resize(row.tokens.size());
    for (size_t i = 0; i < row.tokens.size(); ++i) tokens[i] += row.tokens[i];
  }
}

// A run's newest block. Guarded by its mutex, which is held over the commit: a run's steps are in
// order anyway, and other runs go on beside it, into the same sync.
struct Run {
  absl::Mutex mutex;
  bool loaded ABSL_GUARDED_BY(mutex) = false;
  uint64_t packed_end ABSL_GUARDED_BY(mutex) =
      0;  // steps below are in pieces; a multiple of kBlockSteps
  std::optional<uint64_t> newest ABSL_GUARDED_BY(mutex);
  std::map<uint32_t, size_t> widths ABSL_GUARDED_BY(mutex);               // by layer: experts
  std::map<uint64_t, std::vector<LoadRow>> steps ABSL_GUARDED_BY(mutex);  // not packed yet
};

class RocksLoadHistory : public LoadHistory {
 public:
  explicit RocksLoadHistory(Store* store) : store_(store) {}

  absl::Status Append(const std::string& run_id, const std::vector<LoadRow>& rows) override {
    std::map<uint64_t, std::vector<LoadRow>> by_step;
    for (const LoadRow& row : rows) by_step[row.step].push_back(row);
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    const absl::Status status = AppendLocked(run_id, *run, std::move(by_step));
    // What is in memory may be ahead of the store: read it again next time.
    if (!status.ok()) run->loaded = false;
    return status;
  }

  absl::Status TruncateAfter(const std::string& run_id, uint64_t step) override {
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    if (!run->newest.has_value() || *run->newest <= step) return absl::OkStatus();
    const absl::Status status = TruncateLocked(run_id, *run, step);
    run->loaded = false;
    return status;
  }

  absl::StatusOr<std::vector<LoadBlock>> Read(const std::string& run_id, uint32_t layer,
                                              uint64_t first_step, uint64_t last_step,
                                              uint32_t resolution) const override {
    const auto* found = std::find(std::begin(kResolutions), std::end(kResolutions), resolution);
    if (found == std::end(kResolutions)) {
      return absl::InvalidArgumentError(
          absl::StrCat("resolution: ", resolution, "; allowed are 1, 16, 256, 4096"));
    }
    if (first_step > last_step) {
      return absl::InvalidArgumentError(
          absl::StrCat("first_step: ", first_step, " is after last_step ", last_step));
    }
    const std::shared_ptr<Run> run = Find(run_id);
    absl::MutexLock lock(&run->mutex);
    RETURN_IF_ERROR(Load(run_id, *run));
    if (!run->newest.has_value() || Floor(first_step, resolution) > *run->newest) {
      return std::vector<LoadBlock>();
    }
    return ReadLevel(run_id, *run, layer, first_step, std::min(last_step, *run->newest),
                     static_cast<int>(found - kResolutions));
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
    run.packed_end = 0;
    run.newest.reset();
    run.widths.clear();
    run.steps.clear();
    const absl::StatusOr<std::string> state = store_->Get(Table::kLoads, StateKey(run_id));
    if (!state.ok() && !absl::IsNotFound(state.status())) return state.status();
    // The state is a "step" of its own: rows of one layer each with {packed end, newest step,
    // width}.
    if (state.ok()) {
      ASSIGN_OR_RETURN(const std::vector<LoadRow> layers, DecodeStep(0, *state));
      for (const LoadRow& row : layers) {
        if (row.tokens.size() != 3 || row.tokens[0] % kBlockSteps != 0) {
          return absl::DataLossError(
              absl::StrCat("run ", run_id, ": its record of loads is damaged"));
        }
        run.packed_end = row.tokens[0];
        if (run.packed_end > 0) run.newest = row.tokens[1];
        run.widths[row.layer] = row.tokens[2];
      }
    }
    absl::Status damage;
    RETURN_IF_ERROR(store_->Scan(Table::kLoads, StepKey(run_id, 0), Key(run_id) + 't', false,
                                 [&](const std::string& key, const std::string& value) {
                                   const uint64_t step = StepOfKey(key);
                                   auto rows = DecodeStep(step, value);
                                   damage = rows.status();
                                   if (!rows.ok()) return false;
                                   run.newest = std::max(run.newest.value_or(0), step);
                                   for (const LoadRow& row : *rows) Widen(run, row);
                                   run.steps[step] = *std::move(rows);
                                   return true;
                                 }));
    RETURN_IF_ERROR(damage);
    run.loaded = true;
    return absl::OkStatus();
  }

  static void Widen(Run& run, const LoadRow& row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    size_t& width = run.widths[row.layer];
    width = std::max(width, row.tokens.size());
  }

  static std::string EncodeState(const Run& run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    std::vector<LoadRow> layers;
    for (const auto& [layer, width] : run.widths) {
      // The newest packed step: what waits beside is found by itself.
      layers.push_back({layer, 0, {run.packed_end, run.newest.value_or(0), width}});
    }
    return EncodeStep(layers);
  }

  absl::Status AppendLocked(const std::string& run_id, Run& run,
                            std::map<uint64_t, std::vector<LoadRow>> by_step)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    std::vector<Store::Write> writes;
    std::set<uint64_t> stored;  // waiting steps that the store holds already
    for (const auto& [step, rows] : run.steps) stored.insert(step);
    for (auto& [step, rows] : by_step) {
      if (run.newest.has_value() && step <= *run.newest) {
        RETURN_IF_ERROR(CheckRepeated(run_id, run, step, rows));
        continue;
      }
      RETURN_IF_ERROR(CheckRows(run_id, step, rows));
      if (!run.steps.empty() &&
          step >= Floor(run.steps.begin()->first, kBlockSteps) + kBlockSteps) {
        RETURN_IF_ERROR(Pack(run_id, run, Floor(step, kBlockSteps), &stored, &writes));
      }
      for (const LoadRow& row : rows) Widen(run, row);
      run.newest = step;
      run.steps[step] = std::move(rows);
      if (step % kBlockSteps == kBlockSteps - 1) {
        RETURN_IF_ERROR(Pack(run_id, run, step + 1, &stored, &writes));
      }
    }
    for (const auto& [step, rows] : run.steps) {
      if (stored.contains(step)) continue;
      writes.push_back({Table::kLoads, StepKey(run_id, step), EncodeStep(rows)});
    }
    if (writes.empty()) return absl::OkStatus();
    return store_->Commit(std::move(writes));
  }

  static absl::Status CheckRows(const std::string& run_id, uint64_t step,
                                const std::vector<LoadRow>& rows) {
    std::set<uint32_t> layers;
    for (const LoadRow& row : rows) {
      if (layers.insert(row.layer).second) continue;
      return absl::InvalidArgumentError(absl::StrCat("run ", run_id, ": layer ", row.layer,
                                                     " twice in step ", step, "; send it once"));
    }
    return absl::OkStatus();
  }

  // OK when the step is recorded; one that is old but new to us came too late.
  absl::Status CheckRepeated(const std::string& run_id, Run& run, uint64_t step,
                             const std::vector<LoadRow>& rows) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    if (run.steps.contains(step)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const auto known, ReadLevel(run_id, run, rows.front().layer, step, step, 0));
    if (!known.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("run ", run_id, ": step ", step, " comes after step ", *run.newest,
                     " was recorded; append steps in order, or truncate first"));
  }

  // Turns the waiting steps into pieces at all levels; `end` becomes packed_end.
  absl::Status Pack(const std::string& run_id, Run& run, uint64_t end, std::set<uint64_t>* stored,
                    std::vector<Store::Write>* writes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    const uint64_t block = Floor(run.steps.begin()->first, kBlockSteps);
    const size_t earlier = writes->size();  // pieces of blocks before, in the same batch
    std::map<uint32_t, std::vector<LoadBlock>> fine;
    for (auto& [step, rows] : run.steps) {
      for (LoadRow& row : rows) {
        row.tokens.resize(run.widths[row.layer]);
        fine[row.layer].push_back({step, std::move(row.tokens)});
      }
      if (stored->erase(step) > 0) {
        writes->push_back({Table::kLoads, StepKey(run_id, step), std::nullopt});
      }
    }
    run.steps.clear();
    for (const auto& [layer, width] : run.widths) {
      RETURN_IF_ERROR(
          PackLayer(run_id, run, layer, block, end, std::move(fine[layer]), earlier, writes));
    }
    run.packed_end = end;
    writes->push_back({Table::kLoads, StateKey(run_id), EncodeState(run)});
    return absl::OkStatus();
  }

  absl::Status PackLayer(const std::string& run_id, const Run& run, uint32_t layer, uint64_t block,
                         uint64_t end, std::vector<LoadBlock> fine, size_t earlier,
                         std::vector<Store::Write>* writes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    const auto put = [&](int level, uint64_t first, const std::vector<LoadBlock>& rows) {
      writes->push_back({Table::kLoads, PieceKey(run_id, level, layer, first), EncodeBlock(rows)});
    };
    std::vector<LoadBlock> sums;
    if (!fine.empty()) {
      put(0, block, fine);
      Fold(fine, kResolutions[1], &sums);
      put(1, block, sums);
    }
    for (int level = 2; level < kLevelCount; ++level) {
      const uint64_t span = kPieceSteps[level];
      // The span that was open and the one of this block; with steps left out they may differ.
      std::set<uint64_t> spans = {Floor(block, span)};
      if (run.packed_end > 0) spans.insert(Floor(run.packed_end - 1, span));
      for (const uint64_t first : spans) {
        if (first + span > end || first + span <= run.packed_end) continue;
        std::vector<LoadBlock> whole;
        if (run.packed_end > first) {
          const auto pending = std::span(*writes).first(earlier);
          ASSIGN_OR_RETURN(const auto before, ReadPacked(run_id, run, layer, first,
                                                         run.packed_end - 1, level - 1, pending));
          Fold(before, span, &whole);
        }
        if (Floor(block, span) == first) Fold(sums, span, &whole);
        if (!whole.empty()) put(level, first, whole);
      }
    }
    return absl::OkStatus();
  }

  // Rows of `level` that touch first..last, of steps below packed_end. `pending` holds pieces of
  // the same batch.
  absl::StatusOr<std::vector<LoadBlock>> ReadPacked(const std::string& run_id, const Run& run,
                                                    uint32_t layer, uint64_t first, uint64_t last,
                                                    int level,
                                                    std::span<const Store::Write> pending) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    const uint64_t resolution = kResolutions[level], span = kPieceSteps[level];
    const uint64_t begin = Floor(first, resolution);
    const std::string low = PieceKey(run_id, level, layer, Floor(begin, span));
    const std::string high = PieceKey(run_id, level, layer, Floor(last, span)) + '\0';
    std::vector<LoadBlock> blocks;
    absl::Status damage;
    const auto visit = [&](const std::string& key, const std::string& value) {
      auto rows = DecodeBlock(value);
      if (!rows.ok()) {
        damage = absl::DataLossError(absl::StrCat("run ", run_id, ", layer ", layer, ", step ",
                                                  StepOfKey(key), ": ", rows.status().message()));
        return false;
      }
      for (LoadBlock& row : *rows) {
        if (row.first_step >= begin && row.first_step <= last) blocks.push_back(std::move(row));
      }
      return true;
    };
    RETURN_IF_ERROR(store_->Scan(Table::kLoads, low, high, false, visit));
    for (const Store::Write& write : pending) {
      if (write.key >= low && write.key < high && write.value.has_value()) {
        visit(write.key, *write.value);
      }
    }
    RETURN_IF_ERROR(damage);
    // Beyond the last whole piece the finer level knows more.
    const uint64_t whole = std::max(begin, Floor(run.packed_end, span));
    if (level > 1 && whole <= last && whole < run.packed_end) {
      ASSIGN_OR_RETURN(
          const auto finer,
          ReadPacked(run_id, run, layer, whole,
                     std::min(Floor(last, resolution) + resolution, run.packed_end) - 1, level - 1,
                     pending));
      Fold(finer, resolution, &blocks);
    }
    return blocks;
  }

  absl::StatusOr<std::vector<LoadBlock>> ReadLevel(const std::string& run_id, const Run& run,
                                                   uint32_t layer, uint64_t first, uint64_t last,
                                                   int level) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    const uint64_t resolution = kResolutions[level];
    std::vector<LoadBlock> blocks;
    if (run.packed_end > Floor(first, resolution)) {
      ASSIGN_OR_RETURN(blocks, ReadPacked(run_id, run, layer, first,
                                          std::min(last, run.packed_end - 1), level, {}));
    }
    std::vector<LoadBlock> waiting;
    for (const auto& [step, rows] : run.steps) {
      if (step < Floor(first, resolution) || Floor(step, resolution) > last) continue;
      for (const LoadRow& row : rows) {
        if (row.layer == layer) waiting.push_back({step, row.tokens});
      }
    }
    Fold(waiting, resolution, &blocks);
    return blocks;
  }

  absl::Status TruncateLocked(const std::string& run_id, Run& run, uint64_t step)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    std::vector<Store::Write> writes;
    for (const auto& [waiting, rows] : run.steps) {
      if (waiting > step) writes.push_back({Table::kLoads, StepKey(run_id, waiting), std::nullopt});
    }
    if (run.packed_end > step + 1) {
      RETURN_IF_ERROR(Unpack(run_id, run, step, &writes));
    }
    return store_->Commit(std::move(writes));
  }

  // Takes back every piece that reaches beyond `step`; what stays of its block waits again.
  absl::Status Unpack(const std::string& run_id, Run& run, uint64_t step,
                      std::vector<Store::Write>* writes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run.mutex) {
    const uint64_t block = Floor(step + 1, kBlockSteps);
    std::map<uint64_t, std::vector<LoadRow>> kept;
    for (const auto& [layer, width] : run.widths) {
      if (block <= step) {
        ASSIGN_OR_RETURN(auto rows, ReadPacked(run_id, run, layer, block, step, 0, {}));
        for (LoadBlock& row : rows) {
          kept[row.first_step].push_back({layer, row.first_step, std::move(row.tokens)});
        }
      }
      for (int level = 0; level < kLevelCount; ++level) {
        const uint64_t first = Floor(step + 1, kPieceSteps[level]);
        RETURN_IF_ERROR(store_->Scan(Table::kLoads, PieceKey(run_id, level, layer, first),
                                     PieceKey(run_id, level, layer, UINT64_MAX), false,
                                     [&](const std::string& key, const std::string&) {
                                       writes->push_back({Table::kLoads, key, std::nullopt});
                                       return true;
                                     }));
      }
    }
    for (const auto& [kept_step, rows] : kept) {
      writes->push_back({Table::kLoads, StepKey(run_id, kept_step), EncodeStep(rows)});
    }
    run.packed_end = block;
    // What waits is found by itself; the state speaks of packed steps only.
    run.newest = block > 0 ? block - 1 : 0;
    writes->push_back({Table::kLoads, StateKey(run_id), EncodeState(run)});
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

// The checkpoints of a run in their folder: names, the newest, which may go; and how experts spread
// over other ranks.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_format.h"
#include "libs/model/checkpoint.h"
#include "libs/model/checkpoint_io.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kAside = ".tmp";

// A folder "step-N", or "step-N.tmp" of an interrupted write or removal.
struct Found {
  uint64_t step = 0;
  bool aside = false;
  std::string path;
};

bool ParseName(std::string_view name, Found* found) {
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  found->aside = name.ends_with(kAside);
  if (found->aside) name.remove_suffix(kAside.size());
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, found->step);
  return error == std::errc() && stop == end;
}

// Newest first.
std::vector<Found> ListCheckpoints(const std::string& directory) {
  std::vector<Found> list;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    Found found{.path = it->path().string()};
    if (ParseName(it->path().filename().string(), &found)) list.push_back(std::move(found));
  }
  std::sort(list.begin(), list.end(),
            [](const Found& a, const Found& b) { return a.step > b.step; });
  return list;
}

bool IsComplete(const Found& found) { return !found.aside && ReadCheckpointState(found.path).ok(); }

// Under another name first, so that an interrupted removal never leaves half a checkpoint under a
// good name.
absl::Status Remove(const Found& found) {
  std::string doomed = found.path;
  std::error_code error;
  if (!found.aside) {
    doomed += kAside;
    fs::remove_all(doomed, error);
    fs::rename(found.path, doomed, error);
    if (error) return SystemError("cannot rename old checkpoint", found.path, error.value());
  }
  fs::remove_all(doomed, error);
  if (error) return SystemError("cannot remove old checkpoint", doomed, error.value());
  return absl::OkStatus();
}

int RanksUsed(const ExpertLayout& layout) {
  int used = 0;
  for (const LayerLayout& layer : layout.layers) {
    for (const int rank : layer.ranks) used = std::max(used, rank + 1);
  }
  return used;
}

}  // namespace

std::string CheckpointName(uint64_t step) { return absl::StrFormat("step-%08d", step); }

std::string NewestCheckpoint(const std::string& directory) {
  for (const Found& found : ListCheckpoints(directory)) {
    if (IsComplete(found)) return found.path;
  }
  return "";
}

absl::Status PruneCheckpoints(const std::string& directory, int keep) {
  if (keep < 1) return absl::InvalidArgumentError("keep at least one checkpoint");
  int kept = 0;
  absl::Status first;
  for (const Found& found : ListCheckpoints(directory)) {
    // What is newer than the newest complete one may be a write in progress, or evidence: it stays.
    if (kept < keep && IsComplete(found)) {
      ++kept;
    } else if (kept == keep || (kept > 0 && found.aside)) {
      first.Update(Remove(found));
    }
  }
  return first;
}

ExpertLayout FitLayout(const ExpertLayout& layout, int rank_count) {
  if (RanksUsed(layout) == rank_count) return layout;
  ExpertLayout fitted = layout;
  for (LayerLayout& layer : fitted.layers) {
    const int64_t count = static_cast<int64_t>(layer.ids.size());
    const int64_t share = count / rank_count, rest = count % rank_count;
    for (int64_t i = 0; i < count; ++i) {
      // The first `rest` ranks hold one more.
      const int64_t wide = rest * (share + 1);
      layer.ranks[i] = static_cast<int>(i < wide ? i / (share + 1) : rest + (i - wide) / share);
    }
  }
  return fitted;
}

}  // namespace espalier::model

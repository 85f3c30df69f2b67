// The checkpoints of a run in their folder: names, the newest, pins, which may go; and how experts
// spread over other ranks.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <tuple>
#include <vector>

#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint.h"
#include "libs/model/checkpoint_io.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kAside = ".tmp";
constexpr char kPinName[] = "pinned";

// A folder "step-N" or "step-N.R", or one of these with ".tmp" of an interrupted write or removal.
struct Found {
  uint64_t step = 0, revision = 1;
  bool aside = false;
  std::string path;

  bool IsNewerThan(const Found& other) const {
    return std::tie(step, revision) > std::tie(other.step, other.revision);
  }
};

bool ParseName(std::string_view name, Found* found) {
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  found->aside = name.ends_with(kAside);
  if (found->aside) name.remove_suffix(kAside.size());
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, found->step);
  if (error != std::errc()) return false;
  if (stop == end) return true;
  if (*stop != '.') return false;
  const auto revision = std::from_chars(stop + 1, end, found->revision);
  return revision.ec == std::errc() && revision.ptr == end && found->revision > 1;
}

std::optional<Found> ParsePath(const std::string& path) {
  Found found{.path = path};
  if (!ParseName(fs::path(path).filename().string(), &found) || found.aside) return std::nullopt;
  return found;
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
            [](const Found& a, const Found& b) { return a.IsNewerThan(b); });
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

std::string CheckpointName(uint64_t step, uint64_t revision) {
  const std::string name = absl::StrFormat("step-%08d", step);
  return revision == 1 ? name : absl::StrFormat("%s.%d", name, revision);
}

std::string NextCheckpointPath(const std::string& directory, uint64_t step) {
  uint64_t revision = 1;
  for (const Found& found : ListCheckpoints(directory)) {
    if (found.step == step && !found.aside) revision = std::max(revision, found.revision + 1);
  }
  return (fs::path(directory) / CheckpointName(step, revision)).string();
}

bool IsCheckpointPath(const std::string& directory, const std::string& path) {
  const auto plain = [](const fs::path& any) { return fs::absolute(any).lexically_normal(); };
  return ParsePath(path).has_value() && plain(path).parent_path() == plain(directory);
}

std::string NewestCheckpoint(const std::string& directory) {
  for (const Found& found : ListCheckpoints(directory)) {
    if (IsComplete(found)) return found.path;
  }
  return "";
}

absl::Status PinCheckpoint(const std::string& path) {
  if (IsPinned(path)) return SyncFolder(path);
  RETURN_IF_ERROR(WriteSyncedFile(path + "/" + kPinName, ""));
  return SyncFolder(path);
}

absl::Status UnpinCheckpoint(const std::string& path) {
  std::error_code error;
  const bool removed = fs::remove(path + "/" + kPinName, error);
  if (error) return SystemError("cannot unpin checkpoint", path, error.value());
  return removed ? SyncFolder(path) : absl::OkStatus();
}

bool IsPinned(const std::string& path) {
  std::error_code error;
  return fs::exists(path + "/" + kPinName, error);
}

absl::Status PruneCheckpoints(const std::string& directory, int keep, const std::string& present) {
  if (keep < 1) return absl::InvalidArgumentError("keep at least one checkpoint");
  const std::optional<Found> newest = ParsePath(present);
  int kept = 0;
  std::optional<uint64_t> last_step;  // of what was kept last
  absl::Status first;
  for (const Found& found : ListCheckpoints(directory)) {
    if (newest.has_value() && found.IsNewerThan(*newest)) continue;
    if (!found.aside && IsPinned(found.path)) continue;
    // What is newer than the newest complete one may be a write in progress, or evidence: it stays.
    if (kept < keep && found.step != last_step && IsComplete(found)) {
      ++kept;
      last_step = found.step;
    } else if (kept == keep || found.step == last_step || (kept > 0 && found.aside)) {
      first.Update(Remove(found));
    }
  }
  return first;
}

absl::Status RemoveNewerCheckpoints(const std::string& directory, const std::string& present) {
  const std::optional<Found> newest = ParsePath(present);
  if (!newest.has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s is not named as a checkpoint", present));
  }
  absl::Status first;
  for (const Found& found : ListCheckpoints(directory)) {
    if (found.IsNewerThan(*newest)) first.Update(Remove(found));
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

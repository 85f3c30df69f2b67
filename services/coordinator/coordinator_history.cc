// Reads of what was recorded: loads at a resolution, layouts at a step, events by page, series
// thinned.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "services/coordinator/backups.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/paging.h"

namespace espalier::coordinator {
namespace {

struct LoadScope {
  std::string run_id;
  uint32_t experts = 0;
  uint32_t layer_count = 0;
  uint32_t dense_layers = 0;
  uint64_t newest_step = 0;
};

// The finest resolution that gives at most `rows_max` rows; the coarsest when none does.
uint32_t PickResolution(uint64_t steps, uint64_t rows_max) {
  for (const uint32_t resolution : history::LoadHistory::kResolutions) {
    if (steps / resolution + 2 <= rows_max || steps <= rows_max * resolution) return resolution;
  }
  return history::LoadHistory::kResolutions[std::size(history::LoadHistory::kResolutions) - 1];
}

absl::StatusOr<v1::GetLoadsResponse> ReadLoads(const Ledger& ledger, const LoadScope& scope,
                                               const v1::GetLoadsRequest& request) {
  const uint64_t first = std::max<uint64_t>(1, request.first_step());
  const uint64_t last = request.last_step() == 0 ? scope.newest_step : request.last_step();
  if (last < first && request.last_step() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("last_step: ", last, " is before first_step ",
                                                   first, "; give first_step <= last_step"));
  }
  v1::GetLoadsResponse response;
  const uint64_t steps = last < first ? 0
                                      : std::min(last, scope.newest_step) -
                                            std::min(first - 1, std::min(last, scope.newest_step));
  const uint32_t rows_max =
      request.rows_max() == 0 ? Coordinator::kLoadRowsDefault : request.rows_max();
  uint32_t resolution = request.resolution();
  if (resolution == 0) resolution = PickResolution(steps, rows_max);
  if (std::find(std::begin(history::LoadHistory::kResolutions),
                std::end(history::LoadHistory::kResolutions),
                resolution) == std::end(history::LoadHistory::kResolutions)) {
    return absl::InvalidArgumentError(
        absl::StrCat("resolution: ", resolution,
                     "; allowed are 1, 16, 256, 4096, or 0 for the finest that fits"));
  }
  response.set_resolution(resolution);
  std::vector<uint32_t> layers(request.layers().begin(), request.layers().end());
  if (layers.empty()) {
    for (uint32_t layer = scope.dense_layers; layer < scope.layer_count; ++layer)
      layers.push_back(layer);
  }
  for (const uint32_t layer : layers) {
    if (layer >= scope.layer_count) {
      return absl::InvalidArgumentError(
          absl::StrCat("layers: ", layer, "; the model has layers 0 to ", scope.layer_count - 1));
    }
  }
  const uint64_t cells = (steps / resolution + 2) * scope.experts * layers.size();
  if (cells > Coordinator::kLoadCellsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the answer would hold ", cells, " numbers, more than ", Coordinator::kLoadCellsMax,
        "; ask for fewer layers or steps, or a coarser resolution"));
  }
  for (const uint32_t layer : layers) {
    v1::LoadMatrix* matrix = response.add_layers();
    matrix->set_layer(layer);
    matrix->set_experts(scope.experts);
    if (steps == 0) continue;
    ASSIGN_OR_RETURN(const history::LoadMatrix rows,
                     ledger.ReadMatrix(scope.run_id, layer, first, last, resolution));
    matrix->mutable_first_steps()->Add(rows.first_steps.begin(), rows.first_steps.end());
    matrix->mutable_tokens()->Reserve(static_cast<int>(rows.first_steps.size() * scope.experts));
    for (size_t row = 0; row < rows.first_steps.size(); ++row) {
      const auto tokens = rows.tokens.begin() + static_cast<ptrdiff_t>(row * rows.width);
      const uint32_t known = std::min<uint32_t>(scope.experts, static_cast<uint32_t>(rows.width));
      matrix->mutable_tokens()->Add(tokens, tokens + known);
      for (uint32_t expert = known; expert < scope.experts; ++expert) matrix->add_tokens(0);
    }
  }
  return response;
}

// One point a bucket: its newest step, with the evaluation that fell into it.
absl::StatusOr<v1::GetSeriesResponse> ReadSeries(const Ledger& ledger, const std::string& run_id,
                                                 uint64_t newest,
                                                 const v1::GetSeriesRequest& request) {
  if (request.points() > Coordinator::kSeriesPointsMax) {
    return absl::InvalidArgumentError(absl::StrCat("points: ", request.points(), "; at most ",
                                                   Coordinator::kSeriesPointsMax, " are allowed"));
  }
  const uint64_t points =
      request.points() == 0 ? Coordinator::kSeriesPointsDefault : request.points();
  const uint64_t first = std::max<uint64_t>(1, request.first_step());
  const uint64_t last = request.last_step() == 0 ? newest : std::min(newest, request.last_step());
  v1::GetSeriesResponse response;
  if (last < first) return response;
  const uint64_t steps = last - first + 1;
  uint64_t bucket = std::numeric_limits<uint64_t>::max();
  RETURN_IF_ERROR(ledger.ScanPoints(run_id, first, last, [&](const v1::SeriesPoint& point) {
    const uint64_t offset = point.step() - first;
    const uint64_t mine = steps <= points
                              ? offset
                              : static_cast<uint64_t>(static_cast<double>(offset) * points / steps);
    if (mine != bucket || response.points_size() == 0) {
      bucket = mine;
      *response.add_points() = point;
      return;
    }
    v1::SeriesPoint* slot = response.mutable_points(response.points_size() - 1);
    const v1::SeriesPoint older = *slot;
    *slot = point;
    if (!slot->has_heldout_loss() && older.has_heldout_loss())
      slot->set_heldout_loss(older.heldout_loss());
    if (!slot->has_reinforce() && older.has_reinforce())
      *slot->mutable_reinforce() = older.reinforce();
  }));
  return response;
}

absl::StatusOr<v1::GetLayoutResponse> ReadLayout(const Ledger& ledger, const std::string& run_id,
                                                 uint64_t newest, uint64_t step) {
  ASSIGN_OR_RETURN(const auto commands, ledger.ReadCommands(run_id, 0));
  v1::GetLayoutResponse response;
  response.set_step(step == 0 ? newest : step);
  bool found = false;
  for (const v1::Command& command : commands) {
    if (!command.has_set_layout() || !command.has_applied_step()) continue;
    if (step != 0 && command.applied_step() > step) continue;
    *response.mutable_layout() = command.set_layout();
    found = true;
  }
  if (!found) {
    return absl::NotFoundError(
        absl::StrCat("run ", run_id, " has no layout yet: no step was reported; ask again later"));
  }
  return response;
}

}  // namespace

void Coordinator::GetLoads(v1::GetLoadsRequest request, Done<v1::GetLoadsResponse> done) {
  OnReadPool<v1::GetLoadsResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::GetLoadsResponse>()> {
        const v1::ModelSpec& model = run->record.run().spec().model();
        const LoadScope scope = {run->id(), model.experts(), model.layers(), model.dense_layers(),
                                 run->newest_step()};
        return [this, request, scope] { return ReadLoads(*ledger_, scope, request); };
      });
}

void Coordinator::GetSeries(v1::GetSeriesRequest request, Done<v1::GetSeriesResponse> done) {
  OnReadPool<v1::GetSeriesResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::GetSeriesResponse>()> {
        return [this, request, id = run->id(), newest = run->newest_step()] {
          return ReadSeries(*ledger_, id, newest, request);
        };
      });
}

void Coordinator::GetLayout(v1::GetLayoutRequest request, Done<v1::GetLayoutResponse> done) {
  OnReadPool<v1::GetLayoutResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::GetLayoutResponse>()> {
        return [this, request, id = run->id(), newest = run->newest_step()] {
          return ReadLayout(*ledger_, id, newest, request.step());
        };
      });
}

void Coordinator::ListEvents(v1::ListEventsRequest request, Done<v1::ListEventsResponse> done) {
  OnReadPool<v1::ListEventsResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::ListEventsResponse>()> {
        return [this, request, id = run->id()]() -> absl::StatusOr<v1::ListEventsResponse> {
          ASSIGN_OR_RETURN(const std::string token, DecodePageToken(request.page_token()));
          uint64_t first = 1;
          if (!token.empty() && !absl::SimpleAtoi(token, &first))
            return DecodePageToken("?").status();
          const size_t size = PageSize(request.page_size());
          uint64_t next = first;
          ASSIGN_OR_RETURN(auto events, ledger_->ReadEvents(id, first, size + 1, &next));
          v1::ListEventsResponse response;
          for (size_t i = 0; i < events.size() && i < size; ++i)
            *response.add_events() = std::move(events[i]);
          if (events.size() > size)
            response.set_next_page_token(EncodePageToken(absl::StrCat(first + size)));
          return response;
        };
      });
}

void Coordinator::ListGaps(v1::ListGapsRequest request, Done<v1::ListGapsResponse> done) {
  OnReadPool<v1::ListGapsResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::ListGapsResponse>()> {
        std::vector<v1::StepRange> gaps(run->record.gaps().begin(), run->record.gaps().end());
        return [this, request, gaps, id = run->id()]() -> absl::StatusOr<v1::ListGapsResponse> {
          ASSIGN_OR_RETURN(const std::string token, DecodePageToken(request.page_token()));
          uint64_t after = 0;
          if (!token.empty() && !absl::SimpleAtoi(token, &after)) {
            return absl::InvalidArgumentError("page_token: not one of this list");
          }
          v1::ListGapsResponse response;
          for (const v1::StepRange& gap : gaps) {
            if (gap.first_step() <= after) continue;
            if (static_cast<size_t>(response.gaps_size()) == PageSize(request.page_size())) {
              response.set_next_page_token(EncodePageToken(
                  absl::StrCat(response.gaps(response.gaps_size() - 1).first_step())));
              break;
            }
            *response.add_gaps() = gap;
          }
          ASSIGN_OR_RETURN(const std::vector<uint64_t> kept, ledger_->FirstKept(id));
          for (size_t i = 0; i < kept.size(); ++i) {
            v1::RetainedResolution* retained = response.add_retained();
            retained->set_resolution(history::LoadHistory::kResolutions[i]);
            retained->set_first_step(kept[i]);
          }
          return response;
        };
      });
}

void Coordinator::CreateBackup(v1::CreateBackupRequest request,
                               Done<v1::CreateBackupResponse> done) {
  const std::string name =
      request.name().empty() ? absl::FormatTime("%Y%m%dT%H%M%SZ", absl::Now(), absl::UTCTimeZone())
                             : request.name();
  const bool good = name.size() <= 100 &&
                    absl::ascii_isalnum(static_cast<unsigned char>(name[0])) &&
                    std::all_of(name.begin(), name.end(), [](unsigned char c) {
                      return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
                    });
  if (!good) {
    return done(absl::InvalidArgumentError(
        absl::StrCat("name: \"", name,
                     "\"; allowed are up to 100 letters, digits, '-', '_' and '.', beginning with "
                     "a letter or digit")));
  }
  const std::filesystem::path folder = options_.backups.empty()
                                           ? std::filesystem::path(options_.data + ".backups")
                                           : std::filesystem::path(options_.backups);
  const bool posted = pool_.TryPost([this, folder, name, keep = request.keep(), done] {
    done([&]() -> absl::StatusOr<v1::CreateBackupResponse> {
      std::error_code error;
      std::filesystem::create_directories(folder, error);
      if (error) {
        return absl::FailedPreconditionError(absl::StrCat("cannot create ", folder.string(), ": ",
                                                          error.message(),
                                                          "; give a writable --backup-dir"));
      }
      v1::CreateBackupResponse response;
      response.set_path((folder / name).string());
      RETURN_IF_ERROR(ledger_->Backup(response.path()));
      response.set_bytes(BytesBelow(response.path()));
      LOG(INFO) << "backup_written path=" << response.path() << " bytes=" << response.bytes();
      if (keep > 0) RETURN_IF_ERROR(KeepNewest(folder, response.path(), keep));
      return response;
    }());
  });
  if (!posted)
    done(absl::UnavailableError("the coordinator has too many reads waiting; retry in a moment"));
}

}  // namespace espalier::coordinator

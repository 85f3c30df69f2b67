// Reading of loads and placements with every surprise named, and the planner behind them.
#include "services/cli/plan_offline.h"

#include <cmath>
#include <map>
#include <numeric>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kExpertsMax = 65536;

absl::Status Bad(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::StatusOr<int> LayerOf(const Json& entry, const std::string& where) {
  if (!entry.is_object() || !entry.contains("layer") || !entry["layer"].is_number_unsigned() ||
      entry["layer"].get<uint64_t>() > 1000000) {
    return Bad(where, "needs \"layer\": a number from 0");
  }
  return static_cast<int>(entry["layer"].get<uint64_t>());
}

absl::StatusOr<std::vector<double>> LoadsOf(const Json& entry, const std::string& where) {
  if (!entry.contains("loads") || !entry["loads"].is_array() || entry["loads"].empty() ||
      entry["loads"].size() > kExpertsMax) {
    return Bad(where, absl::StrCat("needs \"loads\": a list of 1 to ", kExpertsMax, " numbers"));
  }
  std::vector<double> loads;
  for (const Json& load : entry["loads"]) {
    const double value = load.is_number() ? load.get<double>() : -1;
    if (!std::isfinite(value) || value < 0) {
      return Bad(absl::StrCat(where, ".loads[", loads.size(), "]"), "is no number from 0");
    }
    loads.push_back(value);
  }
  return loads;
}

// The entries of {"layers": […]}, or of lines with one entry each.
absl::StatusOr<std::vector<Json>> Entries(const std::string& text, const std::string& what) {
  std::vector<Json> entries;
  const Json whole = Json::parse(text, nullptr, false);
  if (!whole.is_discarded() && whole.is_object() && whole.contains("layers")) {
    if (!whole["layers"].is_array()) return Bad(what, "\"layers\" is no list");
    for (const Json& entry : whole["layers"]) entries.push_back(entry);
  } else {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      entries.push_back(Json::parse(line, nullptr, false));
      if (entries.back().is_discarded()) {
        return Bad(what, "is neither {\"layers\":[…]} nor lines of {\"layer\":…,\"loads\":[…]}");
      }
    }
  }
  if (entries.empty()) return Bad(what, "holds no layers");
  return entries;
}

absl::StatusOr<std::map<int, std::vector<double>>> ReadLoads(const std::string& text) {
  ASSIGN_OR_RETURN(const std::vector<Json> entries, Entries(text, "loads"));
  std::map<int, std::vector<double>> layers;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string where = absl::StrCat("layers[", i, "]");
    ASSIGN_OR_RETURN(const int layer, LayerOf(entries[i], where));
    ASSIGN_OR_RETURN(layers[layer], LoadsOf(entries[i], where));
  }
  return layers;
}

// Rank of each expert, by layer. Every expert must be on one rank.
absl::StatusOr<std::map<int, std::vector<int>>> ReadPlacement(
    const std::string& text, const std::map<int, std::vector<double>>& loads, int rank_count) {
  std::map<int, std::vector<int>> placement;
  if (text.empty()) return placement;
  ASSIGN_OR_RETURN(const std::vector<Json> entries, Entries(text, "current placement"));
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string where = absl::StrCat("current layers[", i, "]");
    ASSIGN_OR_RETURN(const int layer, LayerOf(entries[i], where));
    const auto found = loads.find(layer);
    if (found == loads.end()) continue;
    if (!entries[i].contains("ranks") || !entries[i]["ranks"].is_array() ||
        entries[i]["ranks"].size() > static_cast<size_t>(rank_count)) {
      return Bad(where, absl::StrCat("needs \"ranks\": at most ", rank_count, " lists of experts"));
    }
    std::vector<int> ranks(found->second.size(), -1);
    int rank = 0;
    for (const Json& experts : entries[i]["ranks"]) {
      if (!experts.is_array()) return Bad(where, "a rank is no list of experts");
      for (const Json& expert : experts) {
        if (!expert.is_number_unsigned() || expert.get<uint64_t>() >= ranks.size() ||
            ranks[expert.get<size_t>()] >= 0) {
          return Bad(where, absl::StrCat("expert ", expert.dump(), " is unknown or placed twice"));
        }
        ranks[expert.get<size_t>()] = rank;
      }
      ++rank;
    }
    for (size_t expert = 0; expert < ranks.size(); ++expert) {
      if (ranks[expert] < 0) return Bad(where, absl::StrCat("expert ", expert, " is on no rank"));
    }
    placement[layer] = std::move(ranks);
  }
  return placement;
}

}  // namespace

absl::StatusOr<std::string> PlanPruneOffline(const std::string& loads,
                                             const planner::PruneOptions& options) {
  ASSIGN_OR_RETURN(const auto layers, ReadLoads(loads));
  Json list = Json::array();
  for (const auto& [layer, of] : layers) {
    std::vector<int> experts(of.size());
    std::iota(experts.begin(), experts.end(), 0);
    list.push_back({{"layer", layer}, {"pruned", planner::SelectPruned(experts, of, options)}});
  }
  return Json{{"layers", list}}.dump() + "\n";
}

absl::StatusOr<std::string> PlanPlacementOffline(const std::string& loads,
                                                 const std::string& current,
                                                 const planner::PlacementOptions& options) {
  ASSIGN_OR_RETURN(const auto layers, ReadLoads(loads));
  ASSIGN_OR_RETURN(auto placed, ReadPlacement(current, layers, options.rank_count));
  Json list = Json::array();
  for (const auto& [layer, of] : layers) {
    const planner::Placement plan = planner::PlaceExperts(of, placed[layer], options);
    Json ranks = Json::array();
    for (int rank = 0; rank < options.rank_count; ++rank) ranks.push_back(Json::array());
    for (size_t expert = 0; expert < plan.ranks.size(); ++expert) {
      ranks[static_cast<size_t>(plan.ranks[expert])].push_back(expert);
    }
    list.push_back({{"layer", layer},
                    {"ranks", ranks},
                    {"max_over_mean", plan.max_over_mean},
                    {"lower_bound_over_mean", plan.lower_bound_over_mean},
                    {"moves", plan.moves}});
  }
  return Json{{"layers", list}}.dump() + "\n";
}

}  // namespace espalier::cli

// Reading of loads and placements with every surprise named, and the planner behind them.
#include "services/cli/plan_offline.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/planner/joint.h"
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

Json ByRank(const std::vector<int>& experts, const std::vector<int>& ranks, int rank_count) {
  Json lists = Json::array();
  for (int rank = 0; rank < rank_count; ++rank) lists.push_back(Json::array());
  for (size_t i = 0; i < experts.size(); ++i)
    lists[static_cast<size_t>(ranks[i])].push_back(experts[i]);
  return lists;
}

Json Replicas(const std::vector<planner::ReplicaAdvice>& replicas) {
  Json list = Json::array();
  for (const planner::ReplicaAdvice& advice : replicas) {
    list.push_back({{"expert", advice.expert},
                    {"load_over_rank_mean", advice.load_over_rank_mean},
                    {"copies", advice.copies},
                    {"max_over_mean_with_copies", advice.max_over_mean_with_copies}});
  }
  return list;
}

}  // namespace

absl::StatusOr<std::string> PlanPruneOffline(const std::string& loads, const std::string& current,
                                             const planner::PruneOptions& prune,
                                             const planner::PlacementOptions& placement) {
  ASSIGN_OR_RETURN(const auto layers, ReadLoads(loads));
  ASSIGN_OR_RETURN(auto placed, ReadPlacement(current, layers, placement.rank_count));
  planner::PlanRequest request;
  request.prune = prune;
  request.topology = {placement.rank_count, placement.node_of_rank};
  request.extra_slots = placement.extra_slots;
  for (const auto& [layer, of] : layers) {
    planner::LayerState state;
    state.layer = layer;
    state.loads = of;
    state.experts.resize(of.size());
    std::iota(state.experts.begin(), state.experts.end(), 0);
    state.ranks = placed[layer];
    request.layers.push_back(std::move(state));
    request.prunable.insert(layer);
  }
  Json list = Json::array();
  int pruned = 0, kept = 0;
  for (const planner::LayerPlan& plan : planner::MakePlan(request).layers) {
    list.push_back({{"layer", plan.layer},
                    {"pruned", plan.pruned},
                    {"pruned_load_share", plan.pruned_load_share},
                    {"ranks", ByRank(plan.experts, plan.ranks, placement.rank_count)},
                    {"max_over_mean", plan.max_over_mean_after},
                    {"lower_bound_over_mean", plan.lower_bound_over_mean}});
    pruned += static_cast<int>(plan.pruned.size());
    kept += static_cast<int>(plan.experts.size());
  }
  return Json{{"layers", list}, {"pruned", pruned}, {"kept", kept}}.dump() + "\n";
}

absl::StatusOr<std::string> PlanPlacementOffline(const std::string& loads,
                                                 const std::string& current,
                                                 planner::PlacementOptions options,
                                                 double moves_max_share) {
  ASSIGN_OR_RETURN(const auto layers, ReadLoads(loads));
  ASSIGN_OR_RETURN(auto placed, ReadPlacement(current, layers, options.rank_count));
  const int moves_max = options.moves_max;
  Json list = Json::array();
  for (const auto& [layer, of] : layers) {
    if (moves_max_share < 1) {
      options.moves_max = std::min(
          moves_max, static_cast<int>(moves_max_share * static_cast<double>(of.size()) + 1e-9));
    }
    const planner::Placement plan = planner::PlaceExperts(of, placed[layer], options);
    std::vector<int> experts(of.size());
    std::iota(experts.begin(), experts.end(), 0);
    Json entry = {{"layer", layer},
                  {"ranks", ByRank(experts, plan.ranks, options.rank_count)},
                  {"max_over_mean", plan.max_over_mean},
                  {"lower_bound_over_mean", plan.lower_bound_over_mean},
                  {"moves", plan.moves}};
    if (!options.node_of_rank.empty()) {
      entry["node_max_over_mean"] = planner::NodeMaxOverMean(of, plan.ranks, options.node_of_rank);
    }
    const auto replicas = planner::AdviseReplicas(experts, of, options.rank_count);
    if (!replicas.empty()) entry["replicas"] = Replicas(replicas);
    list.push_back(std::move(entry));
  }
  return Json{{"layers", list}}.dump() + "\n";
}

}  // namespace espalier::cli

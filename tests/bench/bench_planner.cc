// bench_planner: time and quality of placements, beside plain capped LPT, on drawn loads and on the
// recorded run. Counters: gap_percent to the lower bound (mean over instances), gap_lpt_percent,
// moved_percent of the experts.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "libs/planner/joint.h"

namespace {

using espalier::planner::PlaceExperts;
using espalier::planner::Placement;
using espalier::planner::PlacementOptions;

constexpr int kInstances = 50;
constexpr double kTolerance = 0.001;

enum Kind { kLognormalHalf, kLognormalOne, kZipfHalf, kZipfOne };

std::vector<double> Draw(int kind, int experts, int seed) {
  std::mt19937 random(seed);
  const double shape = kind == kLognormalHalf || kind == kZipfHalf ? 0.5 : 1;
  std::lognormal_distribution<double> lognormal(0, shape);
  std::vector<double> loads(experts);
  for (int i = 0; i < experts; ++i) {
    loads[i] = kind <= kLognormalOne ? lognormal(random) : std::pow(i + 1, -shape);
  }
  std::shuffle(loads.begin(), loads.end(), random);
  return loads;
}

// Capped LPT alone: what the paper does.
double LptOverMean(const std::vector<double>& loads, int ranks, int capacity) {
  std::vector<int> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return loads[a] > loads[b]; });
  std::vector<double> sums(ranks);
  std::vector<int> held(ranks);
  for (const int expert : order) {
    int best = -1;
    for (int rank = 0; rank < ranks; ++rank) {
      if (held[rank] < capacity && (best < 0 || sums[rank] < sums[best])) best = rank;
    }
    ++held[best];
    sums[best] += loads[expert];
  }
  return *std::max_element(sums.begin(), sums.end()) * ranks /
         std::accumulate(loads.begin(), loads.end(), 0.0);
}

// Arguments: experts, ranks, Kind, extra slots. Time is for kInstances plans.
void BM_Place(benchmark::State& state) {
  const int experts = state.range(0), ranks = state.range(1), extra = state.range(3);
  std::vector<std::vector<double>> instances;
  for (int i = 0; i < kInstances; ++i) instances.push_back(Draw(state.range(2), experts, i));
  const PlacementOptions options{
      .rank_count = ranks, .extra_slots = extra, .tolerance = kTolerance};
  double gap = 0, worst = 0, lpt = 0;
  for (auto _ : state) {
    gap = worst = 0;
    for (const auto& loads : instances) {
      const Placement placement = PlaceExperts(loads, {}, options);
      const double mine = placement.max_over_mean / placement.lower_bound_over_mean - 1;
      gap += mine;
      worst = std::max(worst, mine);
    }
  }
  for (const auto& loads : instances) {
    const double bound = PlaceExperts(loads, {}, options).lower_bound_over_mean;
    lpt += LptOverMean(loads, ranks, (experts + ranks - 1) / ranks + extra) / bound - 1;
  }
  state.counters["gap_percent"] = 100 * gap / kInstances;
  state.counters["gap_worst_percent"] = 100 * worst;
  state.counters["gap_lpt_percent"] = 100 * lpt / kInstances;
  state.SetItemsProcessed(state.iterations() * kInstances);
}
BENCHMARK(BM_Place)
    ->ArgsProduct({{64}, {8}, {0, 1, 2, 3}, {0, 2}})
    ->ArgsProduct({{48}, {8}, {0, 1, 2, 3}, {0, 2}})
    ->ArgsProduct({{128}, {16}, {0, 1, 2, 3}, {0, 2}})
    ->ArgsProduct({{256}, {32}, {0, 1, 2, 3}, {0, 2}})
    ->ArgsProduct({{512}, {64}, {0, 1, 2, 3}, {0, 2}})
    ->Unit(benchmark::kMillisecond);

// A whole model: 60 layers of 256 experts on 32 ranks, pruned, placed and weighed. Arguments: Kind,
// ranks a node (0: one node).
void BM_PlanModel(benchmark::State& state) {
  std::vector<espalier::planner::LayerState> layers(60);
  for (int l = 0; l < 60; ++l) {
    layers[l].layer = l;
    layers[l].loads = Draw(state.range(0), 256, l);
    for (int e = 0; e < 256; ++e) {
      layers[l].experts.push_back(e);
      layers[l].ranks.push_back(e / 8);
    }
    layers[l].previous_loads = layers[l].loads;
  }
  espalier::planner::PlanRequest request;
  for (const auto& layer : layers) request.prunable.insert(layer.layer);
  request.layers = std::move(layers);
  request.prune.beta = 0.02;
  request.topology.rank_count = 32;
  const int per_node = static_cast<int>(state.range(1));
  for (int rank = 0; per_node > 0 && rank < 32; ++rank)
    request.topology.node_of_rank.push_back(rank / per_node);
  request.tolerance = kTolerance;
  request.cost = {.step_seconds = 1, .experts_seconds = 0.5, .expert_bytes = 1e8};
  espalier::planner::JointPlan plan;
  for (auto _ : state) {
    plan = espalier::planner::MakePlan(request);
    benchmark::DoNotOptimize(plan);
  }
  double nodes = 0;
  for (const auto& layer : plan.layers) nodes += layer.node_max_over_mean_after;
  state.counters["max_over_mean_before"] = plan.imbalance_before;
  state.counters["max_over_mean_after"] = plan.imbalance_after;
  state.counters["node_max_over_mean_after"] = nodes / 60;
  state.counters["payback_steps"] = plan.payback_steps.value_or(0);
}
BENCHMARK(BM_PlanModel)
    ->ArgsProduct({{0, 1, 2, 3}, {0, 8}})
    ->ArgNames({"loads", "ranks_per_node"})
    ->Unit(benchmark::kMillisecond);

// Loads drift by 20%; the plan follows from the current placement. Arguments: experts, ranks.
void BM_Follow(benchmark::State& state) {
  const int experts = state.range(0), ranks = state.range(1);
  std::vector<std::vector<double>> drifted;
  std::vector<std::vector<int>> current;
  double full = 0;
  for (int i = 0; i < kInstances; ++i) {
    auto loads = Draw(kLognormalHalf, experts, i);
    current.push_back(PlaceExperts(loads, {}, {.rank_count = ranks}).ranks);
    std::mt19937 random(i);
    std::normal_distribution<double> drift(1, 0.2);
    for (double& load : loads) load *= std::max(0.05, drift(random));
    full += PlaceExperts(loads, {}, {.rank_count = ranks}).max_over_mean;
    drifted.push_back(std::move(loads));
  }
  double moved = 0, peak = 0;
  for (auto _ : state) {
    moved = peak = 0;
    for (int i = 0; i < kInstances; ++i) {
      const Placement next =
          PlaceExperts(drifted[i], current[i], {.rank_count = ranks, .tolerance = 0.01});
      moved += next.moves;
      peak += next.max_over_mean;
    }
  }
  state.counters["moved_percent"] = 100 * moved / kInstances / experts;
  state.counters["above_full_replan_percent"] = 100 * (peak / full - 1);
  state.SetItemsProcessed(state.iterations() * kInstances);
}
BENCHMARK(BM_Follow)->Args({64, 8})->Args({128, 16})->Args({256, 32})->Args({512, 64})->Unit(
    benchmark::kMillisecond);

// The recorded run (four layers, 64 experts), last window. Argument: ranks. Run in the source
// folder.
void BM_Recorded(benchmark::State& state) {
  std::ifstream file("tests/data/expert_loads.jsonl");
  std::vector<std::vector<double>> layers(64);
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    layers[row["layer"]] = row["loads"].get<std::vector<double>>();
  }
  std::erase_if(layers, [](const auto& loads) { return loads.empty(); });
  if (layers.empty()) return state.SkipWithError("tests/data/expert_loads.jsonl not found");
  const int ranks = state.range(0);
  double after = 0, bound = 0, lpt = 0;
  for (auto _ : state) {
    after = bound = 0;
    for (const auto& loads : layers) {
      const auto placement =
          PlaceExperts(loads, {}, {.rank_count = ranks, .tolerance = kTolerance});
      after += placement.max_over_mean;
      bound += placement.lower_bound_over_mean;
    }
  }
  for (const auto& loads : layers) lpt += LptOverMean(loads, ranks, (64 + ranks - 1) / ranks + 2);
  state.counters["max_over_mean"] = after / layers.size();
  state.counters["lower_bound_over_mean"] = bound / layers.size();
  state.counters["lpt_max_over_mean"] = lpt / layers.size();
}
BENCHMARK(BM_Recorded)->Arg(4)->Arg(8)->Arg(16)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

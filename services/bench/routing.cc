// Top-k of log weight plus Gumbel noise draws k experts without repetition by their weights.
#include "services/bench/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace espalier::bench {

absl::StatusOr<Routing> ReadRouting(const std::string& text) {
  Routing routing;
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts[0] == "natural" && parts.size() == 1) return routing;
  if (parts[0] == "balanced" && parts.size() == 1) {
    routing.kind = Routing::Kind::kBalanced;
    return routing;
  }
  if (parts.size() == 2 && (parts[0] == "zipf" || parts[0] == "zipfc") &&
      absl::SimpleAtod(parts[1], &routing.exponent) && routing.exponent >= 0 &&
      routing.exponent <= 10) {
    routing.kind = parts[0] == "zipf" ? Routing::Kind::kZipf : Routing::Kind::kZipfClumped;
    return routing;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--routing ", text, ": give natural, balanced, zipf:A or zipfc:A with A from 0 to 10"));
}

std::vector<int32_t> DrawRoutes(const Routing& routing, const model::ModelConfig& config,
                                int64_t tokens, uint64_t seed) {
  if (routing.kind == Routing::Kind::kNatural) return {};
  const int layers = config.layers - config.dense_layers, experts = config.experts,
            top_k = config.top_k;
  std::vector<int32_t> routes(tokens * layers * top_k);
  std::mt19937_64 random(seed);
  if (routing.kind == Routing::Kind::kBalanced) {
    // A random rotation a token and layer: every expert k/E of the time, and each count nearly exact.
    std::vector<int32_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    for (int layer = 0; layer < layers; ++layer) {
      std::shuffle(order.begin(), order.end(), random);
      int64_t next = 0;
      for (int64_t token = 0; token < tokens; ++token) {
        for (int k = 0; k < top_k; ++k) {
          routes[(token * layers + layer) * top_k + k] = order[next++ % experts];
        }
        if (next % experts == 0) std::shuffle(order.begin(), order.end(), random);
      }
    }
    return routes;
  }
  std::uniform_real_distribution<double> uniform(1e-12, 1.0);
  std::vector<std::pair<double, int32_t>> keys(experts);
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<int32_t> rank(experts);
    std::iota(rank.begin(), rank.end(), 0);
    if (routing.kind == Routing::Kind::kZipf) std::shuffle(rank.begin(), rank.end(), random);
    std::vector<double> weight(experts);
    for (int expert = 0; expert < experts; ++expert) {
      weight[expert] = -routing.exponent * std::log(rank[expert] + 1.0);
    }
    for (int64_t token = 0; token < tokens; ++token) {
      for (int expert = 0; expert < experts; ++expert) {
        keys[expert] = {-(weight[expert] - std::log(-std::log(uniform(random)))), expert};
      }
      std::partial_sort(keys.begin(), keys.begin() + top_k, keys.end());
      for (int k = 0; k < top_k; ++k) {
        routes[(token * layers + layer) * top_k + k] = keys[k].second;
      }
    }
  }
  return routes;
}

}  // namespace espalier::bench

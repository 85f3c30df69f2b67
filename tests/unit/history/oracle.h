// Loads that are known for every step, and a plain map's answer to what a history must return.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "libs/history/store.h"

namespace espalier::history {

constexpr uint32_t kLayers = 2;
constexpr size_t kExperts = 5;

inline std::vector<uint64_t> TokensAt(uint64_t step, uint32_t layer) {
  std::vector<uint64_t> tokens(kExperts);
  uint64_t state = step * 31 + layer;
  for (uint64_t& count : tokens) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    count = (state >> 33) % 2000;
  }
  return tokens;
}

inline std::vector<LoadRow> RowsAt(uint64_t step) {
  std::vector<LoadRow> rows;
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    rows.push_back({layer, step, TokensAt(step, layer)});
  }
  return rows;
}

// A store in `directory` with its loads.
struct Fixture {
  explicit Fixture(const std::string& directory) {
    auto opened = Store::Open(directory);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store = *std::move(opened);
    loads = LoadHistory::Create(store.get());
  }
  std::unique_ptr<Store> store;
  std::unique_ptr<LoadHistory> loads;
};

// Sums of `steps` that touch first..last and begin at `kept` or later.
inline std::map<uint64_t, std::vector<uint64_t>> Expected(const std::vector<uint64_t>& steps,
                                                          uint32_t layer, uint64_t first,
                                                          uint64_t last, uint64_t resolution,
                                                          uint64_t kept = 0) {
  std::map<uint64_t, std::vector<uint64_t>> sums;
  for (const uint64_t step : steps) {
    const uint64_t block = step / resolution * resolution;
    if (block + resolution <= first || block > last || block < kept) continue;
    auto& sum = sums[block];
    sum.resize(kExperts);
    const auto tokens = TokensAt(step, layer);
    for (size_t i = 0; i < tokens.size(); ++i) sum[i] += tokens[i];
  }
  return sums;
}

// `kept`: the first step of each resolution.
inline void ExpectHolds(const LoadHistory& loads, const std::vector<uint64_t>& steps,
                        uint64_t first, uint64_t last,
                        const std::vector<uint64_t>& kept = {0, 0, 0, 0},
                        const std::string& run = "run") {
  for (size_t level = 0; level < kept.size(); ++level) {
    const uint32_t resolution = LoadHistory::kResolutions[level];
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const auto blocks = loads.Read(run, layer, first, last, resolution);
      ASSERT_TRUE(blocks.ok()) << blocks.status();
      std::map<uint64_t, std::vector<uint64_t>> got;
      for (const LoadBlock& block : *blocks) {
        EXPECT_TRUE(got.emplace(block.first_step, block.tokens).second) << block.first_step;
      }
      EXPECT_EQ(got, Expected(steps, layer, first, last, resolution, kept[level]))
          << "resolution " << resolution << " steps " << first << " to " << last;
    }
  }
}

}  // namespace espalier::history

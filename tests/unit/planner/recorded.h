// Expert loads recorded in real training without balancing (64 experts, windows of 50 steps), from
// tests/data.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace espalier::planner {

struct Window {
  int last_step = 0;
  std::vector<double> loads;
};

// By layer, windows in order. The working directory is the source folder.
inline std::map<int, std::vector<Window>> ReadRecorded() {
  std::ifstream file("tests/data/expert_loads.jsonl");
  EXPECT_TRUE(file.is_open()) << "run in the source folder";
  std::map<int, std::vector<Window>> layers;
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    layers[row["layer"]].push_back({row["steps_to"], row["loads"].get<std::vector<double>>()});
  }
  EXPECT_FALSE(layers.empty());
  return layers;
}

}  // namespace espalier::planner

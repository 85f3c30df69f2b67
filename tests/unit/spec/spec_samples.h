// A small complete spec for the tests of this folder, and a way to change it.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/spec/spec.h"

namespace espalier::spec {

inline constexpr char kSample[] = R"(
name: sample
model: {layers: 2, width: 64, heads: 4, experts: 8, top_k: 2, expert_width: 32}
data: {corpus: corpus.txt}
stages:
  - pretrain:
      steps: 100
      batch_sequences: 8
      sequence_length: 32
      optimizer: {learning_rate: 1e-3}
)";

inline v1::RunSpec Sample() {
  auto spec = ParseRunSpec(kSample);
  EXPECT_TRUE(spec.ok()) << spec.status();
  FillDefaults(&*spec);
  return *std::move(spec);
}

inline std::string ReadText(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path).rdbuf();
  return std::move(content).str();
}

inline std::string MessageOf(const absl::Status& status) {
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, status.code()) << status;
  return std::string(status.message());
}

}  // namespace espalier::spec

// Goal: reflections are counted where a reader finds them. Method: 100 traces labelled by hand
// (tests/data/reward_traces.jsonl) with the offset in code points of the sentence that first states
// the complete answer, the number of later statements of it and the number of sentences that
// hesitate; agreement with each label is printed and held. REWARD_TRACES names another file.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"
#include "nlohmann/json.hpp"

namespace espalier::reward {
namespace {

using Json = nlohmann::json;

// Of 100; what was reached, so that it does not slip.
constexpr int kFirstMin = 99, kRestatementsMin = 99, kHesitationsMin = 100;

int64_t CodePoints(const std::string& text, int64_t bytes) {
  int64_t points = 0;
  for (int64_t at = 0; at < bytes; ++at)
    points += (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
  return points;
}

std::vector<Json> ReadCases() {
  const char* path = std::getenv("REWARD_TRACES");
  std::ifstream in(path != nullptr ? path : "tests/data/reward_traces.jsonl");
  std::vector<Json> cases;
  for (std::string line; std::getline(in, line);) cases.push_back(Json::parse(line));
  return cases;
}

TEST(ReflectTraces, AgreeWithTheLabelsOfAReader) {
  const std::vector<Json> cases = ReadCases();
  ASSERT_EQ(100u, cases.size());
  int firsts = 0, restatements = 0, hesitations = 0;
  for (const Json& one : cases) {
    const std::string trace = one["trace"];
    const TraceScore score = ScoreGroup(one["gold"].get<std::string>(), {{trace}}, {})[0];
    Json found = nullptr;
    if (score.first_correct) found = CodePoints(trace, score.first_correct->begin);
    firsts += found == one["first_correct"];
    restatements += score.reflections == one["restatements"];
    hesitations += score.hesitations == one["hesitations"];
    if (found != one["first_correct"] || score.reflections != one["restatements"] ||
        score.hesitations != one["hesitations"]) {
      std::cout << one["id"] << ": first " << found << " (" << one["first_correct"]
                << "), restatements " << score.reflections << " (" << one["restatements"]
                << "), hesitations " << score.hesitations << " (" << one["hesitations"] << ")\n";
    }
  }
  std::cout << "agreement: first correct " << firsts << ", restatements " << restatements
            << ", hesitations " << hesitations << " of " << cases.size() << "\n";
  EXPECT_GE(firsts, kFirstMin);
  EXPECT_GE(restatements, kRestatementsMin);
  EXPECT_GE(hesitations, kHesitationsMin);
}

}  // namespace
}  // namespace espalier::reward

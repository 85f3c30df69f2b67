// Goal: a metric that is renamed, relabelled or taken away shows in review, as dashboards and
// alerts of others hang on it. Method: the tables of all services against two files.
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/observe/all_metrics.h"

namespace espalier::observe {
namespace {

std::string Contents(const char* path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(MetricsGolden, HoldsEveryMetric) {
  EXPECT_EQ(Contents("tests/data/metrics.golden"), GoldenOfAllMetrics())
      << "if that is meant: describe_metrics golden > tests/data/metrics.golden";
}

TEST(MetricsGolden, ReferenceIsMadeFromTheSame) {
  EXPECT_EQ(Contents("deploy/monitoring/METRICS.md"), ReferenceOfAllMetrics())
      << "if that is meant: describe_metrics markdown > deploy/monitoring/METRICS.md";
}

// name, kind, unit, labels, help
std::vector<std::vector<std::string>> Rows() {
  std::vector<std::vector<std::string>> rows;
  for (const absl::string_view line : absl::StrSplit(GoldenOfAllMetrics(), '\n', absl::SkipEmpty()))
    rows.push_back(absl::StrSplit(line, '\t'));
  return rows;
}

TEST(MetricsGolden, NamesFollowPrometheusRules) {
  std::set<std::string> names;
  for (const auto& row : Rows()) {
    SCOPED_TRACE(row[0]);
    ASSERT_EQ(row.size(), 5u);
    EXPECT_TRUE(names.insert(row[0]).second) << "declared by two services, differently";
    EXPECT_THAT(row[0], testing::StartsWith("espalier_"));
    EXPECT_EQ(absl::EndsWith(row[0], "_total"), row[1] == "counter");
    const std::string base(absl::StripSuffix(row[0], "_total"));
    if (row[1] == "histogram" && row[2] == "seconds")
      EXPECT_THAT(base, testing::EndsWith("_seconds"));
    if (row[2] == "seconds" || row[2] == "bytes") {
      EXPECT_THAT(base, testing::EndsWith(row[2])) << "the unit ends the name";
    }
    EXPECT_THAT(row[4], testing::EndsWith(".")) << "help is a sentence";
    // Run ids are the one open set; a worker id or an address would grow without end.
    for (const absl::string_view label : absl::StrSplit(row[3], ',', absl::SkipEmpty())) {
      EXPECT_THAT((std::set<absl::string_view>{"run", "state", "stage", "phase", "what", "source",
                                               "method", "code", "outcome", "verdict", "reason"}),
                  testing::Contains(label));
    }
  }
}

}  // namespace
}  // namespace espalier::observe

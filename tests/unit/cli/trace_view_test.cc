// Goal: an explanation blames the right rank for the right reason. Method: steps made by hand,
// where one thing is wrong at a time.
#include "services/cli/trace_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using testing::HasSubstr;

// A rank that works on `rows` tokens for `work`, then waits for the others in an exchange that it
// leaves at `leave`, and ends at `end`. Milliseconds.
void AddRank(v1::GetTraceResponse* trace, int64_t rows, double work, double leave, double end) {
  const auto nanos = [](double ms) { return static_cast<uint64_t>(1'000'000'000 + ms * 1e6); };
  v1::RankTrace* rank = trace->add_ranks();
  rank->set_rank(static_cast<uint32_t>(trace->ranks_size() - 1));
  rank->set_step(7);
  rank->set_reason(v1::TRACE_REASON_SLOW);
  uint64_t next = 1 + 100 * rank->rank();
  const auto add = [&](const char* name, uint64_t parent, double from, double to) {
    v1::TraceSpan* span = rank->add_spans();
    span->set_span_id(next++);
    span->set_parent_id(parent);
    span->set_name(name);
    span->set_start_unix_nanos(nanos(from));
    span->set_end_unix_nanos(nanos(to));
    return span;
  };
  const auto number = [](v1::TraceSpan* span, const char* key, int64_t value) {
    span->add_attributes()->set_key(key);
    span->mutable_attributes()->rbegin()->set_number(value);
  };
  const uint64_t root = add("rank", 9999, 0, end)->span_id();
  const uint64_t pass = add("pass", root, 0, leave)->span_id();
  const uint64_t forward = add("forward", pass, 0, leave)->span_id();
  v1::TraceSpan* layer = add("layer", forward, 0, leave);
  number(layer, "layer", 3);
  const uint64_t layer_id = layer->span_id();
  number(add("experts", layer_id, 0, work), "tokens", rows);
  const uint64_t combine = add("combine", layer_id, work, leave)->span_id();
  add("exchange", combine, work, leave);
  add("optimizer", root, leave, end);
  trace->set_run_id("r-1");
  trace->set_rank_count(static_cast<uint32_t>(trace->ranks_size()));
}

TEST(ExplainTrace, BlamesMoreTokens) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 100, 10, 31, 40);
  AddRank(&trace, 300, 30, 31, 40);
  const auto told = ExplainTrace(trace);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_NEAR(told->ranks[0].late(), 0, 1e-6);
  EXPECT_NEAR(told->ranks[1].load, 0.020, 1e-6);
  EXPECT_NEAR(told->ranks[1].device, 0, 1e-6);
  EXPECT_NEAR(told->ranks[0].wait, 0.021, 1e-6);
}

TEST(ExplainTrace, BlamesASlowDevice) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 200, 10, 31, 40);
  AddRank(&trace, 200, 30, 31, 40);
  const auto told = ExplainTrace(trace);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_NEAR(told->ranks[1].load, 0, 1e-6);
  EXPECT_NEAR(told->ranks[1].device, 0.020, 1e-6);
}

TEST(ExplainTrace, BlamesTheNetwork) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 200, 10, 11, 20);
  AddRank(&trace, 200, 10, 15, 24);
  const auto told = ExplainTrace(trace);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_NEAR(told->ranks[1].network, 0.004, 1e-6);
  EXPECT_NEAR(told->ranks[1].late(), 0.004, 1e-6);
}

TEST(ExplainTrace, ThePathGoesThroughTheRankThatWasWaitedFor) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 100, 10, 31, 45);
  AddRank(&trace, 300, 30, 31, 40);
  const auto told = ExplainTrace(trace);
  ASSERT_TRUE(told.ok()) << told.status();
  ASSERT_EQ(told->path.size(), 3u);
  EXPECT_EQ(told->path[0].rank, 1u);
  EXPECT_EQ(told->path[0].phase, "experts");
  EXPECT_EQ(told->path[0].layer, 3);
  EXPECT_EQ(told->path[0].direction, "forward");
  EXPECT_EQ(told->path[0].tokens, 300);
  EXPECT_EQ(told->path[1].phase, "exchange");
  EXPECT_NEAR(told->path[1].end - told->path[1].start, 0.001, 1e-6);
  EXPECT_EQ(told->path[2].rank, 0u);
  EXPECT_EQ(told->path[2].phase, "optimizer");
  EXPECT_NEAR(told->path[2].end, told->seconds, 1e-9);
  EXPECT_THAT(Render(*told, {}), HasSubstr("it was slow"));
}

TEST(ExplainTrace, SaysWhatIsMissing) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 100, 10, 31, 45);
  trace.set_rank_count(2);
  EXPECT_THAT(std::string(ExplainTrace(trace).status().message()), HasSubstr("1 of 2 ranks"));
  AddRank(&trace, 100, 10, 31, 45);
  auto* spans = trace.mutable_ranks(1)->mutable_spans();
  spans->DeleteSubrange(6, 1);  // the exchange
  EXPECT_THAT(std::string(ExplainTrace(trace).status().message()), HasSubstr("were left out"));
  EXPECT_FALSE(ExplainTrace(v1::GetTraceResponse()).ok());
}

TEST(PerfettoJson, NestsEventsOfOneLine) {
  v1::GetTraceResponse trace;
  AddRank(&trace, 100, 10, 31, 45);
  for (int i = 0; i < 2; ++i) {  // two calls at the same time
    v1::TraceSpan* call = trace.mutable_ranks(0)->add_spans();
    *call = trace.ranks(0).spans(0);
    call->set_span_id(50 + i);
    call->set_name("call");
    call->set_client(true);
  }
  const auto json = nlohmann::json::parse(PerfettoJson(trace));
  std::set<int> lines;
  for (const auto& event : json["traceEvents"]) {
    if (event["name"] == "call") lines.insert(event["tid"].get<int>());
    if (event["name"] == "layer 3") {
      EXPECT_EQ(event["args"]["layer"], 3);
    }
  }
  EXPECT_EQ(lines.size(), 2u);
}

}  // namespace
}  // namespace espalier::cli

// Goal: traces kept are bounded, roots span their ranks, a decision's trace is whole. Method: the
// pure parts alone.
#include "services/coordinator/trace_shelf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace espalier::coordinator {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

v1::RankTrace Trace(uint64_t step, uint32_t rank, uint64_t start, uint64_t end,
                    uint64_t epoch = 1) {
  v1::RankTrace trace;
  trace.set_run_id("r");
  trace.set_epoch(epoch);
  trace.set_step(step);
  trace.set_rank(rank);
  trace.set_reason(v1::TRACE_REASON_EVERY);
  v1::TraceSpan* span = trace.add_spans();
  span->set_span_id(observe::RankRoot("r", epoch, step, rank));
  span->set_parent_id(observe::StepRoot("r", epoch, step));
  span->set_name("rank");
  span->set_start_unix_nanos(start);
  span->set_end_unix_nanos(end);
  return trace;
}

TEST(TraceShelf, KeepsTheNewestStepsAndBytes) {
  TraceShelf shelf;
  for (uint64_t step = 1; step <= TraceShelf::kStepsMax; ++step)
    EXPECT_THAT(shelf.Keep(step, 10), IsEmpty());
  EXPECT_THAT(shelf.Keep(100, 10), ElementsAre(1));
  EXPECT_THAT(shelf.Keep(100, 10), IsEmpty()) << "another rank of the same step";
  EXPECT_EQ(shelf.Keep(101, TraceShelf::kBytesMax).size(), TraceShelf::kStepsMax);
  EXPECT_THAT(shelf.Keep(102, 1), ElementsAre(101));
}

TEST(TraceShelf, ARootSpansItsRanksWhenAllHaveCome) {
  TraceShelf shelf;
  EXPECT_THAT(shelf.Join(Trace(5, 1, 110, 220), 2), IsEmpty());
  EXPECT_THAT(shelf.Join(Trace(5, 1, 110, 220), 2), IsEmpty()) << "said again";
  const auto roots = shelf.Join(Trace(5, 0, 100, 210), 2);
  ASSERT_EQ(roots.size(), 1u);
  const observe::Span span = roots[0].ToSpan("r", 2);
  EXPECT_EQ(span.start_nanos, 100);
  EXPECT_EQ(span.end_nanos, 220);
  EXPECT_EQ(span.span, observe::StepRoot("r", 1, 5));
  EXPECT_EQ(span.parent, 0u);
  EXPECT_EQ(span.error, "");
}

TEST(TraceShelf, AStepThatLacksARankIsGivenUpAndSaysSo) {
  TraceShelf shelf;
  for (uint64_t step = 1; step <= TraceShelf::kOpenMax; ++step)
    EXPECT_THAT(shelf.Join(Trace(step, 0, 100, 200), 2), IsEmpty());
  const auto roots = shelf.Join(Trace(9, 0, 100, 200), 2);
  ASSERT_EQ(roots.size(), 1u);
  EXPECT_EQ(roots[0].step, 1u);
  EXPECT_THAT(roots[0].ToSpan("r", 2).error, HasSubstr("1 ranks did not come"));
  EXPECT_EQ(shelf.TakeOpen().size(), TraceShelf::kOpenMax);
  EXPECT_THAT(shelf.TakeOpen(), IsEmpty());
}

TEST(TraceShelf, AnotherEpochBeginsAnew) {
  TraceShelf shelf;
  EXPECT_THAT(shelf.Join(Trace(5, 1, 100, 200, 1), 2), IsEmpty());
  EXPECT_THAT(shelf.Join(Trace(5, 0, 300, 400, 2), 2), IsEmpty());
  const auto roots = shelf.Join(Trace(5, 1, 310, 420, 2), 2);
  ASSERT_EQ(roots.size(), 1u);
  EXPECT_EQ(roots[0].start_nanos, 300);
  EXPECT_EQ(roots[0].ToSpan("r", 2).span, observe::StepRoot("r", 2, 5));
}

TEST(CheckTrace, NamesWhatIsWrong) {
  EXPECT_TRUE(CheckTrace(Trace(5, 1, 1, 2), 2).ok());
  EXPECT_THAT(std::string(CheckTrace(Trace(5, 2, 1, 2), 2).message()), HasSubstr("trace.rank: 2"));
  EXPECT_THAT(std::string(CheckTrace(Trace(0, 0, 1, 2), 2).message()), HasSubstr("trace.step"));
  EXPECT_THAT(std::string(CheckTrace(Trace(5, 0, 2, 1), 2).message()), HasSubstr("ends before"));
  v1::RankTrace empty = Trace(5, 0, 1, 2);
  empty.clear_spans();
  EXPECT_THAT(std::string(CheckTrace(empty, 2).message()), HasSubstr("trace.spans: 0"));
}

TEST(DecisionSpans, HoldEachRanksApplicationWithinItsCommand) {
  v1::Decision decision;
  decision.set_run_id("r");
  decision.set_decision_id("d-1");
  decision.set_state(v1::DECISION_STATE_VERIFIED);
  decision.mutable_plan()->set_step_seconds_predicted(0.5);
  decision.set_step_seconds_realised(0.6);
  DecisionTimes times{.asked_nanos = 1000, .made_nanos = 2000};
  times.commands[3] = {.action = "set_layout",
                       .epoch = 1,
                       .applied_step = 7,
                       .stored_nanos = 2100,
                       .applied_nanos = 5000,
                       // Rank 1's clock is off by more than the command's own begin.
                       .applies = {{0, 3000, 4000}, {1, 2000, 4500}}};
  const std::vector<observe::Span> spans = DecisionSpans(decision, times, 9000);
  std::map<observe::SpanId, observe::Span> by_id;
  for (const observe::Span& span : spans) by_id[span.span] = span;
  ASSERT_EQ(by_id.size(), spans.size());
  std::vector<std::string> names;
  for (const observe::Span& span : spans) {
    names.push_back(span.name);
    EXPECT_EQ(span.trace, observe::TraceOfDecision("r", "d-1"));
    if (span.parent == 0) continue;
    ASSERT_EQ(by_id.count(span.parent), 1u) << span.name;
    EXPECT_GE(span.start_nanos, by_id[span.parent].start_nanos) << span.name;
    EXPECT_LE(span.end_nanos, by_id[span.parent].end_nanos) << span.name;
  }
  EXPECT_THAT(names, ElementsAre("decision", "propose", "command", "apply", "apply", "verify"));
  EXPECT_EQ(by_id[observe::CommandSpan("r", 3)].name, "command");
  EXPECT_EQ(spans[3].links[0].span, observe::RankRoot("r", 1, 7, 0));
}

TEST(DecisionSpans, AreWholeWhenACoordinatorKnowsNoTimes) {
  v1::Decision decision;
  decision.set_run_id("r");
  decision.set_decision_id("d-1");
  decision.mutable_create_time()->set_seconds(10);
  const auto spans = DecisionSpans(decision, {}, 20'000'000'000);
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].start_nanos, 10'000'000'000);
  EXPECT_EQ(spans[0].end_nanos, 20'000'000'000);
}

}  // namespace
}  // namespace espalier::coordinator

// Goal: ids that any process derives alike, traceparent as W3C recommends it, sampling that all
// ranks agree on, clocks that are corrected. Method: known vectors and the boundaries.
#include <gtest/gtest.h>

#include <set>

#include "libs/observe/step_sampler.h"
#include "libs/observe/trace_context.h"

namespace espalier::observe {
namespace {

constexpr char kExample[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(Traceparent, ComesBackAsItWas) {
  const auto context = ParseTraceparent(kExample);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace.Hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(context->span, 0x00f067aa0ba902b7u);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(FormatTraceparent(*context), kExample);
}

TEST(Traceparent, RefusesWhatIsInvalid) {
  const std::string good = kExample;
  for (const std::string& bad : {
           std::string(), good.substr(1), good.substr(0, 54), good + "0",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01" + std::string(),
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01" + std::string(),
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01" + std::string(),
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" + std::string(),
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01" + std::string(),
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" + std::string(),
           good + "-more",  // version 00 has no more
       }) {
    EXPECT_FALSE(ParseTraceparent(bad).has_value()) << bad;
  }
}

TEST(Traceparent, ReadsLaterVersionsAsFarAsKnown) {
  EXPECT_TRUE(ParseTraceparent("01" + std::string(kExample).substr(2) + "-more").has_value());
  EXPECT_FALSE(ParseTraceparent("01" + std::string(kExample).substr(2) + "more").has_value());
  const auto unsampled = ParseTraceparent(std::string(kExample).substr(0, 53) + "02");
  ASSERT_TRUE(unsampled.has_value());
  EXPECT_FALSE(unsampled->sampled);
}

TEST(TraceIds, AreThoseThatTheReadmeNames) {
  // printf 'espalier step r-1 7' | sha256sum
  EXPECT_EQ(TraceOfStep("r-1", 7).Hex(), "0cdb51fdf745e025bb4a8cc3f8c78c3d");
  EXPECT_EQ(TraceOfStep("r-1", 7), TraceOfStep("r-1", 7));
  EXPECT_FALSE(TraceOfStep("r-1", 7) == TraceOfStep("r-1", 8));
  EXPECT_FALSE(TraceOfStep("r-1", 71) == TraceOfStep("r-17", 1));
}

TEST(TraceIds, DoNotMeet) {
  std::set<SpanId> ids;
  for (uint64_t step = 1; step <= 50; ++step) {
    ids.insert(StepRoot("r", 1, step));
    ids.insert(StepRoot("r", 2, step));
    for (uint32_t rank = 0; rank < 4; ++rank) {
      const SpanId root = RankRoot("r", 1, step, rank);
      ids.insert(root);
      for (uint64_t child = 0; child < 100; ++child) ids.insert(ChildOf(root, child));
    }
  }
  EXPECT_EQ(ids.size(), 50u * (2 + 4 * 101));
  EXPECT_EQ(ids.count(0), 0u);
}

TEST(TraceScope, EndsWithWhatWasBefore) {
  EXPECT_EQ(GetCurrentTrace(), nullptr);
  {
    const TraceScope outer({*ParseTraceparent(kExample), {}, nullptr});
    {
      const TraceScope inner({{TraceOfStep("r", 1), 5, true}, {}, nullptr});
      EXPECT_EQ(GetCurrentTrace()->context.span, 5u);
    }
    EXPECT_EQ(GetCurrentTrace()->context.span, 0x00f067aa0ba902b7u);
  }
  EXPECT_EQ(GetCurrentTrace(), nullptr);
}

TEST(StepSampler, TakesOneInN) {
  const StepSampler sampler(10);
  int taken = 0;
  for (uint64_t step = 1; step <= 1000; ++step) taken += sampler.Regular(step);
  EXPECT_EQ(taken, 100);
  EXPECT_FALSE(StepSampler(0).Regular(10));
  EXPECT_FALSE(StepSampler(0).on());
}

TEST(StepSampler, FindsStepsAboveTheP99) {
  StepSampler sampler(100);
  for (int i = 0; i < 99; ++i) EXPECT_FALSE(sampler.Slow(1000 + i)) << "too few are known";
  EXPECT_FALSE(sampler.Slow(1000));
  EXPECT_TRUE(sampler.Slow(5000));
  EXPECT_FALSE(sampler.Slow(1050));
  // What is slow for long is no longer slow.
  int slow = 0;
  for (int i = 0; i < 1000; ++i) slow += sampler.Slow(5000);
  EXPECT_LE(slow, 10);
  EXPECT_FALSE(sampler.Slow(5000));
  sampler.Forget();
  EXPECT_FALSE(sampler.Slow(9000)) << "nothing is known again";
}

TEST(StepSampler, TakesAboutOneInAHundredOfNoise) {
  StepSampler sampler(100);
  uint64_t state = 1;
  int slow = 0;
  for (int i = 0; i < 20000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    slow += sampler.Slow(static_cast<int64_t>(state >> 40));
  }
  EXPECT_GT(slow, 100);
  EXPECT_LT(slow, 400);
}

TEST(ClockOffset, BelievesTheQuickestRoundTrip) {
  ClockOffset clock;
  EXPECT_FALSE(clock.known());
  EXPECT_EQ(clock.nanos(), 0);
  // The peer is 1000 ahead; the way there is slow once, the way back once.
  clock.Add(10'000, 10'000 + 1000 + 400, 11'500, 10'600);
  EXPECT_NEAR(clock.nanos(), 1000, clock.error());
  clock.Add(20'000, 21'010, 21'110, 20'120);
  EXPECT_EQ(clock.nanos(), 1000);
  EXPECT_EQ(clock.error(), 10);
  clock.Add(30'000, 31'900, 31'900, 31'000);
  EXPECT_EQ(clock.nanos(), 1000) << "a slow trip tells less";
}

TEST(ClockOffset, IgnoresTripsThatContradictThemselves) {
  ClockOffset clock;
  clock.Add(100, 50, 40, 200);    // replied before it was received
  clock.Add(200, 10, 10, 100);    // answered before it was sent
  clock.Add(100, 10, 1000, 200);  // the peer took longer than the trip
  clock.Add(0, 10, 10, 100);      // no time at all
  EXPECT_FALSE(clock.known());
}

TEST(OneWayOffset, NeverMovesAChildBeforeItsParent) {
  OneWayOffset clock;
  // The callee's clock is 5000 behind; delays vary.
  for (const int64_t delay : {300, 100, 900, 200}) {
    const int64_t sent = 100'000 + delay * 7, received = sent + delay - 5000;
    const int64_t corrected = received - clock.Add(sent, received);
    EXPECT_GE(corrected, sent);
    EXPECT_LE(corrected, sent + delay);
  }
}

}  // namespace
}  // namespace espalier::observe

// Goal: what is counted is what a scrape reads, under the declared names and labels.
#include "libs/observe/metrics.h"

#include <pthread.h>

#include <array>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::observe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const MetricSpec kTable[] = {
    {"things_total", MetricKind::kCounter, "1", {"run"}, "Things seen."},
    {"level", MetricKind::kGauge, "1", {}, "Level now."},
    {"wait_seconds", MetricKind::kHistogram, "seconds", {"run", "phase"}, "Waits.", {0.1, 1}},
};
const std::array<std::span<const MetricSpec>, 1> kTables = {kTable};

TEST(Metrics, AreReadAsTheyWereWritten) {
  Metrics metrics(kTables);
  metrics.Add("things_total", {"a"});
  metrics.Add("things_total", {"a"}, 2);
  metrics.Set("level", {}, 7);
  metrics.Observe("wait_seconds", {"a", "load"}, 0.5);
  metrics.Observe("wait_seconds", {"a", "load"}, 5);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("things_total{run=\"a\"} 3"));
  EXPECT_THAT(text, HasSubstr("level 7"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{phase=\"load\",run=\"a\",le=\"0.1\"} 0"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{phase=\"load\",run=\"a\",le=\"1\"} 1"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_count{phase=\"load\",run=\"a\"} 2"));
  EXPECT_THAT(text, HasSubstr("# HELP things_total Things seen."));
}

TEST(Metrics, ForgetDropsOneRunAlone) {
  Metrics metrics(kTables);
  for (const char* run : {"a", "b"}) {
    metrics.Add("things_total", {run});
    metrics.Observe("wait_seconds", {run, "x"}, 1);
  }
  metrics.Forget("run", "a");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("run=\"a\"")));
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"b\"} 1"));
  metrics.Add("things_total", {"a"});
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"a\"} 1")) << "a run may come back";
}

TEST(Metrics, CountFromManyThreads) {
  Metrics metrics(kTables);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) metrics.Add("things_total", {i % 2 == 0 ? "a" : "b"});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"a\"} 2000"));
}

TEST(Metrics, MistakesOfOursEndTheProcess) {
  Metrics metrics(kTables);
  EXPECT_DEATH(metrics.Add("nothing_total", {}), "never declared");
  EXPECT_DEATH(metrics.Add("things_total", {}), "things_total");
  EXPECT_DEATH(metrics.Set("things_total", {"a"}, 1), "is a counter");
}

TEST(Metrics, DropTakesOneMetricAway) {
  Metrics metrics(kTables);
  metrics.Set("level", {}, 7);
  metrics.Add("things_total", {"a"});
  metrics.Drop("level");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("level 7")));
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"a\"} 1"));
}

TEST(Metrics, ManyObservationsAreAddedAtOnce) {
  Metrics metrics(kTables);
  metrics.ObserveMany("wait_seconds", {"a", "x"}, {1, 2, 3}, 40);
  metrics.ObserveMany("wait_seconds", {"a", "x"}, {1, 0, 0}, 2);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{phase=\"x\",run=\"a\",le=\"0.1\"} 2"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{phase=\"x\",run=\"a\",le=\"1\"} 4"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_count{phase=\"x\",run=\"a\"} 7"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_sum{phase=\"x\",run=\"a\"} 42"));
  EXPECT_DEATH(metrics.ObserveMany("wait_seconds", {"a", "x"}, {1}, 1), "wait_seconds");
}

TEST(Metrics, HookIsCalledAtEachScrapeUntilItIsTakenAway) {
  Metrics metrics(kTables);
  metrics.SetScrapeHook([&] { metrics.Add("things_total", {"a"}); });
  metrics.Text();
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"a\"} 2"));
  EXPECT_DEATH(metrics.SetScrapeHook([] {}), "already");
  metrics.SetScrapeHook(nullptr);
  EXPECT_THAT(metrics.Text(), HasSubstr("things_total{run=\"a\"} 2"));
}

TEST(MetricsServer, ThreadsHaveRoomBesideThreadLocalData) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 100 << 10), 0);  // as civetweb asks
  size_t size = 0;
  ASSERT_EQ(pthread_attr_getstacksize(&attributes, &size), 0);
  EXPECT_GE(size, size_t{512} << 10);
  pthread_attr_destroy(&attributes);
}

TEST(MetricsServer, SaysWhichPortIsInUse) {
  Metrics metrics(kTables);
  const auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  const std::string taken = "127.0.0.1:" + std::to_string((*server)->port());
  const auto second = MetricsServer::Start(taken, metrics);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
  EXPECT_TRUE(absl::IsInvalidArgument(MetricsServer::Start("nowhere", metrics).status()));
}

}  // namespace
}  // namespace espalier::observe

// Goal: a worker's metrics are what its reports say, and energy is told where it is known alone.
#include "services/worker/worker_metrics.h"

#include <array>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Uses 2 J between readings, until it breaks.
class Rising final : public observe::EnergyCounter {
 public:
  explicit Rising(int readings) : left_(readings) {}
  const std::string& source() const override { return source_; }
  absl::StatusOr<uint64_t> ReadMicrojoules() override {
    if (left_-- == 0) return absl::UnavailableError("unplugged");
    return now_ += 2'000'000;
  }
  uint64_t wraps_at() const override { return 0; }

 private:
  const std::string source_ = "rapl:package-0";
  int left_;
  uint64_t now_ = 0;
};

std::vector<std::unique_ptr<observe::EnergyCounter>> Counters(int readings) {
  std::vector<std::unique_ptr<observe::EnergyCounter>> counters;
  if (readings > 0) counters.push_back(std::make_unique<Rising>(readings));
  return counters;
}

v1::StepReport ReportOf(uint64_t first, uint64_t last) {
  v1::StepReport report;
  report.set_first_step(first);
  report.set_last_step(last);
  report.set_stage(v1::STAGE_KIND_PRETRAIN);
  report.set_tokens(1000);
  report.mutable_duration()->set_seconds(1);
  report.mutable_phases()->set_experts_seconds(0.25);
  for (int layer = 0; layer < 2; ++layer) {
    v1::LayerLoads* loads = report.add_loads();
    for (int expert = 0; expert < 3; ++expert) {
      loads->add_experts(expert);
      loads->add_tokens(10);
    }
  }
  return report;
}

// The report as it is sent.
v1::StepReport Tell(WorkerMetrics& worker, const std::string& run, v1::StepReport report) {
  worker.Report(run, &report);
  return report;
}

class WorkerMetricsTest : public testing::Test {
 protected:
  const std::array<std::span<const observe::MetricSpec>, 1> tables_ = {WorkerMetricTable()};
  observe::Metrics metrics_{tables_};
};

TEST_F(WorkerMetricsTest, AreWhatReportsSay) {
  observe::EnergyMeter meter(Counters(0));
  WorkerMetrics worker(&metrics_, &meter, {.price_per_kwh = 0.3, .grid_gco2_per_kwh = 400});
  worker.Begin("r", 3);
  Tell(worker, "r", ReportOf(1, 1));
  v1::StepReport second = ReportOf(2, 5);
  second.mutable_metrics()->set_skipped_steps(2);
  Tell(worker, "r", second);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("espalier_worker_rank{run=\"r\"} 3"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_step{run=\"r\"} 5"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_steps_total{run=\"r\"} 5"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_tokens_total{run=\"r\"} 2000"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_held_experts{run=\"r\"} 6"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_expert_tokens_total{run=\"r\"} 120"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_skipped_steps{run=\"r\"} 2"));
  // Five steps of together two seconds.
  EXPECT_THAT(text,
              HasSubstr("espalier_worker_step_seconds_count{run=\"r\",stage=\"pretrain\"} 5"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_step_seconds_sum{run=\"r\",stage=\"pretrain\"} 2"));
  EXPECT_THAT(text,
              HasSubstr("espalier_worker_phase_seconds_sum{phase=\"experts\",run=\"r\"} 0.5"));
  EXPECT_THAT(text, Not(HasSubstr("phase=\"rollout\""))) << "no time was spent there";
  EXPECT_THAT(text, Not(HasSubstr("energy_joules_total{"))) << "unknown is not 0";
  EXPECT_THAT(text, Not(HasSubstr("million_tokens{")));
}

TEST_F(WorkerMetricsTest, EnergyBecomesCostAndCarbonWhereRatesAreGiven) {
  observe::EnergyMeter meter(Counters(100));
  WorkerMetrics worker(&metrics_, &meter, {.price_per_kwh = 0.36, .grid_gco2_per_kwh = {}});
  worker.Begin("r", 0);
  const v1::StepReport first = Tell(worker, "r", ReportOf(1, 1));   // 2 J since the meter was made
  const v1::StepReport second = Tell(worker, "r", ReportOf(2, 2));  // 2 J since, for 1000 tokens
  EXPECT_FALSE(first.has_joules()) << "nobody knows when its steps began";
  EXPECT_NEAR(second.joules(), 2, 1e-9);
  const std::string text = metrics_.Text();  // 2 J more
  EXPECT_THAT(text, HasSubstr("energy_joules_total{source=\"rapl:package-0\"} 6"));
  EXPECT_THAT(text, HasSubstr("espalier_worker_energy_joules_per_token{run=\"r\"} 0.002"));
  // 2000 J, or 1/1800 kWh, a million tokens.
  EXPECT_THAT(text, HasSubstr("cost_per_million_tokens{run=\"r\"} 0.0002"));
  EXPECT_THAT(text, Not(HasSubstr("gco2_per_million_tokens{"))) << "no intensity was given";
}

TEST_F(WorkerMetricsTest, CounterThatIsLostTakesItsSeriesAlong) {
  observe::EnergyMeter meter(Counters(3));  // the meter's beginning and two reports
  WorkerMetrics worker(&metrics_, &meter, {.price_per_kwh = 1, .grid_gco2_per_kwh = 1});
  worker.Begin("r", 0);
  Tell(worker, "r", ReportOf(1, 1));
  Tell(worker, "r", ReportOf(2, 2));
  EXPECT_FALSE(Tell(worker, "r", ReportOf(3, 3)).has_joules());
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, Not(HasSubstr("energy_joules_total{")));
  EXPECT_THAT(text, Not(HasSubstr("joules_per_token{")));
  EXPECT_THAT(text, HasSubstr("espalier_worker_steps_total{run=\"r\"} 3"));
}

TEST_F(WorkerMetricsTest, AnotherRunTakesThePlaceOfTheOneBefore) {
  observe::EnergyMeter meter(Counters(0));
  WorkerMetrics worker(&metrics_, &meter, {});
  worker.Begin("old", 0);
  Tell(worker, "old", ReportOf(1, 1));
  worker.Begin("old", 0);  // a recovery: what was trained stays trained
  Tell(worker, "old", ReportOf(1, 1));
  EXPECT_THAT(metrics_.Text(), HasSubstr("espalier_worker_steps_total{run=\"old\"} 2"));
  worker.Begin("new", 1);
  Tell(worker, "old", ReportOf(2, 2));
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr("\"old\"")));
  EXPECT_THAT(metrics_.Text(), HasSubstr("espalier_worker_rank{run=\"new\"} 1"));
}

TEST(EnergyRates, NonsenseIsRefusedByFlag) {
  const EnergyRates price{.price_per_kwh = -1, .grid_gco2_per_kwh = {}};
  EXPECT_THAT(std::string(price.Validate().message()), HasSubstr("--energy-price: -1"));
  const EnergyRates grid{.price_per_kwh = {}, .grid_gco2_per_kwh = NAN};
  EXPECT_THAT(std::string(grid.Validate().message()), HasSubstr("--grid-gco2"));
  EXPECT_TRUE(EnergyRates{}.Validate().ok());
}

}  // namespace
}  // namespace espalier::worker

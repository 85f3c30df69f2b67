// Goal: joules are what the counters say, over wraps, and a counter that is absent or lost gives no
// figure at all. Method: counters of the test's own, a powercap tree in a scratch folder, and a
// library that looks like NVML.
#include "libs/observe/energy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/observe/energy_counters.h"

namespace espalier::observe {
namespace {

namespace fs = std::filesystem;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class FakeCounter final : public EnergyCounter {
 public:
  FakeCounter(std::string source, uint64_t wraps_at, std::deque<absl::StatusOr<uint64_t>> readings)
      : source_(std::move(source)), wraps_at_(wraps_at), readings_(std::move(readings)) {}
  const std::string& source() const override { return source_; }
  absl::StatusOr<uint64_t> ReadMicrojoules() override {
    const absl::StatusOr<uint64_t> reading = readings_.front();
    readings_.pop_front();
    return reading;
  }
  uint64_t wraps_at() const override { return wraps_at_; }

 private:
  const std::string source_;
  const uint64_t wraps_at_;
  std::deque<absl::StatusOr<uint64_t>> readings_;
};

EnergyMeter MeterOf(std::string source, uint64_t wraps_at,
                    std::deque<absl::StatusOr<uint64_t>> readings) {
  std::vector<std::unique_ptr<EnergyCounter>> counters;
  counters.push_back(
      std::make_unique<FakeCounter>(std::move(source), wraps_at, std::move(readings)));
  return EnergyMeter(std::move(counters));
}

TEST(EnergyMeter, CountsFromItsBeginningAndOverWraps) {
  EnergyMeter meter = MeterOf("a", 10'000'000, {7'000'000, 9'000'000, 1'000'000, 1'000'000});
  EXPECT_TRUE(meter.known());
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("a", DoubleEq(2))));
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("a", DoubleEq(4)))) << "9 to 10, then 0 to 1";
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("a", DoubleEq(4))));
}

TEST(EnergyMeter, CounterThatStartsAgainLosesTheGapAlone) {
  EnergyMeter meter = MeterOf("gpu", 0, {50'000'000, 52'000'000, 1'000'000, 4'000'000});
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("gpu", DoubleEq(2))));
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("gpu", DoubleEq(2))));
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("gpu", DoubleEq(5))));
}

TEST(EnergyMeter, CounterThatIsLostGivesNoFigure) {
  EnergyMeter meter = MeterOf("a", 0, {0, 1'000'000, absl::UnavailableError("unplugged")});
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("a", DoubleEq(1))));
  EXPECT_THAT(meter.Read(), IsEmpty());
  EXPECT_THAT(meter.Read(), IsEmpty()) << "and is not asked again";
  EXPECT_FALSE(MeterOf("a", 0, {absl::PermissionDeniedError("root's")}).known());
}

class Rapl : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(root_); }
  void TearDown() override { fs::remove_all(root_); }

  void Zone(const std::string& folder, const std::string& name, const std::string& energy) {
    fs::create_directories(root_ / folder);
    std::ofstream(root_ / folder / "name") << name << "\n";
    std::ofstream(root_ / folder / "energy_uj") << energy << "\n";
    std::ofstream(root_ / folder / "max_energy_range_uj") << "262143328850\n";
  }

  const fs::path root_ =
      fs::temp_directory_path() / ("espalier-powercap-" + std::to_string(getpid()));
};

TEST_F(Rapl, CountsPackagesAndTheirMemoryOnce) {
  Zone("intel-rapl:0", "package-0", "1000000");
  Zone("intel-rapl:0:0", "core", "900000");
  Zone("intel-rapl:0:1", "dram", "300000");
  Zone("intel-rapl:1", "package-1", "5000000");
  Zone("intel-rapl:2", "psys", "7000000");
  Zone("intel-rapl-mmio:0", "package-0", "1000000");
  auto counters = FindRaplCounters(root_);
  ASSERT_TRUE(counters.ok()) << counters.status();
  std::vector<std::string> sources;
  for (const auto& counter : *counters) sources.push_back(counter->source());
  EXPECT_THAT(sources, ElementsAre("rapl:package-0", "rapl:package-0-dram", "rapl:package-1"));
  EXPECT_EQ(*(*counters)[1]->ReadMicrojoules(), 300'000u);
  EXPECT_EQ((*counters)[1]->wraps_at(), 262'143'328'850u);

  EnergyMeter meter(*std::move(counters));
  std::ofstream(root_ / "intel-rapl:0/energy_uj") << "3500000\n";
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("rapl:package-0", DoubleEq(2.5)),
                                        Pair("rapl:package-0-dram", 0), Pair("rapl:package-1", 0)));
}

TEST_F(Rapl, SaysWhyThereIsNone) {
  EXPECT_TRUE(absl::IsNotFound(FindRaplCounters(root_).status()));
  EXPECT_TRUE(absl::IsNotFound(FindRaplCounters(root_ / "nowhere").status()));
  Zone("intel-rapl:0", "package-0", "many");
  const absl::Status nonsense = FindRaplCounters(root_).status();
  EXPECT_TRUE(absl::IsDataLoss(nonsense)) << nonsense;
  EXPECT_THAT(std::string(nonsense.message()), HasSubstr("intel-rapl:0/energy_uj: \"many\""));
}

TEST_F(Rapl, FileThatOnlyRootMayReadIsNamed) {
  Zone("intel-rapl:0", "package-0", "1");
  const fs::path file = root_ / "intel-rapl:0/energy_uj";
  fs::remove(file);
  fs::create_directory(file);  // opens, but cannot be read, for root too
  const absl::Status status = FindRaplCounters(root_).status();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(file.string()));
}

TEST(Nvml, DevicesThatCountAreRead) {
  auto counters = FindNvmlCounters(ESPALIER_FAKE_NVML);
  ASSERT_TRUE(counters.ok()) << counters.status();
  ASSERT_EQ(counters->size(), 1u);
  EXPECT_EQ(counters->front()->source(), "nvml:0");
  EnergyMeter meter(*std::move(counters));
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("nvml:0", DoubleEq(1.5))));
  EXPECT_THAT(meter.Read(), ElementsAre(Pair("nvml:0", DoubleEq(3))));
}

TEST(Nvml, LibraryThatIsAbsentOrAnotherOneIsNamed) {
  const absl::Status absent = FindNvmlCounters("libnvidia-ml-nowhere.so.1").status();
  EXPECT_TRUE(absl::IsNotFound(absent)) << absent;
  EXPECT_THAT(std::string(absent.message()), HasSubstr("libnvidia-ml-nowhere.so.1"));
  const absl::Status other = FindNvmlCounters("libm.so.6").status();
  EXPECT_THAT(std::string(other.message()), HasSubstr("nvmlInit_v2"));
}

TEST(Energy, PlacesWithoutCountersGiveNone) {
  EXPECT_THAT(FindEnergyCounters({.powercap = "/nowhere", .nvml = "libnvidia-ml-nowhere.so.1"}),
              IsEmpty());
  EXPECT_EQ(FindEnergyCounters({.powercap = "/nowhere", .nvml = ESPALIER_FAKE_NVML}).size(), 1u);
}

}  // namespace
}  // namespace espalier::observe

// Goal: a store that takes no more writes (a full disk) loses nothing that was acknowledged, turns
// new work away with the cause, and does not disturb the workers. Method: a store that fails on
// command in front of the real one.
#include <atomic>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::HasSubstr;

// Refuses writes once `full` is set, for good, as the real store does after a failed write.
class FullDiskStore : public history::Store {
 public:
  FullDiskStore(std::unique_ptr<history::Store> store, std::atomic<bool>* full)
      : store_(std::move(store)), full_(full) {}
  absl::Status Commit(std::vector<Write> writes) override {
    if (*full_) failed_ = true;
    if (failed_) return absl::ResourceExhaustedError("No space left on device");
    return store_->Commit(std::move(writes));
  }
  absl::StatusOr<std::string> Get(history::Table table, const std::string& key) const override {
    return store_->Get(table, key);
  }
  absl::Status Scan(
      history::Table table, const std::string& begin, const std::string& end, bool reverse,
      const std::function<bool(const std::string&, const std::string&)>& visit) const override {
    return store_->Scan(table, begin, end, reverse, visit);
  }
  absl::Status Backup(const std::string& directory) const override {
    return store_->Backup(directory);
  }
  std::map<std::string, double> Bytes() const override { return store_->Bytes(); }
  absl::Status health() const override {
    return failed_ ? absl::ResourceExhaustedError("No space left on device") : store_->health();
  }

 private:
  const std::unique_ptr<history::Store> store_;
  std::atomic<bool>* const full_;
  std::atomic<bool> failed_ = false;
};

struct FullDiskHarness {
  explicit FullDiskHarness(absl::Duration lease = absl::Seconds(30))
      : harness(lease, [this](std::unique_ptr<history::Store> store) {
          return std::make_unique<FullDiskStore>(std::move(store), &full);
        }) {}
  std::atomic<bool> full = false;
  Harness harness;
};

TEST(CoordinatorStore, AFullDiskTurnsSubmitsAwayWithTheCauseAndTakesThemLater) {
  FullDiskHarness disk;
  const std::string before = disk.harness.MustSubmit(SmallSpec("before"));
  disk.full = true;
  v1::SubmitRunRequest request;
  *request.mutable_spec() = SmallSpec("during");
  request.set_request_id("retry-me");
  for (int i = 0; i < 2; ++i) {
    v1::SubmitRunResponse response;
    const grpc::Status status = disk.harness.Submit(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("No space left on device"));
  }
  EXPECT_FALSE(disk.harness.coordinator()->health().ok());
  EXPECT_EQ(disk.harness.Get(before).state(), v1::RUN_STATE_PENDING) << "reads go on";
  grpc::ClientContext context;
  v1::ListRunsResponse runs;
  ASSERT_TRUE(disk.harness.runs().ListRuns(&context, {}, &runs).ok());
  EXPECT_EQ(runs.runs_size(), 1) << "what was refused is not there";

  disk.full = false;
  disk.harness.Restart();
  EXPECT_TRUE(disk.harness.coordinator()->health().ok());
  v1::SubmitRunResponse response;
  ASSERT_TRUE(disk.harness.Submit(request, &response).ok());
  EXPECT_EQ(disk.harness.Get(before).state(), v1::RUN_STATE_PENDING);
}

TEST(CoordinatorStore, AFullDiskAcksNothingAndReleasesNobodyAndNoStepIsLost) {
  FullDiskHarness disk;
  FakeWorker a("a");
  a.Attach(disk.harness.address());
  const std::string id = disk.harness.MustSubmit(SmallSpec("training", 1));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  FakeRun run({&a}, SkewedShares());
  run.Steps(5);
  disk.full = true;
  std::vector<v1::StepReport> kept;
  for (uint64_t step = 6; step <= 8; ++step) {
    v1::StepReport report;
    report.set_first_step(step);
    report.set_last_step(step);
    report.set_stage(v1::STAGE_KIND_PRETRAIN);
    a.Report(report);
    kept.push_back(report);
  }
  EXPECT_FALSE(a.WaitDurable(6, absl::Milliseconds(300)));
  EXPECT_FALSE(a.WaitRelease(absl::Milliseconds(100)).has_value()) << "the worker trains on";
  v1::PauseRunRequest pause;
  pause.set_run_id(id);
  v1::PauseRunResponse paused;
  grpc::ClientContext context;
  EXPECT_EQ(disk.harness.runs().PauseRun(&context, pause, &paused).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(a.TakeCommand().has_value()) << "an order that is not on disk is not given";

  disk.full = false;
  disk.harness.Restart();
  EXPECT_EQ(disk.harness.Get(id).progress().step(), 5u) << "all that was acknowledged";
  a.Attach(disk.harness.address(), /*resume=*/true);
  ASSERT_TRUE(a.WaitWelcome()->reattached());
  for (const v1::StepReport& report : kept) a.Report(report);
  EXPECT_TRUE(a.WaitDurable(8));
}

}  // namespace
}  // namespace espalier::coordinator::testing

// Goal: a trainer of another make records its loads, gets plans as advice, and is told the truth
// about what is durable. Method: the unary door, with a trainer that carries the advice out.
#include <cmath>
#include <future>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::RunSpec ExternalSpec() {
  v1::RunSpec spec;
  spec.set_name("outside");
  spec.set_kind(v1::RUN_KIND_EXTERNAL);
  spec.mutable_workers()->set_count(2);
  spec.mutable_model()->set_layers(2);
  spec.mutable_model()->set_experts(8);
  spec.mutable_model()->set_top_k(2);
  spec.mutable_placement()->set_expert_bytes(1e6);
  spec.mutable_placement()->set_window_steps(10);
  return spec;
}

// Another trainer: two ranks whose reports go in one call.
class Trainer {
 public:
  Trainer(Harness* harness, std::string run_id)
      : stub_(v1::FleetService::NewStub(rpc::MakeChannel(harness->address()))),
        run_id_(std::move(run_id)),
        shares_(SkewedShares()),
        ranks_(2, {0, 0, 0, 0, 1, 1, 1, 1}) {}

  v1::StepReport Report(uint64_t step, uint32_t rank) const {
    v1::StepReport report;
    report.set_rank(rank);
    report.set_first_step(step);
    report.set_last_step(step);
    report.set_tokens(64);
    report.mutable_duration()->set_nanos(100'000'000);
    report.mutable_phases()->set_experts_seconds(0.05);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      v1::LayerLoads* loads = report.add_loads();
      loads->set_layer(layer);
      for (uint32_t e = 0; e < 8; ++e) {
        if (ranks_[layer][e] != rank) continue;
        loads->add_experts(e);
        loads->add_tokens(static_cast<uint64_t>(std::llround(1e5 * shares_[layer][e])));
      }
    }
    return report;
  }
  grpc::Status Call(const v1::ReportStepsRequest& request, v1::ReportStepsResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return stub_->ReportSteps(&context, request, response);
  }
  // Takes a step, then carries out whatever it is advised to, telling so with the next one.
  v1::ReportStepsResponse Step(bool obey = true) {
    ++step_;
    v1::ReportStepsRequest request;
    request.set_run_id(run_id_);
    for (uint32_t rank = 0; rank < 2; ++rank) *request.add_reports() = Report(step_, rank);
    for (const v1::CommandAck& ack : acks_) *request.add_acks() = ack;
    acks_.clear();
    v1::ReportStepsResponse response;
    const grpc::Status status = Call(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    for (const v1::Command& command : response.advice()) {
      if (!obey) break;
      for (const v1::LayerLayout& layer : command.set_layout().layers()) {
        for (int i = 0; i < layer.experts_size(); ++i)
          ranks_[layer.layer()][layer.experts(i)] = layer.ranks(i);
      }
      v1::CommandAck ack;
      ack.set_sequence(command.sequence());
      ack.set_step(step_);
      acks_.push_back(ack);
    }
    return response;
  }
  uint64_t step() const { return step_; }
  void set_step(uint64_t step) { step_ = step; }

 private:
  std::unique_ptr<v1::FleetService::Stub> stub_;
  const std::string run_id_;
  const std::vector<std::vector<double>> shares_;
  std::vector<std::vector<uint32_t>> ranks_;
  std::vector<v1::CommandAck> acks_;
  uint64_t step_ = 0;
};

TEST(CoordinatorExternal, RecordsLoadsAndAdvisesAPlacementThatIsThenVerified) {
  Harness harness(absl::Seconds(30));
  const std::string id = harness.MustSubmit(ExternalSpec());
  EXPECT_EQ(harness.Get(id).state(), v1::RUN_STATE_RUNNING) << "it waits for no worker";
  Trainer trainer(&harness, id);
  bool advised = false;
  for (int i = 0; i < 40; ++i) {
    const v1::ReportStepsResponse response = trainer.Step();
    EXPECT_EQ(response.durable_step(), trainer.step()) << "durable when answered";
    advised |= response.advice_size() > 0;
  }
  EXPECT_TRUE(advised);
  const auto decisions = harness.Decisions(id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_NEAR(decisions[0].imbalance_realised(), decisions[0].plan().imbalance_after(), 0.02);
  EXPECT_GT(decisions[0].plan().payback_steps(), 0);

  grpc::ClientContext context;
  v1::GetLoadsRequest request;
  request.set_run_id(id);
  v1::GetLoadsResponse loads;
  ASSERT_TRUE(harness.history().GetLoads(&context, request, &loads).ok());
  ASSERT_EQ(loads.layers_size(), 2);
  EXPECT_EQ(loads.layers(0).tokens(0), 30000u);

  // The trainer says that it is done.
  v1::ReportStepsRequest last;
  last.set_run_id(id);
  last.mutable_end()->set_outcome(v1::AssignmentEnd::OUTCOME_COMPLETED);
  v1::ReportStepsResponse response;
  ASSERT_TRUE(trainer.Call(last, &response).ok());
  EXPECT_TRUE(response.ended());
  EXPECT_EQ(harness.Get(id).state(), v1::RUN_STATE_COMPLETED);
}

TEST(CoordinatorExternal, GoesOnAfterARestartAndRepeatedReportsChangeNothing) {
  Harness harness(absl::Seconds(30));
  const std::string id = harness.MustSubmit(ExternalSpec());
  {
    Trainer trainer(&harness, id);
    for (int i = 0; i < 8; ++i) trainer.Step();
  }
  harness.Restart();
  EXPECT_EQ(harness.Get(id).state(), v1::RUN_STATE_RUNNING);
  Trainer again(&harness, id);
  again.set_step(6);
  EXPECT_EQ(again.Step().durable_step(), 8u) << "step 7 was recorded before";
  again.Step();
  EXPECT_EQ(again.Step().durable_step(), 9u);
  grpc::ClientContext context;
  v1::GetLoadsRequest request;
  request.set_run_id(id);
  request.set_resolution(1);
  v1::GetLoadsResponse loads;
  ASSERT_TRUE(harness.history().GetLoads(&context, request, &loads).ok());
  EXPECT_THAT(loads.layers(0).first_steps(), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(CoordinatorExternal, AdviceWaitsUntilItIsAcknowledgedOrDeclined) {
  Harness harness(absl::Seconds(30));
  const std::string id = harness.MustSubmit(ExternalSpec());
  Trainer trainer(&harness, id);
  v1::ReportStepsResponse response;
  for (int i = 0; i < 15; ++i) response = trainer.Step(/*obey=*/false);
  ASSERT_EQ(response.advice_size(), 1);
  v1::ReportStepsRequest decline;
  decline.set_run_id(id);
  v1::CommandAck* ack = decline.add_acks();
  ack->set_sequence(response.advice(0).sequence());
  ack->set_step(trainer.step());
  ack->set_error("this trainer cannot move experts");
  ASSERT_TRUE(trainer.Call(decline, &response).ok());
  EXPECT_EQ(response.advice_size(), 0);
  EXPECT_EQ(harness.Decisions(id).back().state(), v1::DECISION_STATE_FAILED);
  EXPECT_THAT(harness.Decisions(id).back().error(), HasSubstr("cannot move"));
}

TEST(CoordinatorExternal, RefusesWhatMakesNoSense) {
  Harness harness(absl::Seconds(30));
  v1::SubmitRunRequest submit;
  *submit.mutable_spec() = ExternalSpec();
  submit.mutable_spec()->mutable_prune()->set_enabled(true);
  submit.mutable_spec()->mutable_prune()->set_guard_tolerance(0.1);
  submit.mutable_spec()->mutable_data()->set_corpus("corpus.txt");
  v1::SubmitRunResponse submitted;
  const grpc::Status refused = harness.Submit(submit, &submitted);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("prune.guard_tolerance"));
  EXPECT_THAT(refused.error_message(), HasSubstr("data: given"));

  const std::string id = harness.MustSubmit(ExternalSpec());
  Trainer trainer(&harness, id);
  v1::ReportStepsRequest request;
  request.set_run_id(id);
  *request.add_reports() = trainer.Report(1, 0);
  request.mutable_reports(0)->set_rank(7);
  v1::ReportStepsResponse response;
  grpc::Status status = trainer.Call(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("rank"));
  grpc::ClientContext context;
  v1::PauseRunRequest pause;
  pause.set_run_id(id);
  v1::PauseRunResponse paused;
  status = harness.runs().PauseRun(&context, pause, &paused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("external"));
  const std::string ours = harness.MustSubmit(SmallSpec("ours"));
  request.set_run_id(ours);
  status = trainer.Call(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST(CoordinatorExternal, StepsThatARankNeverReportedAreListedAsGaps) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = ExternalSpec();
  spec.mutable_placement()->set_enabled(false);
  const std::string id = harness.MustSubmit(spec);
  Trainer trainer(&harness, id);
  v1::ReportStepsResponse response;
  for (uint64_t step = 1; step <= 150; ++step) {
    v1::ReportStepsRequest request;
    request.set_run_id(id);
    *request.add_reports() = trainer.Report(step, 0);
    if (step != 5 && step != 6) *request.add_reports() = trainer.Report(step, 1);
    ASSERT_TRUE(trainer.Call(request, &response).ok());
  }
  EXPECT_EQ(response.durable_step(), 150u);
  harness.Restart();
  grpc::ClientContext context;
  v1::ListGapsRequest request;
  request.set_run_id(id);
  v1::ListGapsResponse gaps;
  ASSERT_TRUE(harness.history().ListGaps(&context, request, &gaps).ok());
  ASSERT_EQ(gaps.gaps_size(), 1);
  EXPECT_EQ(gaps.gaps(0).first_step(), 5u);
  EXPECT_EQ(gaps.gaps(0).last_step(), 6u);
  EXPECT_EQ(gaps.retained_size(), 4);
}

TEST(CoordinatorExternal, ABackupIsACoordinatorsWholeMemory) {
  Harness harness(absl::Seconds(30));
  const std::string id = harness.MustSubmit(ExternalSpec());
  Trainer trainer(&harness, id);
  for (int i = 0; i < 70; ++i) trainer.Step();
  v1::CreateBackupRequest request;
  request.set_name("../escape");
  v1::CreateBackupResponse response;
  grpc::ClientContext c1, c2, c3;
  EXPECT_EQ(harness.history().CreateBackup(&c1, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.set_name("monday");
  const grpc::Status status = harness.history().CreateBackup(&c2, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(response.bytes(), 0u);
  EXPECT_EQ(harness.history().CreateBackup(&c3, request, &response).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  CoordinatorOptions options;
  options.data = response.path();
  auto copy = Coordinator::Start(options);
  ASSERT_TRUE(copy.ok()) << copy.status();
  std::promise<v1::Run> run;
  v1::GetRunRequest get;
  get.set_run_id(id);
  (*copy)->GetRun(get, [&](absl::StatusOr<v1::GetRunResponse> found) {
    run.set_value(found.ok() ? found->run() : v1::Run());
  });
  EXPECT_EQ(run.get_future().get().progress().step(), 70u);
}

}  // namespace
}  // namespace espalier::coordinator::testing

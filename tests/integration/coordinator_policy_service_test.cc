// Goal: a PolicyService plans in place of the built-in policy, and whatever it does wrong costs the run nothing but its advice. Method:
// a policy of the test's own behind real gRPC.
#include <atomic>

#include "espalier/v1/policy_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_pair.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::HasSubstr;

class Policy final : public v1::PolicyService::Service {
 public:
  using Act = std::function<grpc::Status(const v1::DecidePlanRequest&, v1::DecidePlanResponse*)>;
  explicit Policy(Act act) : act_(std::move(act)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~Policy() override { Stop(); }
  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }
  const std::string& address() const { return address_; }
  int asked() const { return asked_; }

 private:
  grpc::Status DecidePlan(grpc::ServerContext*, const v1::DecidePlanRequest* request,
                          v1::DecidePlanResponse* response) override {
    ++asked_;
    return act_(*request, response);
  }
  const Act act_;
  std::atomic<int> asked_{0};
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

v1::RunSpec ServedSpec(const std::string& address, double deadline_seconds = 5) {
  v1::RunSpec spec = PruningSpec();
  spec.mutable_policy()->set_service(address);
  spec.mutable_policy()->set_deadline_seconds(deadline_seconds);
  spec.mutable_policy()->set_retry_seconds(3600);
  return spec;
}

// Keeps every layer's experts where they are, but for `pruned`.
v1::DecidePlanResponse Keep(const v1::DecidePlanRequest& request,
                            const std::set<uint32_t>& pruned) {
  v1::DecidePlanResponse response;
  for (const v1::PolicyLayer& layer : request.layers()) {
    v1::LayerLayout* wanted = response.add_layers();
    wanted->set_layer(layer.layer());
    for (int i = 0; i < layer.experts_size(); ++i) {
      if (pruned.contains(layer.experts(i))) continue;
      wanted->add_experts(layer.experts(i));
      wanted->add_ranks(layer.ranks(i));
    }
  }
  response.set_policy("test-policy/7");
  return response;
}

// Until the coordinator has decided something, or for `steps`.
void StepUntilDecision(Harness& harness, Pair& pair, int steps = 80) {
  for (int i = 0; i < steps && harness.Decisions(pair.id).empty(); ++i) pair.StepAndApply(1);
}

std::string EventText(Harness& harness, const std::string& run, const std::string& name) {
  for (const v1::RunEvent& event : harness.Events(run)) {
    if (event.name() == name) return event.text();
  }
  return "";
}

TEST(CoordinatorPolicyService, PlansInPlaceOfTheBuiltInPolicy) {
  std::mutex mutex;
  v1::DecidePlanRequest seen;
  Policy policy([&](const v1::DecidePlanRequest& request, v1::DecidePlanResponse* response) {
    std::lock_guard lock(mutex);
    seen = request;
    const bool may = request.layers(0).prunable();
    *response = Keep(request, may ? std::set<uint32_t>{3, 4} : std::set<uint32_t>{});
    response->set_reason("three and four are the devil's");
    return grpc::Status::OK;
  });
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ServedSpec(policy.address()));
  StepUntilDecision(harness, pair);
  pair.StepAndApply(3);
  const auto decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].policy(), "test-policy/7 at " + policy.address());
  EXPECT_EQ(decisions[0].why(), "three and four are the devil's");
  EXPECT_EQ(decisions[0].plan().experts_pruned(), 4u);
  EXPECT_EQ(decisions[0].plan().layers(0).pruned(0), 3u);
  EXPECT_GT(decisions[0].plan().imbalance_before(), 1.5) << "certified like a plan of its own";
  ASSERT_EQ(pair.run.applied.size(), 1u);
  EXPECT_EQ(pair.run.applied[0].set_layout().layers(0).experts_size(), 6);
  std::lock_guard lock(mutex);
  EXPECT_EQ(seen.run_id(), pair.id);
  EXPECT_EQ(seen.rank_count(), 2u);
  EXPECT_EQ(seen.layers_size(), 2);
  EXPECT_EQ(seen.layers(0).loads_size(), seen.layers(0).experts_size());
  EXPECT_GT(seen.layers(0).loads(0), 0);
}

TEST(CoordinatorPolicyService, MayLeaveEverythingAsItIs) {
  Policy policy([](const v1::DecidePlanRequest&, v1::DecidePlanResponse* response) {
    response->set_no_change(true);
    response->set_reason("I like it so");
    return grpc::Status::OK;
  });
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ServedSpec(policy.address()));
  pair.StepAndApply(60);
  EXPECT_TRUE(Eventually([&] { return harness.HasEvent(pair.id, "plan_skipped"); }));
  EXPECT_THAT(EventText(harness, pair.id, "plan_skipped"), HasSubstr("I like it so"));
  EXPECT_TRUE(harness.Decisions(pair.id).empty());
  EXPECT_GT(policy.asked(), 1) << "asked again at later windows";
}

// Whatever the service does wrong, the built-in policy's prune comes, and the event says why.
void ExpectBuiltin(Policy::Act act, double deadline_seconds, const std::string& cause) {
  Policy policy(std::move(act));
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ServedSpec(policy.address(), deadline_seconds));
  StepUntilDecision(harness, pair, 400);
  const auto decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].policy(), "built-in");
  EXPECT_EQ(decisions[0].plan().experts_pruned(), 4u);
  EXPECT_THAT(EventText(harness, pair.id, "policy_failed"), HasSubstr(cause));
  EXPECT_EQ(policy.asked(), 1) << "not asked again before policy.retry_seconds";
}

TEST(CoordinatorPolicyService, AnInvalidAnswerIsNotTaken) {
  ExpectBuiltin(
      [](const v1::DecidePlanRequest& request, v1::DecidePlanResponse* response) {
        *response = Keep(request, {});
        response->mutable_layers(0)->set_ranks(2, 9);
        return grpc::Status::OK;
      },
      5, "expert 2 is put on rank 9; there are 2 ranks");
}

TEST(CoordinatorPolicyService, AnErrorIsTold) {
  ExpectBuiltin(
      [](const v1::DecidePlanRequest&, v1::DecidePlanResponse*) {
        return grpc::Status(grpc::StatusCode::INTERNAL, "my model server is on fire");
      },
      5, "my model server is on fire");
}

TEST(CoordinatorPolicyService, ASlowOneIsNotWaitedForPastItsDeadlineAndHoldsNobodyUp) {
  std::atomic<bool> answering{false};
  Policy policy([&](const v1::DecidePlanRequest& request, v1::DecidePlanResponse* response) {
    answering = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    *response = Keep(request, {0});
    return grpc::Status::OK;
  });
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = ServedSpec(policy.address(), 0.5);
  spec.mutable_prune()->set_fixed_step(5);
  Pair pair(&harness, spec);
  pair.StepAndApply(5);
  ASSERT_TRUE(Eventually([&] { return answering.load(); }));
  pair.run.Steps(1);  // acknowledged while the service thinks
  ASSERT_TRUE(Eventually([&] { return !harness.Decisions(pair.id).empty(); }));
  EXPECT_EQ(harness.Decisions(pair.id)[0].policy(), "built-in");
  EXPECT_THAT(EventText(harness, pair.id, "policy_failed"), HasSubstr("Deadline"));
}

TEST(CoordinatorPolicyService, ADeadOneIsReplaced) {
  Policy dead([](const v1::DecidePlanRequest&, v1::DecidePlanResponse*) {
    return grpc::Status::OK;
  });
  dead.Stop();
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ServedSpec(dead.address()));
  StepUntilDecision(harness, pair, 400);
  ASSERT_EQ(harness.Decisions(pair.id).size(), 1u);
  EXPECT_EQ(harness.Decisions(pair.id)[0].policy(), "built-in");
  EXPECT_TRUE(harness.HasEvent(pair.id, "policy_failed"));
}

TEST(CoordinatorPolicyService, TheCoordinatorStopsWithAQuestionOpen) {
  std::atomic<bool> answering{false}, release{false};
  Policy stuck([&](const v1::DecidePlanRequest&, v1::DecidePlanResponse*) {
    answering = true;
    while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return grpc::Status::OK;
  });
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = ServedSpec(stuck.address(), 600);
  spec.mutable_prune()->set_fixed_step(5);
  Pair pair(&harness, spec);
  pair.run.Steps(6);
  ASSERT_TRUE(Eventually([&] { return answering.load(); }));
  const absl::Time began = absl::Now();
  harness.StopServer();
  EXPECT_LT(absl::Now() - began, absl::Seconds(60)) << "it must not wait for the answer";
  release = true;
}

TEST(CoordinatorPolicyService, ItsPlansWaitForApprovalToo) {
  Policy policy([](const v1::DecidePlanRequest& request, v1::DecidePlanResponse* response) {
    *response = Keep(request, request.layers(0).prunable() ? std::set<uint32_t>{5}
                                                           : std::set<uint32_t>{});
    return grpc::Status::OK;
  });
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = ServedSpec(policy.address());
  spec.mutable_policy()->set_approval(v1::APPROVAL_MANUAL);
  Pair pair(&harness, spec);
  StepUntilDecision(harness, pair);
  const auto decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].state(), v1::DECISION_STATE_WAITING);
  EXPECT_THAT(decisions[0].policy(), HasSubstr("test-policy/7"));
  EXPECT_TRUE(pair.run.applied.empty());
}

}  // namespace
}  // namespace espalier::coordinator::testing

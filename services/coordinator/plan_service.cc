// PlanService over the Coordinator.
#include "espalier/v1/plan_service.grpc.pb.h"
#include "services/coordinator/services.h"
#include "services/coordinator/unary_call.h"

namespace espalier::coordinator {
namespace {

class PlanServiceImpl : public v1::PlanService::CallbackService {
 public:
  explicit PlanServiceImpl(Coordinator* coordinator) : coordinator_(coordinator) {}

  grpc::ServerUnaryReactor* ProposePlan(grpc::CallbackServerContext*,
                                        const v1::ProposePlanRequest* request,
                                        v1::ProposePlanResponse* response) override {
    return UnaryCall<v1::ProposePlanResponse>::Start(
        response, [&](auto done) { coordinator_->ProposePlan(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ApplyPlan(grpc::CallbackServerContext* context,
                                      const v1::ApplyPlanRequest* request,
                                      v1::ApplyPlanResponse* response) override {
    return UnaryCall<v1::ApplyPlanResponse>::Start(response, [&](auto done) {
      coordinator_->ApplyPlan(*request, rpc::CallerOf(*context), std::move(done));
    });
  }
  grpc::ServerUnaryReactor* RejectDecision(grpc::CallbackServerContext* context,
                                           const v1::RejectDecisionRequest* request,
                                           v1::RejectDecisionResponse* response) override {
    return UnaryCall<v1::RejectDecisionResponse>::Start(response, [&](auto done) {
      coordinator_->RejectDecision(*request, rpc::CallerOf(*context), std::move(done));
    });
  }
  grpc::ServerUnaryReactor* ListDecisions(grpc::CallbackServerContext*,
                                          const v1::ListDecisionsRequest* request,
                                          v1::ListDecisionsResponse* response) override {
    return UnaryCall<v1::ListDecisionsResponse>::Start(
        response, [&](auto done) { coordinator_->ListDecisions(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ExplainDecision(grpc::CallbackServerContext*,
                                            const v1::ExplainDecisionRequest* request,
                                            v1::ExplainDecisionResponse* response) override {
    return UnaryCall<v1::ExplainDecisionResponse>::Start(
        response, [&](auto done) { coordinator_->ExplainDecision(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* RollbackDecision(grpc::CallbackServerContext* context,
                                             const v1::RollbackDecisionRequest* request,
                                             v1::RollbackDecisionResponse* response) override {
    return UnaryCall<v1::RollbackDecisionResponse>::Start(response, [&](auto done) {
      coordinator_->RollbackDecision(*request, rpc::CallerOf(*context), std::move(done));
    });
  }

 private:
  Coordinator* const coordinator_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakePlanService(Coordinator* coordinator) {
  return std::make_unique<PlanServiceImpl>(coordinator);
}

}  // namespace espalier::coordinator

// HistoryService over the Coordinator.
#include "espalier/v1/history_service.grpc.pb.h"
#include "services/coordinator/services.h"
#include "services/coordinator/unary_call.h"

namespace espalier::coordinator {
namespace {

class HistoryServiceImpl : public v1::HistoryService::CallbackService {
 public:
  explicit HistoryServiceImpl(Coordinator* coordinator) : coordinator_(coordinator) {}

  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext*,
                                     const v1::GetLoadsRequest* request,
                                     v1::GetLoadsResponse* response) override {
    return UnaryCall<v1::GetLoadsResponse>::Start(
        response, [&](auto done) { coordinator_->GetLoads(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* GetLayout(grpc::CallbackServerContext*,
                                      const v1::GetLayoutRequest* request,
                                      v1::GetLayoutResponse* response) override {
    return UnaryCall<v1::GetLayoutResponse>::Start(
        response, [&](auto done) { coordinator_->GetLayout(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext*,
                                       const v1::ListEventsRequest* request,
                                       v1::ListEventsResponse* response) override {
    return UnaryCall<v1::ListEventsResponse>::Start(
        response, [&](auto done) { coordinator_->ListEvents(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* GetSeries(grpc::CallbackServerContext*,
                                      const v1::GetSeriesRequest* request,
                                      v1::GetSeriesResponse* response) override {
    return UnaryCall<v1::GetSeriesResponse>::Start(
        response, [&](auto done) { coordinator_->GetSeries(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ListGaps(grpc::CallbackServerContext*,
                                     const v1::ListGapsRequest* request,
                                     v1::ListGapsResponse* response) override {
    return UnaryCall<v1::ListGapsResponse>::Start(
        response, [&](auto done) { coordinator_->ListGaps(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* CreateBackup(grpc::CallbackServerContext*,
                                         const v1::CreateBackupRequest* request,
                                         v1::CreateBackupResponse* response) override {
    return UnaryCall<v1::CreateBackupResponse>::Start(
        response, [&](auto done) { coordinator_->CreateBackup(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ListTraces(grpc::CallbackServerContext*,
                                       const v1::ListTracesRequest* request,
                                       v1::ListTracesResponse* response) override {
    return UnaryCall<v1::ListTracesResponse>::Start(
        response, [&](auto done) { coordinator_->ListTraces(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* GetTrace(grpc::CallbackServerContext*,
                                     const v1::GetTraceRequest* request,
                                     v1::GetTraceResponse* response) override {
    return UnaryCall<v1::GetTraceResponse>::Start(
        response, [&](auto done) { coordinator_->GetTrace(*request, std::move(done)); });
  }

 private:
  Coordinator* const coordinator_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeHistoryService(Coordinator* coordinator) {
  return std::make_unique<HistoryServiceImpl>(coordinator);
}

}  // namespace espalier::coordinator

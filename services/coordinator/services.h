// The four gRPC services of the coordinator: each parses, asks the Coordinator and converts.
#pragma once

#include <memory>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "services/coordinator/coordinator.h"

namespace espalier::coordinator {

// `coordinator` must outlive the server that serves them.
std::unique_ptr<grpc::Service> MakeRunService(Coordinator* coordinator);
std::unique_ptr<grpc::Service> MakeFleetService(Coordinator* coordinator);
std::unique_ptr<grpc::Service> MakeHistoryService(Coordinator* coordinator);
std::unique_ptr<grpc::Service> MakePlanService(Coordinator* coordinator);

}  // namespace espalier::coordinator

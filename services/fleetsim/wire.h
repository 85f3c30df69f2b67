// Wire: the simulation's channels and stubs; each channel is a connection of its own.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "espalier/v1/fleet_service.grpc.pb.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "espalier/v1/plan_service.grpc.pb.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/rpc/server.h"
#include "services/fleetsim/simulation.h"

namespace espalier::fleetsim {

// Thread-safe.
struct Simulation::Wire {
  static constexpr int kCallSecondsMax = 60;

  Wire(const std::string& address, uint32_t channels);
  absl::Status AwaitConnected(absl::Duration timeout) const;
  v1::FleetService::Stub* FleetStub(uint32_t worker) const {
    return fleet[worker % fleet.size()].get();
  }

  template <typename Stub, typename Request, typename Response>
  absl::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    Stub& stub, const Request& request, Response* response) const {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kCallSecondsMax));
    return rpc::FromGrpc((stub.*method)(&context, request, response));
  }

  const std::string address;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  std::vector<std::unique_ptr<v1::FleetService::Stub>> fleet;  // by channel
  std::unique_ptr<v1::RunService::Stub> runs;
  std::unique_ptr<v1::HistoryService::Stub> history;
  std::unique_ptr<v1::PlanService::Stub> plans;
};

}  // namespace espalier::fleetsim

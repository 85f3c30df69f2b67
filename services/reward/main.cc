// espalier-reward: flags, then wiring.
#include <iostream>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "services/reward/reward_service.h"

int main(int argc, char** argv) {
  espalier::rpc::BlockTerminationSignals();
  CLI::App app(
      "Espalier's reward service: scores reasoning traces for correctness and brevity. Stateless.");
  espalier::rpc::ServerOptions options;
  options.address = "127.0.0.1:7002";
  app.add_option("--listen", options.address, "host:port to serve gRPC on; port 0 takes a free one")
      ->capture_default_str();
  app.add_flag("--insecure", options.insecure, "Serve plaintext beyond loopback");
  app.set_version_flag("--version", std::string("espalier-reward ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);

  const auto service = espalier::reward_service::MakeRewardService();
  auto server = espalier::rpc::RpcServer::Start(options, {service.get()});
  if (!server.ok()) {
    std::cerr << "espalier-reward: " << server.status().message() << "\n";
    return 1;
  }
  LOG(INFO) << "reward_listening address=" << (*server)->address();
  espalier::rpc::WaitForTermination();
  LOG(INFO) << "reward_stopping";
  (*server)->Shutdown(absl::Seconds(2));
  return 0;
}

// espalier-reward: flags, then wiring: a pool, the service and one server.
#include <algorithm>
#include <iostream>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/time/time.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "services/reward/reward_service.h"

int main(int argc, char** argv) {
  espalier::rpc::BlockTerminationSignals();
  CLI::App app(
      "Espalier's reward service: scores reasoning traces for correctness and brevity. Stateless.");
  espalier::rpc::ServerOptions server_options;
  server_options.address = "127.0.0.1:7002";
  int threads = 0;
  app.add_option("--listen", server_options.address,
                 "host:port to serve gRPC on; port 0 takes a free one")
      ->capture_default_str();
  app.add_flag("--insecure", server_options.insecure, "Serve plaintext beyond loopback");
  app.add_option("--threads", threads, "Scoring threads; 0 takes one a core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.set_version_flag("--version", std::string("espalier-reward ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

  espalier::reward::ScorePool pool(threads);
  const auto service = espalier::reward::MakeRewardService(&pool);
  auto server = espalier::rpc::RpcServer::Start(server_options, {service.get()});
  if (!server.ok()) {
    std::cerr << "espalier-reward: " << server.status().message() << "\n";
    return 1;
  }
  (*server)->SetServing(true);
  LOG(INFO) << "reward_listening address=" << (*server)->address() << " threads=" << threads;
  espalier::rpc::WaitForTermination();
  LOG(INFO) << "reward_stopping";
  (*server)->SetServing(false);
  (*server)->Shutdown(absl::Seconds(5));
  return 0;
}

// espalier-reward: flags, then wiring: an engine, the service, one server, and a drain at the end.
#include <algorithm>
#include <array>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpc/grpc.h"
#include "libs/observe/log.h"
#include "libs/rpc/call_metrics.h"
#include "libs/rpc/call_traces.h"
#include "libs/rpc/flags.h"
#include "libs/rpc/server.h"
#include "services/reward/engine.h"
#include "services/reward/http_door.h"
#include "services/reward/reward_metrics.h"
#include "services/reward/reward_service.h"

namespace {

using espalier::reward::HttpDoor;
using espalier::reward::HttpOptions;

struct Flags {
  espalier::rpc::ServerOptions server;
  espalier::rpc::TraceOptions traces;
  std::string http;
  int threads = 0;
  double slow_ms = 20;
  double drain_seconds = 10;
};

int Fail(const absl::Status& status) {
  std::cerr << "espalier-reward: " << status.message() << "\n";
  return 1;
}

void AddFlags(CLI::App& app, Flags* flags) {
  flags->server.address = "127.0.0.1:7002";
  espalier::rpc::AddServerFlags(app, &flags->server);
  espalier::rpc::AddTraceFlags(app, &flags->traces);
  app.add_option("--http", flags->http,
                 "host:port of a door that speaks HTTP and JSON; none when absent");
  app.add_option("--threads", flags->threads, "Scoring threads; 0 takes one a core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--slow-ms", flags->slow_ms,
                 "Log traces that take more of a core than this; 0 logs none")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--drain-seconds", flags->drain_seconds,
                 "Time that accepted calls get after SIGTERM before they are cancelled")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
}

void Drain(espalier::reward::ScoreEngine* engine, espalier::reward::RewardService* service,
           espalier::rpc::RpcServer* server, std::unique_ptr<HttpDoor> door,
           absl::Duration patience) {
  const absl::Time deadline = absl::Now() + patience;
  LOG(INFO) << "reward_draining";
  server->SetServing(false);
  service->BeginDrain();
  const bool empty = engine->gate().WaitEmpty(deadline);
  LOG_IF(WARNING, !empty) << "reward_drain_timed_out effect=\"calls left are cancelled\"";
  server->Shutdown(absl::Milliseconds(100));
  door.reset();
  LOG(INFO) << "reward_stopped " << engine->stats().Summary();
}

}  // namespace

int main(int argc, char** argv) {
  espalier::rpc::BlockTerminationSignals();
  CLI::App app(
      "Espalier's reward service: scores reasoning traces for correctness and brevity. Stateless.");
  Flags flags;
  AddFlags(app, &flags);
  app.set_version_flag("--version", std::string("espalier-reward ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);
  // Held until the process ends: when gRPC takes its last thread down it may sit in a poll of 10 s.
  grpc_init();

  espalier::reward::EngineOptions options;
  options.threads = flags.threads;
  if (flags.threads == 0) {
    options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }
  if (flags.slow_ms > 0) options.slow = absl::Milliseconds(flags.slow_ms);
  const std::array<std::span<const espalier::observe::MetricSpec>, 3> tables = {
      espalier::rpc::CallMetricTable(), espalier::reward::RewardMetricTable(),
      espalier::observe::TraceMetricTable()};
  espalier::observe::Metrics metrics(tables);
  // Counting calls costs each of them a little; GET /stats tells more.
  if (!flags.server.metrics_address.empty()) flags.server.metrics = &metrics;
  const auto exposed = espalier::rpc::ServeMetrics(flags.server);
  if (!exposed.ok()) return Fail(exposed.status());
  const auto exporter =
      espalier::rpc::MakeOtlpExporter(flags.traces, "espalier-reward", "", &metrics);
  if (!exporter.ok()) return Fail(exporter.status());
  flags.server.spans = exporter->get();
  espalier::reward::ScoreEngine engine(options);
  const espalier::reward::RewardMetrics scraped(&metrics, &engine);
  const auto service = espalier::reward::RewardService::Make(&engine);
  auto server = espalier::rpc::RpcServer::Start(flags.server, {service->grpc()});
  if (!server.ok()) return Fail(server.status());
  std::unique_ptr<HttpDoor> door;
  if (!flags.http.empty()) {
    auto opened = HttpDoor::Open(
        HttpOptions{flags.http, flags.server.insecure, flags.server.security.tokens}, &engine);
    if (!opened.ok()) return Fail(opened.status());
    door = *std::move(opened);
    LOG(INFO) << "reward_http_listening address=" << door->address();
  }
  (*server)->SetServing(true);
  LOG(INFO) << "reward_listening address=" << (*server)->address()
            << " threads=" << options.threads;
  espalier::rpc::WaitForTermination();
  Drain(&engine, service.get(), server->get(), std::move(door), absl::Seconds(flags.drain_seconds));
  return 0;
}

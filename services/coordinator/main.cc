// espalier-coordinator: flags, then wiring: the ledger, the coordinator, its four services and one
// server.
#include <array>
#include <cstdio>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/time/time.h"
#include "libs/observe/log.h"
#include "libs/rpc/call_metrics.h"
#include "libs/rpc/call_traces.h"
#include "libs/rpc/flags.h"
#include "services/coordinator/backups.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/coordinator_metrics.h"
#include "services/coordinator/services.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << "espalier-coordinator: " << status.message() << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  espalier::rpc::BlockTerminationSignals();
  CLI::App app(
      "Espalier's coordinator: takes runs, gives them to workers, records them and decides on "
      "prunes and moves.");
  espalier::rpc::ServerOptions server_options;
  server_options.address = "127.0.0.1:7001";
  espalier::coordinator::CoordinatorOptions options;
  double lease_seconds = 10;
  espalier::rpc::AddServerFlags(app, &server_options);
  espalier::rpc::ClientSecurity client_security;  // towards PolicyServices
  espalier::rpc::AddClientFlags(app, &client_security);
  espalier::rpc::TraceOptions traces;
  espalier::rpc::AddTraceFlags(app, &traces);
  app.add_option("--trace-every", options.trace_every,
                 "One step in so many is traced on every rank, and with it each step with a "
                 "command and each slower than the p99; 0 traces none")
      ->capture_default_str();
  app.add_option("--data", options.data,
                 "Directory that keeps runs, commands, decisions and loads (RocksDB)")
      ->required();
  app.add_option("--backup-dir", options.backups,
                 "Directory that backups are written to; DATA.backups when absent");
  std::string restore;
  app.add_option("--restore", restore,
                 "Backup to begin from: copied to --data where that is empty or not there yet, else "
                 "left alone");
  app.add_option("--retain-steps", options.retain_steps,
                 "Newest steps of a run whose loads are kept one by one; sixteen times as many at "
                 "each coarser resolution; 0 keeps all")
      ->capture_default_str();
  app.add_option("--lease-seconds", lease_seconds, "Silence after which a worker counts as lost")
      ->capture_default_str();
  app.set_version_flag("--version", std::string("espalier-coordinator ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);
  options.lease = absl::Seconds(lease_seconds);
  if (const auto used = espalier::rpc::UseClientSecurity(client_security); !used.ok())
    return Fail(used);

  const std::array<std::span<const espalier::observe::MetricSpec>, 3> tables = {
      espalier::coordinator::CoordinatorMetricTable(), espalier::rpc::CallMetricTable(),
      espalier::observe::TraceMetricTable()};
  espalier::observe::Metrics metrics(tables);
  options.metrics = &metrics;
  server_options.metrics = &metrics;
  const auto exposed = espalier::rpc::ServeMetrics(server_options);
  if (!exposed.ok()) return Fail(exposed.status());
  const auto exporter =
      espalier::rpc::MakeOtlpExporter(traces, "espalier-coordinator", "", &metrics);
  if (!exporter.ok()) return Fail(exporter.status());
  options.spans = server_options.spans = exporter->get();
  if (const auto begun = espalier::coordinator::BeginFromBackup(options.data, restore); !begun.ok())
    return Fail(begun);
  auto coordinator = espalier::coordinator::Coordinator::Start(options);
  if (!coordinator.ok()) return Fail(coordinator.status());
  const auto runs = espalier::coordinator::MakeRunService(coordinator->get());
  const auto fleet = espalier::coordinator::MakeFleetService(coordinator->get());
  const auto history = espalier::coordinator::MakeHistoryService(coordinator->get());
  const auto plans = espalier::coordinator::MakePlanService(coordinator->get());
  auto server = espalier::rpc::RpcServer::Start(
      server_options, {runs.get(), fleet.get(), history.get(), plans.get()});
  if (!server.ok()) return Fail(server.status());
  (*server)->SetServing(true);
  LOG(INFO) << "coordinator_listening address=" << (*server)->address() << " data=" << options.data;

  bool serving = true;
  espalier::rpc::WaitForTermination([&] {
    const absl::Status health = (*coordinator)->health();
    if (health.ok() != serving) {
      serving = health.ok();
      LOG(ERROR) << "health_changed serving=" << serving << " cause=" << health;
      (*server)->SetServing(serving);
    }
    return false;
  });
  LOG(INFO) << "coordinator_stopping";
  (*server)->Shutdown(absl::Seconds(2));
  return 0;
}

// espalier-worker: flags, then wiring: the metrics with their energy counters, and the worker.
#include <array>
#include <iostream>
#include <memory>
#include <span>
#include <string>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "libs/rpc/call_metrics.h"
#include "libs/rpc/call_traces.h"
#include "libs/rpc/flags.h"
#include "services/worker/worker.h"
#include "services/worker/worker_metrics.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << "espalier-worker: " << status.message() << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  espalier::rpc::BlockTerminationSignals();
  CLI::App app("Espalier's worker: serves one rank of a training run at a time.");
  espalier::worker::WorkerOptions options;
  app.add_option("--coordinator", options.coordinator, "host:port of the coordinator")
      ->capture_default_str();
  app.add_option("--reward", options.reward, "host:port of the reward service")
      ->capture_default_str();
  app.add_option("--listen-links", options.listen_links,
                 "host:port that other workers link to; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--advertise", options.advertise,
                 "host:port under which other workers reach the links, when it differs");
  app.add_option("--data-root", options.data_root,
                 "Folder of corpora, checkpoints and exports; relative paths of runs start here")
      ->capture_default_str();
  app.add_option("--threads", options.threads,
                 "CPU threads; 0 takes what the run says, or its share of the cores")
      ->capture_default_str();
  app.add_option("--device", options.device,
                 "What trains: cpu, cuda (the first GPU that is visible) or cuda:N; one worker a GPU")
      ->capture_default_str();
  app.add_flag("--once", options.once,
               "Leave after one run has ended: exit code 0 when it completed or was stopped, 1 when it "
               "failed; for jobs");
  espalier::rpc::ServerOptions metrics_port;
  app.add_option("--metrics-listen", metrics_port.metrics_address,
                 "host:port to serve Prometheus metrics on, at /metrics; none when absent");
  espalier::worker::EnergyRates rates;
  app.add_option("--energy-price", rates.price_per_kwh,
                 "Price of a kWh, in any currency; with it and an energy counter, metrics tell the "
                 "cost of a million tokens");
  app.add_option("--grid-gco2", rates.grid_gco2_per_kwh,
                 "Grams of CO2 that a kWh stands for here; with it and an energy counter, metrics "
                 "tell the carbon of a million tokens");
  espalier::rpc::ClientSecurity security;
  espalier::rpc::AddClientFlags(app, &security);
  espalier::rpc::TraceOptions traces;
  espalier::rpc::AddTraceFlags(app, &traces);
  app.set_version_flag("--version", std::string("espalier-worker ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);

  if (const absl::Status secured = espalier::rpc::UseClientSecurity(security); !secured.ok()) {
    return Fail(secured);
  }
  if (const absl::Status valid = rates.Validate(); !valid.ok()) return Fail(valid);
  const std::array<std::span<const espalier::observe::MetricSpec>, 2> tables = {
      espalier::worker::WorkerMetricTable(), espalier::observe::TraceMetricTable()};
  espalier::observe::Metrics metrics(tables);
  metrics_port.metrics = &metrics;
  // Reports tell the energy, whether anybody scrapes metrics or not.
  espalier::observe::EnergyMeter meter(
      espalier::observe::FindEnergyCounters(espalier::observe::EnergyPlaces{}));
  espalier::worker::WorkerMetrics counted(&metrics, &meter, rates);
  options.metrics = &counted;
  const auto exposed = espalier::rpc::ServeMetrics(metrics_port);
  if (!exposed.ok()) return Fail(exposed.status());
  const auto exporter =
      espalier::rpc::MakeOtlpExporter(traces, "espalier-worker", options.advertise, &metrics);
  if (!exporter.ok()) return Fail(exporter.status());
  options.spans = exporter->get();
  auto worker = espalier::worker::Worker::Start(options);
  if (!worker.ok()) return Fail(worker.status());
  espalier::rpc::WaitForTermination([&] { return (*worker)->finished().has_value(); });
  LOG(INFO) << "worker_stopping";
  (*worker)->Stop();
  return (*worker)->finished().value_or(true) ? 0 : 1;
}

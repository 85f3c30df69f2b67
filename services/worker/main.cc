// espalier-worker: flags, then wiring.
#include <iostream>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "libs/rpc/flags.h"
#include "services/worker/worker.h"

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
  espalier::rpc::ClientSecurity security;
  espalier::rpc::AddClientFlags(app, &security);
  app.set_version_flag("--version", std::string("espalier-worker ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);

  if (const absl::Status secured = espalier::rpc::UseClientSecurity(security); !secured.ok()) {
    std::cerr << "espalier-worker: " << secured.message() << "\n";
    return 1;
  }
  auto worker = espalier::worker::Worker::Start(options);
  if (!worker.ok()) {
    std::cerr << "espalier-worker: " << worker.status().message() << "\n";
    return 1;
  }
  espalier::rpc::WaitForTermination();
  LOG(INFO) << "worker_stopping";
  (*worker)->Stop();
  return 0;
}

// espalier-fleetsim: plays a fleet of workers against a real coordinator, from a seed.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "services/fleetsim/simulation.h"

namespace {

using espalier::fleetsim::SimulationOptions;

void AddFlags(CLI::App* app, SimulationOptions* o) {
  app->add_option("--coordinator", o->coordinator, "host:port of the coordinator to play against");
  app->add_option("--spawn-coordinator", o->spawn_coordinator,
                  "espalier-coordinator to start on a scratch folder instead");
  const auto add = [app](const char* flag, auto* value, const char* help) {
    app->add_option(flag, *value, help)->capture_default_str();
  };
  add("--lease-seconds", &o->lease_seconds, "Lease that a spawned coordinator gives");
  add("--workers", &o->workers, "Workers in all");
  add("--ranks-per-run", &o->ranks_per_run, "Workers of one run; the last run takes what is left");
  add("--channels", &o->channels, "Connections that the workers' streams share");
  add("--layers", &o->layers, "Layers of the model");
  add("--experts", &o->experts, "Experts of a layer");
  add("--top-k", &o->top_k, "Experts that a token goes to");
  add("--tokens-per-expert", &o->tokens_per_expert, "Mean tokens that an expert gets in a step");
  add("--step-seconds", &o->step_seconds, "Time between a run's steps");
  add("--seconds", &o->seconds, "Time after which the runs are stopped");
  add("--steps", &o->steps, "Steps that each run takes, instead of --seconds");
  add("--seed", &o->seed, "Same seed, same loads and faults");
  add("--straggler-rate", &o->straggler_rate, "Share of a run's steps that some rank holds up");
  add("--disconnect-rate", &o->disconnect_rate, "Streams cut, of each worker, a second");
  add("--restart-rate", &o->restart_rate, "Processes replaced, of each worker, a second");
  app->add_option("--cut", o->cut, "WORKER@SECONDS: cut its stream then; may be repeated");
  app->add_option("--restart", o->restart, "WORKER@SECONDS: replace it then; may be repeated");
  add("--phase-change-step", &o->phase_change_step, "Step at which the expert ranking settles");
  add("--window-steps", &o->window_steps, "Load window of the runs' policies");
  add("--checkpoint-every", &o->checkpoint_every, "Steps between checkpoints; 0: by command only");
  app->add_flag("!--no-prune", o->prune, "Leave all experts alive");
  add("--beta", &o->beta, "LAEP's beta");
  add("--soft-steps", &o->soft_steps, "Steps for which pruned experts are only masked");
  add("--guard-tolerance", &o->guard_tolerance, "Quality guard's tolerance; 0 leaves it off");
  add("--check-layers", &o->check_layers, "Layers of each run compared at the end; 0: all");
  add("--deadline-seconds", &o->deadline_seconds, "Patience for the fleet to come up and to end");
  app->add_flag("--json", o->json, "Print the result as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Plays a fleet of workers against a real coordinator over real gRPC, from a seed.");
  SimulationOptions options;
  AddFlags(&app, &options);
  app.set_version_flag("--version", std::string("espalier-fleetsim ") + ESPALIER_VERSION);
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);

  const bool terminal = isatty(STDERR_FILENO) != 0;
  espalier::fleetsim::Simulation simulation(options, [terminal](const std::string& line) {
    std::cerr << (terminal ? "\r\x1b[K" : "") << line << (terminal ? "" : "\n") << std::flush;
  });
  const auto result = simulation.Run();
  if (terminal) std::cerr << "\r\x1b[K";
  if (!result.ok()) {
    std::cerr << "espalier-fleetsim: " << result.status().message() << "\n";
    return 1;
  }
  std::cout << (options.json ? ToJson(options, *result) : ToText(options, *result));
  // 3: it ran to its end and found something lost or wrong.
  return result->ok() ? 0 : 3;
}

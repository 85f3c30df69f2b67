// The commands of `espalier`, each folder of them adding itself to the parser.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace espalier::cli {

struct Context;

void AddRunCommands(CLI::App& app, Context& context);     // run …, workers, events
void AddSpecCommands(CLI::App& run, Context& context);    // run fields, run check
void AddExpertsCommand(CLI::App& app, Context& context);  // experts
void AddHistoryCommands(CLI::App& app, Context& context);  // history …
void AddPlanCommands(CLI::App& app, Context& context);    // plan …
void AddRewardCommands(CLI::App& app, Context& context);  // reward …
void AddTokenCommands(CLI::App& app, Context& context);   // token …
void AddTraceCommands(CLI::App& app, Context& context);   // trace …

// Shows a run until it ends or Ctrl-C; the exit code says how it ended.
absl::StatusOr<int> WatchRun(const Context& context, const std::string& run_id);

}  // namespace espalier::cli

// espalier: the command line of the suite. Parses, runs the chosen command, turns its outcome into
// an exit code.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "libs/observe/trace_context.h"
#include "libs/rpc/flags.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"

namespace {

using espalier::cli::Context;

void LookAtTerminal(Context* context) {
  context->terminal = isatty(STDOUT_FILENO) != 0;
  const char* kind = std::getenv("TERM");
  const bool dumb = kind == nullptr || std::strcmp(kind, "dumb") == 0;
  context->terminal = context->terminal && !dumb;
  context->style.unicode = context->terminal;
  const char* no_color = std::getenv("NO_COLOR");
  context->style.color = context->terminal && (no_color == nullptr || *no_color == '\0');
  winsize size{};
  if (context->terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    context->style.columns = size.ws_col;
  }
}

int Main(int argc, char** argv) {
  Context context;
  LookAtTerminal(&context);
  CLI::App app{
      "Trains mixture-of-experts models that prune themselves: starts runs, watches and steers "
      "them.",
      "espalier"};
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", "espalier " ESPALIER_VERSION);
  app.add_option("--coordinator", context.coordinator, "Coordinator, host:port")
      ->envname("ESPALIER_COORDINATOR")
      ->capture_default_str();
  app.add_option("--reward", context.reward, "Reward service, host:port")
      ->envname("ESPALIER_REWARD")
      ->capture_default_str();
  app.add_flag("--json", context.json, "Print JSON");
  espalier::rpc::ClientSecurity security;
  espalier::rpc::AddClientFlags(app, &security);
  app.footer(
      "Exit codes: 0 done, 1 the run failed, 2 wrong usage or run spec, 3 service unreachable, 4 "
      "not found, 5 other.");
  AddRunCommands(app, context);
  AddExpertsCommand(app, context);
  AddHistoryCommands(app, context);
  AddPlanCommands(app, context);
  AddRewardCommands(app, context);
  AddTokenCommands(app, context);
  AddTraceCommands(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "espalier: %s — see espalier --help\n", error.what());
    return espalier::cli::kExitUsage;
  }
  const absl::Status secured = espalier::rpc::UseClientSecurity(security);
  // As other command-line tools do: a job's trace goes on through what it calls.
  espalier::observe::CurrentTrace trace;
  if (const char* parent = std::getenv("TRACEPARENT")) {
    trace.context = espalier::observe::ParseTraceparent(parent).value_or(trace.context);
  }
  const espalier::observe::TraceScope scope(trace);
  const auto code = secured.ok() ? context.action() : absl::StatusOr<int>(secured);
  if (code.ok()) return *code;
  std::fputs(espalier::cli::ErrorText(code.status()).c_str(), stderr);
  return espalier::cli::ExitCodeOf(code.status());
}

}  // namespace

int main(int argc, char** argv) {
  // What gRPC would say of a failed connection is said in words of our own.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  espalier::observe::InitLogging("espalier");
  return Main(argc, argv);
}

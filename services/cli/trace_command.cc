// trace list, trace export and trace explain: the steps that were traced, one of them for a viewer,
// or in words.
#include <fstream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "espalier/v1/plan_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "nlohmann/json.hpp"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/trace_view.h"

namespace espalier::cli {
namespace {

using HistoryStub = v1::HistoryService::Stub;
using PlanStub = v1::PlanService::Stub;

struct TraceArguments {
  std::string run, format = "perfetto", output = "-";
  uint64_t step = 0;
};

absl::StatusOr<v1::GetTraceResponse> Get(const Context& context, const TraceArguments& arguments) {
  HistoryStub stub(rpc::MakeChannel(context.coordinator));
  v1::GetTraceRequest request;
  request.set_run_id(arguments.run);
  request.set_step(arguments.step);
  return Call<v1::GetTraceResponse>(stub, &HistoryStub::GetTrace, request, "coordinator",
                                    context.coordinator);
}

absl::StatusOr<int> List(const Context& context, const TraceArguments& arguments) {
  HistoryStub stub(rpc::MakeChannel(context.coordinator));
  v1::ListTracesRequest request;
  request.set_run_id(arguments.run);
  ASSIGN_OR_RETURN(const auto response,
                   Call<v1::ListTracesResponse>(stub, &HistoryStub::ListTraces, request,
                                                "coordinator", context.coordinator));
  context.Print(response, [&]() -> std::string {
    if (response.steps_size() == 0) return "No step was traced yet.\n";
    return absl::StrCat("Traced steps: ", absl::StrJoin(response.steps(), ", "), "\n");
  });
  return kExitOk;
}

absl::StatusOr<int> Export(const Context& context, const TraceArguments& arguments) {
  ASSIGN_OR_RETURN(const v1::GetTraceResponse trace, Get(context, arguments));
  const std::string text = PerfettoJson(trace);
  if (arguments.output == "-") {
    Write(text);
    return kExitOk;
  }
  std::ofstream file(arguments.output, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    return absl::InvalidArgumentError(absl::StrCat("--output: cannot write ", arguments.output,
                                                   " — name a file in a folder that exists"));
  }
  return kExitOk;
}

// What each decision promised and what came of it.
absl::StatusOr<std::string> RenderDecisions(const Context& context,
                                            const Explanation& explanation) {
  std::string text;
  PlanStub stub(rpc::MakeChannel(context.coordinator));
  for (const std::string& id : explanation.decisions) {
    v1::ExplainDecisionRequest request;
    request.set_run_id(explanation.run_id);
    request.set_decision_id(id);
    ASSIGN_OR_RETURN(const auto response,
                     Call<v1::ExplainDecisionResponse>(stub, &PlanStub::ExplainDecision, request,
                                                       "coordinator", context.coordinator));
    const v1::Decision& decision = response.decision();
    absl::StrAppendFormat(&text, "\nDecision %s was applied after it: step time %.4f s predicted, ",
                          id, decision.plan().step_seconds_predicted());
    absl::StrAppend(&text,
                    decision.has_step_seconds_realised()
                        ? absl::StrFormat("%.4f s realised.\n", decision.step_seconds_realised())
                        : "not yet realised.\n");
  }
  return text;
}

absl::StatusOr<int> Explain(const Context& context, const TraceArguments& arguments) {
  ASSIGN_OR_RETURN(const v1::GetTraceResponse trace, Get(context, arguments));
  ASSIGN_OR_RETURN(const Explanation explanation, ExplainTrace(trace));
  if (context.json) {
    Write(ToJson(explanation).dump(2) + "\n");
    return kExitOk;
  }
  ASSIGN_OR_RETURN(const std::string decisions, RenderDecisions(context, explanation));
  Write(Render(explanation, context.style) + decisions);
  return kExitOk;
}

}  // namespace

void AddTraceCommands(CLI::App& app, Context& context) {
  auto* trace = app.add_subcommand("trace", "Where the time of a step went, on every rank");
  trace->require_subcommand(1);
  auto arguments = std::make_shared<TraceArguments>();
  const auto add = [&](const char* name, const char* help, auto action) {
    auto* command = trace->add_subcommand(name, help);
    command->add_option("--run", arguments->run, "Run id, a unique prefix of it, or the run's name")
        ->required();
    command->callback([&context, arguments, action] {
      context.action = [&context, arguments, action] { return action(context, *arguments); };
    });
    return command;
  };
  add("list", "Steps whose traces are kept", &List);
  auto* exported = add("export", "Write a traced step for a viewer", &Export);
  auto* explained =
      add("explain", "Print a traced step's critical path and why each rank was late", &Explain);
  for (auto* command : {exported, explained}) {
    command->add_option("--step", arguments->step, "A step of `espalier trace list`")
        ->required()
        ->check(CLI::PositiveNumber);
  }
  exported->add_option("--format", arguments->format, "perfetto: also opened by chrome://tracing")
      ->check(CLI::IsMember({"perfetto"}))
      ->capture_default_str();
  exported->add_option("--output", arguments->output, "File to write; - for standard output")
      ->capture_default_str();
}

}  // namespace espalier::cli

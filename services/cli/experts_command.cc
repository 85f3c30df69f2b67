// experts: the load heatmap and placement of a run.
#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/render_experts.h"

namespace espalier::cli {
namespace {

constexpr uint64_t kWindowSteps = 50;
constexpr uint32_t kRowsMax = 256;

struct ExpertsArguments {
  std::string run_id;
  std::vector<uint32_t> layers;
  uint64_t step = 0;
};

absl::StatusOr<int> Experts(const Context& context, const ExpertsArguments& arguments) {
  const auto channel = rpc::MakeChannel(context.coordinator);
  v1::RunService::Stub runs(channel);
  v1::HistoryService::Stub history(channel);
  v1::GetRunRequest get;
  get.set_run_id(arguments.run_id);
  ASSIGN_OR_RETURN(const v1::GetRunResponse found, Call(runs, &v1::RunService::Stub::GetRun, get,
                                                        "coordinator", context.coordinator));
  const uint64_t newest = found.run().progress().step();
  const uint64_t step = arguments.step == 0 ? newest : arguments.step;
  if (step > newest) {
    return absl::InvalidArgumentError(
        absl::StrCat("--step ", step, " — the run has come to step ", newest));
  }
  v1::GetLoadsRequest loads_request;
  loads_request.set_run_id(found.run().run_id());
  for (const uint32_t layer : arguments.layers) loads_request.add_layers(layer);
  loads_request.set_first_step(step > kWindowSteps ? step - kWindowSteps + 1 : 1);
  loads_request.set_last_step(std::max<uint64_t>(step, 1));
  loads_request.set_rows_max(kRowsMax);
  ASSIGN_OR_RETURN(const v1::GetLoadsResponse loads,
                   Call(history, &v1::HistoryService::Stub::GetLoads, loads_request, "coordinator",
                        context.coordinator));
  v1::GetLayoutRequest layout_request;
  layout_request.set_run_id(found.run().run_id());
  layout_request.set_step(arguments.step);
  ASSIGN_OR_RETURN(const v1::GetLayoutResponse layout,
                   Call(history, &v1::HistoryService::Stub::GetLayout, layout_request,
                        "coordinator", context.coordinator));
  if (context.json) {
    std::string first = ToJson(loads, false), second = ToJson(layout, false);
    first.pop_back();
    second.pop_back();
    Write(absl::StrCat("{\"loads\":", first, ",\"layout\":", second, "}\n"));
  } else {
    Write(RenderExperts(loads, layout, context.style));
  }
  return kExitOk;
}

}  // namespace

void AddExpertsCommand(CLI::App& app, Context& context) {
  auto* command = app.add_subcommand("experts", "Load heatmap and placement of a run's experts");
  auto arguments = std::make_shared<ExpertsArguments>();
  command->add_option("run", arguments->run_id, "Run id, a unique prefix of it, or the run's name")
      ->required();
  command->add_option("--layer", arguments->layers, "Only this layer (may be given again)")
      ->allow_extra_args(false);
  command->add_option("--step", arguments->step,
                      "Loads up to this step and the placement after it; default now");
  command->callback([&context, arguments] {
    context.action = [&context, arguments] { return Experts(context, *arguments); };
  });
}

}  // namespace espalier::cli

// run submit, list, get, watch, pause, resume, stop, export, report and series; workers and events.
#include <cstdio>
#include <fstream>
#include <random>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/render_run.h"
#include "services/cli/render_table.h"
#include "services/cli/spec_input.h"
#include "services/cli/summary_json.h"

namespace espalier::cli {
namespace {

using Result = absl::StatusOr<int>;
using RunStub = v1::RunService::Stub;
using HistoryStub = v1::HistoryService::Stub;

constexpr uint32_t kPageSize = 100;
constexpr int kPagesMax = 1000;
constexpr int kExportSeconds = 600;

template <typename Response, typename Request>
absl::StatusOr<Response> CallRuns(const Context& context,
                                  grpc::Status (RunStub::*method)(grpc::ClientContext*,
                                                                  const Request&, Response*),
                                  const Request& request, int seconds = kCallSeconds) {
  RunStub stub(rpc::MakeChannel(context.coordinator));
  return Call(stub, method, request, "coordinator", context.coordinator, seconds);
}

template <typename Response, typename Request>
absl::StatusOr<Response> CallHistory(const Context& context,
                                     grpc::Status (HistoryStub::*method)(grpc::ClientContext*,
                                                                         const Request&, Response*),
                                     const Request& request) {
  HistoryStub stub(rpc::MakeChannel(context.coordinator));
  return Call(stub, method, request, "coordinator", context.coordinator);
}

std::string RandomId() {
  std::random_device device;
  std::string id = "cli-";
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(device(), absl::kZeroPad8));
  return id;
}

struct SubmitArguments {
  std::string file, request_id;
  std::vector<std::string> changes;
  bool watch = false;
};

Result Submit(const Context& context, const SubmitArguments& arguments) {
  v1::SubmitRunRequest request;
  ASSIGN_OR_RETURN(*request.mutable_spec(), ReadSpec(arguments.file, arguments.changes));
  request.set_request_id(arguments.request_id.empty() ? RandomId() : arguments.request_id);
  auto response = CallRuns(context, &RunStub::SubmitRun, request);
  if (absl::IsInvalidArgument(response.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(arguments.file, ":\n", response.status().message()));
  }
  RETURN_IF_ERROR(response.status());
  const std::string run_id = response->run().run_id();
  if (arguments.watch) return WatchRun(context, run_id);
  context.Print(*response, [&] {
    return absl::StrCat(run_id, " submitted\nfollow it with: espalier run watch ", run_id, "\n");
  });
  return kExitOk;
}

// All pages in one response.
template <typename Request, typename Response, typename Fetch, typename Merge>
absl::Status ReadPages(Request request, Response* all, const Fetch& fetch, const Merge& merge) {
  request.set_page_size(kPageSize);
  for (int page = 0; page < kPagesMax; ++page) {
    auto response = fetch(request);
    RETURN_IF_ERROR(response.status());
    merge(*response, all);
    if (response->next_page_token().empty()) return absl::OkStatus();
    request.set_page_token(response->next_page_token());
  }
  return absl::OkStatus();
}

Result List(const Context& context) {
  v1::ListRunsResponse all;
  RETURN_IF_ERROR(ReadPages(
      v1::ListRunsRequest(), &all,
      [&](const v1::ListRunsRequest& request) {
        return CallRuns(context, &RunStub::ListRuns, request);
      },
      [](const v1::ListRunsResponse& page, v1::ListRunsResponse* out) { out->MergeFrom(page); }));
  all.clear_next_page_token();
  context.Print(all, [&] { return RenderRuns(all, context.style); });
  return kExitOk;
}

Result Workers(const Context& context) {
  v1::ListWorkersResponse all;
  RETURN_IF_ERROR(ReadPages(
      v1::ListWorkersRequest(), &all,
      [&](const v1::ListWorkersRequest& request) {
        return CallRuns(context, &RunStub::ListWorkers, request);
      },
      [](const v1::ListWorkersResponse& page, v1::ListWorkersResponse* out) {
        out->MergeFrom(page);
      }));
  all.clear_next_page_token();
  context.Print(all, [&] { return RenderWorkers(all, context.style); });
  return kExitOk;
}

Result Events(const Context& context, const std::string& run_id) {
  v1::ListEventsRequest first;
  first.set_run_id(run_id);
  v1::ListEventsResponse all;
  RETURN_IF_ERROR(ReadPages(
      first, &all,
      [&](const v1::ListEventsRequest& request) {
        return CallHistory(context, &HistoryStub::ListEvents, request);
      },
      [](const v1::ListEventsResponse& page, v1::ListEventsResponse* out) {
        out->MergeFrom(page);
      }));
  all.clear_next_page_token();
  context.Print(all, [&] {
    std::string text;
    for (const v1::RunEvent& event : all.events())
      absl::StrAppend(&text, RenderEvent(event, context.style), "\n");
    return text.empty() ? std::string("No events yet.\n") : text;
  });
  return kExitOk;
}

// Get, pause, resume and stop: a run's id in, the run out.
template <typename Request, typename Response>
Result OneRun(const Context& context, const std::string& run_id,
              grpc::Status (RunStub::*method)(grpc::ClientContext*, const Request&, Response*)) {
  Request request;
  request.set_run_id(run_id);
  ASSIGN_OR_RETURN(const Response response, CallRuns(context, method, request));
  context.Print(response, [&] { return RenderRun(response.run(), context.style); });
  return kExitOk;
}

Result Export(const Context& context, const std::string& run_id, const std::string& directory) {
  v1::ExportRunRequest request;
  request.set_run_id(run_id);
  request.set_directory(directory);
  ASSIGN_OR_RETURN(const auto response,
                   CallRuns(context, &RunStub::ExportRun, request, kExportSeconds));
  context.Print(response, [&] {
    return absl::StrCat("exported after step ", response.step(), " to ", response.path(), "\n");
  });
  return kExitOk;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnknownError(
      absl::StrCat("cannot write ", path, " — check the folder and the free space"));
}

Result Report(const Context& context, const std::string& run_id, const std::string& out) {
  v1::GetRunRequest request;
  request.set_run_id(run_id);
  ASSIGN_OR_RETURN(const auto response, CallRuns(context, &RunStub::GetRun, request));
  const std::string json = SummaryJson(response.run().summary());
  if (!out.empty()) RETURN_IF_ERROR(WriteFile(out, json));
  Write(context.json ? json : RenderReport(response.run(), context.style));
  return kExitOk;
}

std::string RenderSeries(const v1::GetSeriesResponse& series, const Style& style) {
  std::vector<std::vector<std::string>> rows = {
      {"STEP", "LOSS", "HELD-OUT", "TOKENS/S", "IMBALANCE", "EXPERTS"}};
  for (const v1::SeriesPoint& point : series.points()) {
    rows.push_back({absl::StrCat(point.step()), absl::StrFormat("%.4f", point.loss()),
                    point.has_heldout_loss() ? absl::StrFormat("%.4f", point.heldout_loss()) : "",
                    absl::StrFormat("%.0f", point.tokens_per_second()),
                    absl::StrFormat("%.3f", point.imbalance()),
                    absl::StrCat(point.experts_alive())});
  }
  return RenderTable(rows, style);
}

Result Series(const Context& context, const std::string& run_id, uint32_t points) {
  v1::GetSeriesRequest request;
  request.set_run_id(run_id);
  request.set_points(points);
  ASSIGN_OR_RETURN(const auto response, CallHistory(context, &HistoryStub::GetSeries, request));
  context.Print(response, [&] { return RenderSeries(response, context.style); });
  return kExitOk;
}

// A command with a run as its one argument.
CLI::App* AddRunCommand(CLI::App& parent, Context& context, const std::string& name,
                        const std::string& help, std::function<Result(const std::string&)> act) {
  auto* command = parent.add_subcommand(name, help);
  auto run_id = std::make_shared<std::string>();
  command->add_option("run", *run_id, "Run id, a unique prefix of it, or the run's name")
      ->required();
  command->callback(
      [&context, run_id, act] { context.action = [run_id, act] { return act(*run_id); }; });
  return command;
}

void AddSubmit(CLI::App& run, Context& context) {
  auto* submit = run.add_subcommand("submit", "Start a run from a run spec");
  auto arguments = std::make_shared<SubmitArguments>();
  submit->add_option("file", arguments->file, "Run spec in YAML or JSON; - reads standard input")
      ->required();
  submit->add_flag("--watch", arguments->watch, "Show the run until it ends");
  submit
      ->add_option("--set", arguments->changes,
                   "Replace a field: path=value, such as model.top_k=4")
      ->allow_extra_args(false);
  submit->add_option(
      "--request-id", arguments->request_id,
      "Key of this request: a second submit with the same one returns the first run");
  submit->callback([&context, arguments] {
    context.action = [&context, arguments] { return Submit(context, *arguments); };
  });
}

}  // namespace

void AddRunCommands(CLI::App& app, Context& context) {
  auto* run = app.add_subcommand("run", "Start, watch and steer runs");
  run->require_subcommand(1);
  AddSubmit(*run, context);
  run->add_subcommand("list", "All runs, newest first")->callback([&context] {
    context.action = [&context] { return List(context); };
  });
  AddRunCommand(*run, context, "get", "One run as it is now",
                [&](const std::string& id) { return OneRun(context, id, &RunStub::GetRun); });
  AddRunCommand(*run, context, "watch", "Show a run until it ends; Ctrl-C leaves it going",
                [&](const std::string& id) { return WatchRun(context, id); });
  AddRunCommand(*run, context, "pause", "Pause after the current step",
                [&](const std::string& id) { return OneRun(context, id, &RunStub::PauseRun); });
  AddRunCommand(*run, context, "resume", "Go on after a pause",
                [&](const std::string& id) { return OneRun(context, id, &RunStub::ResumeRun); });
  AddRunCommand(*run, context, "stop", "Write a checkpoint and end the run",
                [&](const std::string& id) { return OneRun(context, id, &RunStub::StopRun); });
  auto directory = std::make_shared<std::string>();
  AddRunCommand(
      *run, context, "export", "Export the model as it is after the current step",
      [&context, directory](const std::string& id) { return Export(context, id, *directory); })
      ->add_option("--directory", *directory,
                   "Folder on the workers' filesystem; default export-STEP/ of the run");
  auto out = std::make_shared<std::string>();
  AddRunCommand(*run, context, "report", "Closing report of a run, computed from what was recorded",
                [&context, out](const std::string& id) { return Report(context, id, *out); })
      ->add_option("--out", *out, "Also write the figures to this JSON file");
  auto points = std::make_shared<uint32_t>(1000);
  AddRunCommand(*run, context, "series", "Figures by step: loss, tokens/s, imbalance",
                [&context, points](const std::string& id) { return Series(context, id, *points); })
      ->add_option("--points", *points, "Most points; longer runs are thinned")
      ->capture_default_str();
  AddSpecCommands(*run, context);

  auto* workers = app.add_subcommand("workers", "The workers that are attached");
  workers->require_subcommand(1);
  workers->add_subcommand("list", "All workers and what they do")->callback([&context] {
    context.action = [&context] { return Workers(context); };
  });
  AddRunCommand(app, context, "events", "What happened in a run",
                [&](const std::string& id) { return Events(context, id); });
}

}  // namespace espalier::cli

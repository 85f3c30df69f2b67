// history gaps and history backup: what was never recorded, and a copy of what was.
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/render_table.h"

namespace espalier::cli {
namespace {

using HistoryStub = v1::HistoryService::Stub;

constexpr uint32_t kPageSize = 1000;
constexpr int kPagesMax = 1000;

std::string RenderGaps(const v1::ListGapsResponse& gaps) {
  std::string text = gaps.gaps_size() == 0 ? "Every step was reported by every rank.\n" : "";
  for (const v1::StepRange& gap : gaps.gaps()) {
    absl::StrAppendFormat(&text, "Steps %d to %d were not reported by every rank.\n",
                          gap.first_step(), gap.last_step());
  }
  for (const v1::RetainedResolution& retained : gaps.retained()) {
    if (retained.first_step() == 0) continue;
    absl::StrAppendFormat(&text, "Rows of %d step%s begin at step %d; older ones have expired.\n",
                          retained.resolution(), retained.resolution() == 1 ? "" : "s",
                          retained.first_step());
  }
  return text;
}

absl::StatusOr<int> Gaps(const Context& context, const std::string& run_id) {
  HistoryStub stub(rpc::MakeChannel(context.coordinator));
  v1::ListGapsRequest request;
  request.set_run_id(run_id);
  request.set_page_size(kPageSize);
  v1::ListGapsResponse all;
  for (int page = 0; page < kPagesMax; ++page) {
    ASSIGN_OR_RETURN(
        const v1::ListGapsResponse response,
        Call(stub, &HistoryStub::ListGaps, request, "coordinator", context.coordinator));
    for (const v1::StepRange& gap : response.gaps()) *all.add_gaps() = gap;
    *all.mutable_retained() = response.retained();
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  context.Print(all, [&] { return RenderGaps(all); });
  return kExitOk;
}

absl::StatusOr<int> Backup(const Context& context, const std::string& name, uint32_t keep) {
  HistoryStub stub(rpc::MakeChannel(context.coordinator));
  v1::CreateBackupRequest request;
  request.set_name(name);
  request.set_keep(keep);
  ASSIGN_OR_RETURN(
      const v1::CreateBackupResponse response,
      Call(stub, &HistoryStub::CreateBackup, request, "coordinator", context.coordinator));
  context.Print(response, [&] {
    return absl::StrCat("Backup of ", Count(static_cast<double>(response.bytes())), " B in ",
                        Printable(response.path()), "\nStart from it: espalier-coordinator --restore ",
                        Printable(response.path()), " --data NEW_FOLDER\n");
  });
  return kExitOk;
}

}  // namespace

void AddHistoryCommands(CLI::App& app, Context& context) {
  auto* history = app.add_subcommand("history", "What the coordinator has recorded");
  history->require_subcommand(1);
  auto run_id = std::make_shared<std::string>();
  auto* gaps = history->add_subcommand(
      "gaps", "Steps that were not recorded, and where each resolution begins");
  gaps->add_option("run", *run_id, "Run id, a unique prefix of it, or the run's name")->required();
  gaps->callback([&context, run_id] {
    context.action = [&context, run_id] { return Gaps(context, *run_id); };
  });
  auto name = std::make_shared<std::string>();
  auto* backup = history->add_subcommand(
      "backup", "Write a consistent copy of the coordinator's directory on its machine");
  backup->add_option("--name", *name, "Folder of the backup; the time when absent");
  auto keep = std::make_shared<uint32_t>(0);
  backup->add_option("--keep", *keep, "Then keep only the newest so many; 0 keeps all")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  backup->callback([&context, name, keep] {
    context.action = [&context, name, keep] { return Backup(context, *name, *keep); };
  });
}

}  // namespace espalier::cli

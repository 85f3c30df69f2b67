// plan propose, apply, reject, list, explain and rollback over PlanService; plan prune and placement on a file.
#include <limits>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "espalier/v1/plan_service.grpc.pb.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/plan_offline.h"
#include "services/cli/render_plan.h"

namespace espalier::cli {
namespace {

using Result = absl::StatusOr<int>;
using PlanStub = v1::PlanService::Stub;

constexpr uint32_t kPageSize = 100;
constexpr int kPagesMax = 1000;

// What the flags say; absent ones leave the run's own policy.
struct PlanArguments {
  std::string run_id, decision_id, request_id, reason, loads, current;
  std::optional<double> alpha, beta, guard_tolerance;
  std::optional<uint32_t> soft_steps;
  std::optional<uint32_t> keep_min, keep_multiple_of, extra_slots, ranks;
  uint32_t ranks_per_node = 0;
  double moves_max_share = 1;
  std::optional<int> moves_max;
  std::vector<int> protected_experts;
  bool skip_prune = false, skip_placement = false;
};

template <typename Response, typename Request>
absl::StatusOr<Response> CallPlans(const Context& context,
                                   grpc::Status (PlanStub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                                   const Request& request) {
  PlanStub stub(rpc::MakeChannel(context.coordinator));
  return Call(stub, method, request, "coordinator", context.coordinator);
}

// The run's own policy with the flags over it.
absl::StatusOr<v1::PlanOptions> OptionsOf(const Context& context, const PlanArguments& arguments) {
  v1::PlanOptions options;
  options.set_skip_prune(arguments.skip_prune);
  options.set_skip_placement(arguments.skip_placement);
  const bool prune = arguments.alpha || arguments.beta || arguments.keep_min ||
                     arguments.keep_multiple_of || arguments.soft_steps ||
                     arguments.guard_tolerance || !arguments.protected_experts.empty();
  if (!prune && !arguments.extra_slots) return options;
  v1::RunService::Stub runs(rpc::MakeChannel(context.coordinator));
  v1::GetRunRequest request;
  request.set_run_id(arguments.run_id);
  ASSIGN_OR_RETURN(
      const v1::GetRunResponse found,
      Call(runs, &v1::RunService::Stub::GetRun, request, "coordinator", context.coordinator));
  if (prune) {
    v1::PrunePolicy& policy = *options.mutable_prune();
    policy = found.run().spec().prune();
    if (arguments.alpha) policy.set_alpha(*arguments.alpha);
    if (arguments.beta) policy.set_beta(*arguments.beta);
    if (arguments.keep_min) policy.set_keep_min(*arguments.keep_min);
    if (arguments.soft_steps) policy.set_soft_steps(*arguments.soft_steps);
    if (arguments.guard_tolerance) policy.set_guard_tolerance(*arguments.guard_tolerance);
    if (arguments.keep_multiple_of) policy.set_keep_multiple_of(*arguments.keep_multiple_of);
    for (const int expert : arguments.protected_experts) {
      policy.add_protected_experts(static_cast<uint32_t>(expert));
    }
  }
  if (arguments.extra_slots) {
    *options.mutable_placement() = found.run().spec().placement();
    options.mutable_placement()->set_extra_slots(*arguments.extra_slots);
  }
  return options;
}

Result Propose(const Context& context, const PlanArguments& arguments) {
  v1::ProposePlanRequest request;
  request.set_run_id(arguments.run_id);
  ASSIGN_OR_RETURN(*request.mutable_options(), OptionsOf(context, arguments));
  ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::ProposePlan, request));
  context.Print(response, [&] { return RenderPlan(response.plan(), context.style); });
  return kExitOk;
}

Result Apply(const Context& context, const PlanArguments& arguments) {
  v1::ApplyPlanRequest request;
  request.set_run_id(arguments.run_id);
  request.set_request_id(arguments.request_id);
  if (arguments.decision_id.empty()) {
    ASSIGN_OR_RETURN(*request.mutable_options(), OptionsOf(context, arguments));
  } else {
    request.set_decision_id(arguments.decision_id);
  }
  ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::ApplyPlan, request));
  context.Print(response, [&] { return RenderDecision(response.decision(), context.style); });
  return kExitOk;
}

Result List(const Context& context, const PlanArguments& arguments) {
  v1::ListDecisionsRequest request;
  request.set_run_id(arguments.run_id);
  request.set_page_size(kPageSize);
  v1::ListDecisionsResponse all;
  for (int page = 0; page < kPagesMax; ++page) {
    ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::ListDecisions, request));
    all.MergeFrom(response);
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  all.clear_next_page_token();
  context.Print(all, [&] { return RenderDecisions(all, context.style); });
  return kExitOk;
}

Result Explain(const Context& context, const PlanArguments& arguments) {
  v1::ExplainDecisionRequest request;
  request.set_run_id(arguments.run_id);
  request.set_decision_id(arguments.decision_id);
  ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::ExplainDecision, request));
  context.Print(response, [&] { return RenderDecision(response.decision(), context.style); });
  return kExitOk;
}

Result Reject(const Context& context, const PlanArguments& arguments) {
  v1::RejectDecisionRequest request;
  request.set_run_id(arguments.run_id);
  request.set_decision_id(arguments.decision_id);
  request.set_reason(arguments.reason);
  ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::RejectDecision, request));
  context.Print(response, [&] { return RenderDecision(response.decision(), context.style); });
  return kExitOk;
}

Result RollBack(const Context& context, const PlanArguments& arguments) {
  v1::RollbackDecisionRequest request;
  request.set_run_id(arguments.run_id);
  request.set_decision_id(arguments.decision_id);
  request.set_reason(arguments.reason);
  ASSIGN_OR_RETURN(const auto response, CallPlans(context, &PlanStub::RollbackDecision, request));
  context.Print(response, [&] { return RenderDecision(response.decision(), context.style); });
  return kExitOk;
}

absl::StatusOr<planner::PlacementOptions> PlacementOf(const PlanArguments& arguments) {
  planner::PlacementOptions options;
  options.rank_count = static_cast<int>(arguments.ranks.value_or(1));
  if (arguments.extra_slots) options.extra_slots = static_cast<int>(*arguments.extra_slots);
  if (arguments.moves_max) options.moves_max = *arguments.moves_max;
  const int per_node = static_cast<int>(arguments.ranks_per_node);
  if (per_node > 0 && options.rank_count % per_node != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--ranks-per-node ", per_node,
                                                   " does not divide --ranks ", options.rank_count,
                                                   ": nodes of one size are balanced"));
  }
  for (int rank = 0; per_node > 0 && rank < options.rank_count; ++rank)
    options.node_of_rank.push_back(rank / per_node);
  return options;
}

absl::StatusOr<std::string> ReadCurrent(const PlanArguments& arguments) {
  if (arguments.current.empty()) return std::string();
  return ReadInput(arguments.current);
}

Result PruneFile(const PlanArguments& arguments) {
  planner::PruneOptions options;
  if (arguments.beta) options.beta = *arguments.beta;
  // 0 switches the constraint off, as in a run spec.
  if (arguments.alpha && *arguments.alpha > 0) options.alpha = *arguments.alpha;
  if (arguments.keep_min) options.keep_min = static_cast<int>(*arguments.keep_min);
  if (arguments.keep_multiple_of)
    options.keep_multiple_of = static_cast<int>(*arguments.keep_multiple_of);
  options.protected_experts = arguments.protected_experts;
  ASSIGN_OR_RETURN(const std::string loads, ReadInput(arguments.loads));
  ASSIGN_OR_RETURN(const std::string current, ReadCurrent(arguments));
  ASSIGN_OR_RETURN(const planner::PlacementOptions placement, PlacementOf(arguments));
  ASSIGN_OR_RETURN(const std::string plan, PlanPruneOffline(loads, current, options, placement));
  Write(plan);
  return kExitOk;
}

Result PlacementFile(const PlanArguments& arguments) {
  ASSIGN_OR_RETURN(const planner::PlacementOptions options, PlacementOf(arguments));
  ASSIGN_OR_RETURN(const std::string loads, ReadInput(arguments.loads));
  ASSIGN_OR_RETURN(const std::string current, ReadCurrent(arguments));
  ASSIGN_OR_RETURN(const std::string plan,
                   PlanPlacementOffline(loads, current, options, arguments.moves_max_share));
  Write(plan);
  return kExitOk;
}

using Arguments = std::shared_ptr<PlanArguments>;

CLI::App* AddCommand(CLI::App& plan, Context& context, const std::string& name,
                     const std::string& help, const Arguments& arguments,
                     std::function<Result()> act) {
  auto* command = plan.add_subcommand(name, help);
  command->callback([&context, act] { context.action = act; });
  return command;
}

void AddRun(CLI::App* command, const Arguments& arguments) {
  command->add_option("run", arguments->run_id, "Run id, a unique prefix of it, or the run's name")
      ->required();
}

void AddPruneOptions(CLI::App* command, const Arguments& arguments) {
  command
      ->add_option("--alpha", arguments->alpha,
                   "An expert may go only when its load is at most alpha times the mean; 0: off")
      ->check(CLI::Range(0.0, std::numeric_limits<double>::max()));
  command
      ->add_option("--beta", arguments->beta,
                   "The experts that go carry less than this share of a layer's load")
      ->check(CLI::Range(0.0, 0.9));
  command->add_option("--keep-min", arguments->keep_min, "Fewest experts kept in a layer")
      ->check(CLI::Range(0, 65536));
  command
      ->add_option("--keep-multiple-of", arguments->keep_multiple_of,
                   "Round the experts kept up to a multiple")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--protect", arguments->protected_experts,
                   "Experts that are never pruned, 1,2,…")
      ->delimiter(',')
      ->check(CLI::Range(0, 65535));
}

void AddSlots(CLI::App* command, const Arguments& arguments) {
  command
      ->add_option("--extra-slots", arguments->extra_slots,
                   "Experts that a rank may hold above an even share")
      ->check(CLI::Range(0, 65536));
}

void AddSkips(CLI::App* command, const Arguments& arguments) {
  command->add_flag("--skip-prune", arguments->skip_prune, "Only move experts");
  command->add_flag("--skip-placement", arguments->skip_placement, "Only prune experts");
}

void AddOffline(CLI::App& plan, Context& context, const Arguments& arguments) {
  auto* prune = AddCommand(plan, context, "prune",
                           "Which experts a layer would lose, from a file of loads (offline)",
                           arguments, [arguments] { return PruneFile(*arguments); });
  auto* placement = AddCommand(plan, context, "placement",
                               "Which rank would hold which expert, from a file of loads (offline)",
                               arguments, [arguments] { return PlacementFile(*arguments); });
  for (CLI::App* command : {prune, placement}) {
    command
        ->add_option("--loads", arguments->loads,
                     "JSON file, - for standard input: {\"layers\":[{\"layer\":0,\"loads\":[…]}]}, "
                     "or one layer a line")
        ->required();
    command->add_option("--ranks", arguments->ranks, "Ranks to place on")
        ->check(CLI::Range(1, 16384))
        ->required(command == placement);
  }
  AddPruneOptions(prune, arguments);
  for (CLI::App* command : {prune, placement}) {
    AddSlots(command, arguments);
    command->add_option("--current", arguments->current,
                        "Placement to start from: the output of an earlier plan");
    command
        ->add_option("--ranks-per-node", arguments->ranks_per_node,
                     "Ranks that share a node, in rank order: nodes are balanced first")
        ->check(CLI::Range(1, 16384));
  }
  placement
      ->add_option("--moves-max-share", arguments->moves_max_share,
                   "Largest share of a layer's experts that may move from --current")
      ->check(CLI::Range(0.0, 1.0));
  placement
      ->add_option("--moves-max", arguments->moves_max,
                   "Most experts of a layer that may move from --current")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
}

}  // namespace

void AddPlanCommands(CLI::App& app, Context& context) {
  auto* plan = app.add_subcommand("plan", "Which experts to prune and where to put the others");
  plan->require_subcommand(1);
  const auto arguments = std::make_shared<PlanArguments>();
  auto* propose =
      AddCommand(*plan, context, "propose", "Plan on a run's recorded loads and change nothing",
                 arguments, [&context, arguments] { return Propose(context, *arguments); });
  auto* apply = AddCommand(
      *plan, context, "apply",
      "Plan likewise and command the run to do it, or approve a decision that waits (--decision)",
      arguments, [&context, arguments] { return Apply(context, *arguments); });
  auto* reject =
      AddCommand(*plan, context, "reject", "Drop a decision that waits for approval", arguments,
                 [&context, arguments] { return Reject(context, *arguments); });
  auto* list = AddCommand(*plan, context, "list", "Decisions of a run, newest first", arguments,
                          [&context, arguments] { return List(context, *arguments); });
  auto* explain =
      AddCommand(*plan, context, "explain", "One decision: what it promised and what came of it",
                 arguments, [&context, arguments] { return Explain(context, *arguments); });
  auto* rollback = AddCommand(
      *plan, context, "rollback",
      "Take a decision back: unmask, move back, or go back to the checkpoint taken before a drop",
      arguments, [&context, arguments] { return RollBack(context, *arguments); });
  for (CLI::App* command : {propose, apply, reject, list, explain, rollback})
    AddRun(command, arguments);
  for (CLI::App* command : {propose, apply}) {
    AddPruneOptions(command, arguments);
    AddSlots(command, arguments);
    AddSkips(command, arguments);
  }
  apply->add_option("--request-id", arguments->request_id,
                    "Key of this request: a second one with it changes nothing");
  for (CLI::App* command : {explain, reject, rollback}) {
    command->add_option("decision", arguments->decision_id, "Decision id, as `plan list` shows it")
        ->required();
  }
  for (CLI::App* command : {reject, rollback})
    command->add_option("--reason", arguments->reason, "Why; kept with the decision");
  apply
      ->add_option("--soft-steps", arguments->soft_steps,
                   "Only mask the experts first, and drop them after so many steps")
      ->check(CLI::Range(0, 1000000000));
  apply
      ->add_option("--guard-tolerance", arguments->guard_tolerance,
                   "Take the prune back when the held-out loss comes out this much above forecast")
      ->check(CLI::Range(0.0, 100.0));
  // As it was planned: nothing about the plan can be said with it.
  auto* decision = apply->add_option("--decision", arguments->decision_id,
                                     "Approve this decision, as `plan list` shows it waiting");
  for (CLI::Option* option : apply->get_options()) {
    const std::string name = option->get_name();
    if (name != "--help" && name != "--help,-h" && name != "run" && name != "--request-id" &&
        option != decision && name.rfind("--", 0) == 0 && name != "-h,--help")
      decision->excludes(option);
  }
  AddOffline(*plan, context, arguments);
}

}  // namespace espalier::cli

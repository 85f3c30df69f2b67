// What a simulation found, as text for people and as JSON for programs.
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "services/fleetsim/simulation.h"

namespace espalier::fleetsim {
namespace {

std::string AckLine(const char* name, const Latencies& ack) {
  return absl::StrFormat("%-22s p50 %.1f ms, p90 %.1f, p99 %.1f, max %.1f (%d reports)\n", name,
                         1e3 * ack.Quantile(0.5), 1e3 * ack.Quantile(0.9), 1e3 * ack.Quantile(0.99),
                         1e3 * ack.max(), ack.count());
}

nlohmann::json AckJson(const Latencies& ack) {
  return {{"p50_ms", 1e3 * ack.Quantile(0.5)},
          {"p90_ms", 1e3 * ack.Quantile(0.9)},
          {"p99_ms", 1e3 * ack.Quantile(0.99)},
          {"max_ms", 1e3 * ack.max()},
          {"reports", ack.count()}};
}

}  // namespace

std::string ToText(const SimulationOptions& options, const SimulationResult& result) {
  const FleetStats& stats = result.stats;
  uint64_t compared = 0, wrong = 0, steps = 0, epochs = 0;
  for (const RunOutcome& run : result.runs) {
    compared += run.values_compared;
    wrong += run.values_wrong;
    steps += run.steps;
    epochs += run.epochs;
  }
  std::string text = absl::StrFormat(
      "%d workers in %d runs, %d layers of %d experts, %.0f s, seed %d\n", options.workers,
      result.runs.size(), options.layers, options.experts, result.seconds, options.seed);
  absl::StrAppend(
      &text,
      absl::StrFormat("reports                %d of %d steps; sent %d, acknowledged %d, retaken "
                      "after recoveries %d, LOST %d\n",
                      stats.reports_said, steps, stats.reports_sent, stats.reports_acked,
                      stats.reports_retaken, result.reports_lost),
      absl::StrFormat("rate                   %.0f reports a second of %.0f bytes\n",
                      static_cast<double>(result.reports_meanwhile) / result.seconds,
                      static_cast<double>(stats.report_bytes) /
                          static_cast<double>(std::max<uint64_t>(1, stats.reports_sent))),
      absl::StrFormat("stored loads           %d values compared with what was drawn, %d wrong\n",
                      compared, wrong),
      AckLine("ack, coming up", result.ack_at_start), AckLine("ack, all", stats.ack),
      AckLine("ack, all ranks there", stats.ack_undisturbed),
      absl::StrFormat("faults                 %d streams cut, %d workers restarted, %d reattached, "
                      "%d assignments, %d epochs in all\n",
                      stats.disconnects, stats.restarts, stats.reattached, stats.assignments,
                      epochs),
      absl::StrFormat("kept                   at most %d reports by one worker\n", stats.kept_max),
      absl::StrFormat("largest messages       assignment %d bytes, command %d bytes\n",
                      stats.assignment_bytes_max, stats.command_bytes_max));
  if (result.coordinator.rss_bytes > 0) {
    absl::StrAppend(&text,
                    absl::StrFormat("coordinator            %.1f CPU s (%.0f%% of a core), %.0f MB "
                                    "resident, %.0f at most, %.1f MB on disk\n",
                                    result.coordinator.cpu_seconds,
                                    100 * result.coordinator.cpu_seconds / result.seconds,
                                    1e-6 * static_cast<double>(result.coordinator.rss_bytes),
                                    1e-6 * static_cast<double>(result.coordinator.rss_bytes_max),
                                    1e-6 * static_cast<double>(result.disk_bytes)));
  }
  absl::StrAppend(&text, absl::StrFormat("simulator              %.1f CPU s, %d steps late\n",
                                         result.simulator_cpu_seconds, result.late_steps));
  std::map<std::string, uint64_t> states;
  for (const DecisionOutcome& decision : result.decisions) ++states[decision.state];
  absl::StrAppend(&text, "decisions              ", result.decisions.size());
  for (const auto& [state, count] : states) absl::StrAppend(&text, ", ", count, " ", state);
  absl::StrAppend(&text, "; ", stats.commands_applied, " commands applied, ",
                  stats.commands_refused, " refused\n");
  size_t shown = 0;
  for (const DecisionOutcome& decision : result.decisions) {
    if (++shown > 8) break;
    absl::StrAppend(
        &text, absl::StrFormat("  %s %s after step %d: %d moved, %d pruned; max/mean %.3f -> %.3f, "
                               "realised %.3f; step %.3f s predicted, %.3f realised%s%s\n",
                               decision.run_id, decision.state, decision.applied_step,
                               decision.moved, decision.pruned, decision.imbalance_before,
                               decision.imbalance_predicted, decision.imbalance_realised,
                               decision.step_predicted, decision.step_realised,
                               decision.error.empty() ? "" : "; ", decision.error));
  }
  for (const RunOutcome& run : result.runs) {
    if (run.recorded_steps == run.steps && run.values_wrong == 0 && run.steps_missing == 0)
      continue;
    absl::StrAppend(
        &text, absl::StrFormat("WRONG: run %s (%s %s): %d steps taken, %d recorded, %d "
                               "missing, %d values wrong\n",
                               run.run_id, run.state, run.detail, run.steps, run.recorded_steps,
                               run.steps_missing, run.values_wrong));
  }
  return text;
}

std::string ToJson(const SimulationOptions& options, const SimulationResult& result) {
  const FleetStats& stats = result.stats;
  nlohmann::json json = {
      {"ok", result.ok()},
      {"workers", options.workers},
      {"ranks_per_run", options.ranks_per_run},
      {"layers", options.layers},
      {"experts", options.experts},
      {"step_seconds", options.step_seconds},
      {"seed", options.seed},
      {"seconds", result.seconds},
      {"reports",
       {{"said", stats.reports_said},
        {"sent", stats.reports_sent},
        {"acknowledged", stats.reports_acked},
        {"retaken", stats.reports_retaken},
        {"lost", result.reports_lost},
        {"per_second", static_cast<double>(result.reports_meanwhile) / result.seconds},
        {"bytes", stats.report_bytes},
        {"kept_max", stats.kept_max}}},
      {"ack_at_start", AckJson(result.ack_at_start)},
      {"ack", AckJson(stats.ack)},
      {"ack_undisturbed", AckJson(stats.ack_undisturbed)},
      {"faults",
       {{"disconnects", stats.disconnects},
        {"restarts", stats.restarts},
        {"reattached", stats.reattached},
        {"assignments", stats.assignments},
        {"releases", stats.releases}}},
      {"commands", {{"applied", stats.commands_applied}, {"refused", stats.commands_refused}}},
      {"messages",
       {{"assignment_bytes_max", stats.assignment_bytes_max},
        {"command_bytes_max", stats.command_bytes_max}}},
      {"coordinator",
       {{"cpu_seconds", result.coordinator.cpu_seconds},
        {"rss_bytes", result.coordinator.rss_bytes},
        {"rss_bytes_max", result.coordinator.rss_bytes_max},
        {"disk_bytes", result.disk_bytes}}},
      {"simulator",
       {{"cpu_seconds", result.simulator_cpu_seconds}, {"late_steps", result.late_steps}}}};
  for (const RunOutcome& run : result.runs) {
    json["runs"].push_back({{"run_id", run.run_id},
                            {"state", run.state},
                            {"detail", run.detail},
                            {"ranks", run.ranks},
                            {"epochs", run.epochs},
                            {"steps", run.steps},
                            {"recorded_steps", run.recorded_steps},
                            {"steps_missing", run.steps_missing},
                            {"values_compared", run.values_compared},
                            {"values_wrong", run.values_wrong},
                            {"digest", absl::StrCat(absl::Hex(run.digest, absl::kZeroPad16))}});
  }
  json["decisions"] = nlohmann::json::array();
  for (const DecisionOutcome& decision : result.decisions) {
    json["decisions"].push_back({{"run_id", decision.run_id},
                                 {"decision_id", decision.decision_id},
                                 {"state", decision.state},
                                 {"error", decision.error},
                                 {"applied_step", decision.applied_step},
                                 {"experts_moved", decision.moved},
                                 {"experts_pruned", decision.pruned},
                                 {"imbalance_before", decision.imbalance_before},
                                 {"imbalance_predicted", decision.imbalance_predicted},
                                 {"imbalance_realised", decision.imbalance_realised},
                                 {"step_seconds_predicted", decision.step_predicted},
                                 {"step_seconds_realised", decision.step_realised}});
  }
  return json.dump(2) + "\n";
}

}  // namespace espalier::fleetsim

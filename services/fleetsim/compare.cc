// Simulation, at its end: the coordinator's record against the loads drawn again, and what became
// of its decisions.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/base/status_macros.h"
#include "services/fleetsim/random.h"
#include "services/fleetsim/sim_run.h"
#include "services/fleetsim/simulation.h"
#include "services/fleetsim/wire.h"

namespace espalier::fleetsim {
namespace {

// Steps read in one call: a few megabytes of counts.
constexpr uint64_t kStepsPerCall = 128;

// Evenly over the layers, the first and the last among them.
std::vector<uint32_t> SampleLayers(uint32_t layers, uint32_t wanted) {
  std::set<uint32_t> chosen;
  const uint32_t count = wanted == 0 ? layers : std::min(wanted, layers);
  for (uint32_t i = 0; i < count; ++i)
    chosen.insert(count == 1 ? 0 : i * (layers - 1) / (count - 1));
  return {chosen.begin(), chosen.end()};
}

}  // namespace

absl::Status Simulation::CompareRun(SimRun* run, RunOutcome* outcome) {
  const Group& group = run->group();
  v1::GetRunRequest get;
  get.set_run_id(group.options().run_id);
  v1::GetRunResponse got;
  RETURN_IF_ERROR(wire_->Call(&v1::RunService::Stub::GetRun, *wire_->runs, get, &got));
  outcome->run_id = group.options().run_id;
  outcome->state = absl::StrReplaceAll(v1::RunState_Name(got.run().state()), {{"RUN_STATE_", ""}});
  outcome->detail = got.run().detail();
  outcome->ranks = group.options().ranks;
  outcome->epochs = got.run().epoch();
  outcome->steps = group.step();
  outcome->recorded_steps = got.run().progress().step();

  const std::vector<uint32_t> layers = SampleLayers(options_.layers, options_.check_layers);
  std::vector<uint64_t> drawn;
  for (uint64_t first = 1; first <= group.step(); first += kStepsPerCall) {
    v1::GetLoadsRequest request;
    request.set_run_id(group.options().run_id);
    request.mutable_layers()->Add(layers.begin(), layers.end());
    request.set_first_step(first);
    const uint64_t last = std::min(group.step(), first + kStepsPerCall - 1);
    request.set_last_step(last);
    request.set_resolution(1);
    v1::GetLoadsResponse response;
    RETURN_IF_ERROR(
        wire_->Call(&v1::HistoryService::Stub::GetLoads, *wire_->history, request, &response));
    std::map<uint64_t, std::vector<std::pair<uint32_t, const uint64_t*>>> rows;  // by step
    for (const v1::LoadMatrix& matrix : response.layers()) {
      if (matrix.experts() != options_.experts && matrix.first_steps_size() > 0)
        return absl::DataLossError(absl::StrCat("run ", outcome->run_id, ", layer ", matrix.layer(),
                                                ": rows of ", matrix.experts(), " experts"));
      for (int row = 0; row < matrix.first_steps_size(); ++row) {
        rows[matrix.first_steps(row)].emplace_back(
            matrix.layer(),
            matrix.tokens().data() + size_t{static_cast<uint32_t>(row)} * options_.experts);
      }
    }
    for (uint64_t step = first; step <= last; ++step) {
      if (rows[step].size() != layers.size()) {
        ++outcome->steps_missing;
        continue;
      }
      run->process().Draw(step, group.LayoutAt(step)->choosable, &drawn);
      for (const auto& [layer, tokens] : rows[step]) {
        for (uint32_t expert = 0; expert < options_.experts; ++expert) {
          outcome->values_wrong +=
              tokens[expert] != drawn[size_t{layer} * options_.experts + expert];
          outcome->digest = Mix(outcome->digest, step * options_.layers + layer, tokens[expert]);
        }
        outcome->values_compared += options_.experts;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Simulation::ReadDecisions(const std::string& run_id,
                                       std::vector<DecisionOutcome>* decisions) {
  v1::ListDecisionsRequest request;
  request.set_run_id(run_id);
  while (true) {
    v1::ListDecisionsResponse response;
    RETURN_IF_ERROR(
        wire_->Call(&v1::PlanService::Stub::ListDecisions, *wire_->plans, request, &response));
    for (const v1::Decision& decision : response.decisions()) {
      DecisionOutcome outcome;
      outcome.run_id = run_id;
      outcome.decision_id = decision.decision_id();
      outcome.state =
          absl::StrReplaceAll(v1::DecisionState_Name(decision.state()), {{"DECISION_STATE_", ""}});
      outcome.error = decision.error();
      outcome.applied_step = decision.applied_step();
      outcome.moved = decision.plan().experts_moved();
      outcome.pruned = decision.plan().experts_pruned();
      outcome.imbalance_before = decision.plan().imbalance_before();
      outcome.imbalance_predicted = decision.plan().imbalance_after();
      outcome.imbalance_realised = decision.imbalance_realised();
      outcome.step_predicted = decision.plan().step_seconds_predicted();
      outcome.step_realised = decision.step_seconds_realised();
      decisions->push_back(std::move(outcome));
    }
    if (response.next_page_token().empty()) return absl::OkStatus();
    request.set_page_token(response.next_page_token());
  }
}

}  // namespace espalier::fleetsim

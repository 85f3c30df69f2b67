// Events carry the step they were sent after.
#include "libs/train/run_state.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_cat.h"

namespace espalier::train {

void SendEvent(RunState& state, v1::EventSeverity severity, const std::string& name,
               const std::string& text,
               const std::vector<std::pair<std::string, std::string>>& fields) {
  if (!state.root()) return;
  v1::RunEvent event;
  event.set_step(state.progress.step);
  event.set_severity(severity);
  event.set_name(name);
  event.set_text(text);
  for (const auto& [key, value] : fields) (*event.mutable_fields())[key] = value;
  state.controller.Event(std::move(event));
}

bool MeasuresOutputNorms(const RunState& state) {
  return state.spec.prune().score() == v1::PRUNE_SCORE_OUTPUT_NORM;
}

std::string ExpertsCsv(const model::Model<float>& model) {
  std::string csv;
  for (size_t layer = 0; layer < model.layout().layers.size(); ++layer) {
    if (!model.config().IsMoe(static_cast<int>(layer))) continue;
    absl::StrAppend(&csv, csv.empty() ? "" : ",", model.layout().layers[layer].ids.size());
  }
  return csv;
}

std::string FormatDouble(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return std::string(buffer, end);
}

uint64_t LocalSequence(const RunState& state) {
  // What came with the assignment is held too, whether or not the controller counts it.
  uint64_t last = state.controller.HighestContiguousSequence();
  if (state.assignment.commands_size() > 0) {
    last =
        std::max(last, state.assignment.commands(state.assignment.commands_size() - 1).sequence());
  }
  return last;
}

}  // namespace espalier::train

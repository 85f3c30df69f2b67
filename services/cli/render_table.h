// Tables and lists that are alike for every service: runs, workers, events, fields.
#pragma once

#include <string>
#include <vector>

#include "espalier/v1/run_service.pb.h"
#include "libs/spec/spec.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

// Columns as wide as their widest cell; the first row is the heading. Every line ends with a
// newline.
std::string RenderTable(const std::vector<std::vector<std::string>>& rows, const Style& style);

// "running" of RUN_STATE_RUNNING.
std::string StateName(v1::RunState state);
Tone StateTone(v1::RunState state);

std::string RenderRuns(const v1::ListRunsResponse& runs, const Style& style);
std::string RenderWorkers(const v1::ListWorkersResponse& workers, const Style& style);
std::string RenderEvent(const v1::RunEvent& event, const Style& style);
std::string RenderFields(const std::vector<spec::FieldHelp>& fields, const Style& style);

}  // namespace espalier::cli

// summary.json of a run: the figures of its report under fixed keys; null where the run has not
// come so far.
#pragma once

#include <string>

#include "espalier/v1/run_service.pb.h"

namespace espalier::cli {

// Pretty-printed, with a newline at the end.
std::string SummaryJson(const v1::RunSummary& summary);

}  // namespace espalier::cli

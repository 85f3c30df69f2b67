// Heatmap of expert loads with their placement: a row a layer and rank, a cell an expert.
#pragma once

#include <string>

#include "espalier/v1/history_service.pb.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

// Loads are summed over the rows of each matrix; a cell shows the load against the layer's mean.
// Experts that the layout does not list are gone.
std::string RenderExperts(const v1::GetLoadsResponse& loads, const v1::GetLayoutResponse& layout,
                          const Style& style);

}  // namespace espalier::cli

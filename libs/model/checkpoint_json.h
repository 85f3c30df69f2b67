// JSON of files that may be damaged: parsing and printing without exceptions, with bounds on depth.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace espalier::model {

// DataLoss naming `source` for text that is not JSON or nests deeper than `depth_max`.
absl::StatusOr<nlohmann::json> ParseUntrustedJson(const std::string& text, int depth_max,
                                                  const std::string& source);

// InvalidArgument naming `source` when a string in it is not UTF-8. indent < 0: one line.
absl::StatusOr<std::string> PrintJson(const nlohmann::json& value, int indent,
                                      const std::string& source);

}  // namespace espalier::model

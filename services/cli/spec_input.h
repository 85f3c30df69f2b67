// Reading a run spec from a file with changes from the command line.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "espalier/v1/run_spec.pb.h"

namespace espalier::cli {

// `changes` are "path=value", applied in order. InvalidArgument lists every wrong field; limits are
// not checked.
absl::StatusOr<v1::RunSpec> ReadSpec(const std::string& path,
                                     const std::vector<std::string>& changes);

}  // namespace espalier::cli

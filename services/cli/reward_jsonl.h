// Scoring a file of traces without a service: lines of JSON in, a line of JSON for each out.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "espalier/v1/run_spec.pb.h"

namespace espalier::cli {

struct JsonlCounts {
  int scored = 0, correct = 0, bad = 0;
};
// Each line is {"id", "prompt", "gold", "trace"} and may have "token_count" and "truncated". Lines
// that follow each other with the same prompt and gold are one group, which group-relative length
// shaping looks at; a line without a prompt is by itself. Every good line gets one line of JSON
// through `write`, in order; every bad one a message with its number and field through `report`.
// InvalidArgument when `reward` itself is wrong.
absl::StatusOr<JsonlCounts> ScoreJsonl(const std::string& text, const v1::RewardSpec& reward,
                                       const std::function<void(const std::string&)>& write,
                                       const std::function<void(const std::string&)>& report);

}  // namespace espalier::cli

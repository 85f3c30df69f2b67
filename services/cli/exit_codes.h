// Exit codes of the command line, and errors as the one line that goes with them.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace espalier::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitRunFailed = 1,
  kExitUsage = 2,  // or a bad spec
  kExitUnreachable = 3,
  kExitNotFound = 4,
  kExitOther = 5,
  kExitInterrupted = 130,
};

int ExitCodeOf(const absl::Status& status);

// "espalier: what — what to do". Further lines of a list of wrong fields follow, indented.
std::string ErrorText(const absl::Status& status);

}  // namespace espalier::cli

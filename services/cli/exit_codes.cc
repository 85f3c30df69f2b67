// Status to exit code and text.
#include "services/cli/exit_codes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    default:
      return kExitOther;
  }
}

std::string ErrorText(const absl::Status& status) {
  std::string message(status.message());
  for (char& c : message) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7F) c = '?';
  }
  if (message.empty()) message = absl::StatusCodeToString(status.code());
  return absl::StrCat("espalier: ", absl::StrReplaceAll(message, {{"\n", "\n  "}}), "\n");
}

}  // namespace espalier::cli

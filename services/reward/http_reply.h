// HttpReply: what a handler answers, and errors as JSON that names the field.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace espalier::reward {

struct HttpReply {
  int code = 200;
  std::string body;             // JSON
  int retry_after_seconds = 0;  // of 429 and 503
  std::string allow;            // of 405
};

// {"error": {"code": "INVALID_ARGUMENT", "field": "traces[1].text", "message": "traces[1].text:
// found …"}}. The field is what stands before the first ": " of the message, when that is a name.
HttpReply ErrorReply(const absl::Status& status);
HttpReply ErrorReply(int code, const std::string& name, const std::string& message);

}  // namespace espalier::reward

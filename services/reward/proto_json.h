// Messages as JSON with the names of the .proto files.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace espalier::reward {

// InvalidArgument names the member ("traces[0].token_count: …"), or "body" when it is no JSON.
absl::Status FromJson(const std::string& json, google::protobuf::Message* message);
// All fields, also those at their defaults; one line.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace espalier::reward

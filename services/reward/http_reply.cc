// One table from status codes to HTTP.
#include "services/reward/http_reply.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "nlohmann/json.hpp"

namespace espalier::reward {
namespace {

constexpr int kRetryBusySeconds = 1;
constexpr int kRetryDrainingSeconds = 2;

struct Meaning {
  int http;
  const char* name;
  int retry_after_seconds;
};

Meaning MeaningOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return {400, "INVALID_ARGUMENT", 0};
    case absl::StatusCode::kUnauthenticated:
      return {401, "UNAUTHENTICATED", 0};
    case absl::StatusCode::kPermissionDenied:
      return {403, "PERMISSION_DENIED", 0};
    case absl::StatusCode::kOutOfRange:
      return {413, "TOO_LARGE", 0};
    case absl::StatusCode::kResourceExhausted:
      return {429, "RESOURCE_EXHAUSTED", kRetryBusySeconds};
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return {503, "UNAVAILABLE", kRetryDrainingSeconds};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, "DEADLINE_EXCEEDED", 0};
    default:
      return {500, "INTERNAL", 0};
  }
}

std::string FieldOf(const std::string& message) {
  const size_t colon = message.find(": ");
  if (colon == std::string::npos) return "";
  const std::string field = message.substr(0, colon);
  const bool name = std::all_of(field.begin(), field.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '[' || c == ']';
  });
  return name ? field : "";
}

}  // namespace

HttpReply ErrorReply(int code, const std::string& name, const std::string& message) {
  nlohmann::ordered_json error = {{"code", name}};
  const std::string field = FieldOf(message);
  if (!field.empty()) error["field"] = field;
  error["message"] = message;
  const nlohmann::ordered_json body = {{"error", std::move(error)}};
  // What a caller sent may be quoted, and need not be UTF-8.
  return {code, body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)};
}

HttpReply ErrorReply(const absl::Status& status) {
  const Meaning meaning = MeaningOf(status.code());
  HttpReply reply = ErrorReply(meaning.http, meaning.name, std::string(status.message()));
  reply.retry_after_seconds = meaning.retry_after_seconds;
  return reply;
}

}  // namespace espalier::reward

// protobuf's own converter; its errors come as "(traces[0].token_count): …", "(traces[0]) nope:
// Cannot find field." or as a complaint with a piece of the text, and leave with the member first.
#include "services/reward/proto_json.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"

namespace espalier::reward {
namespace {

bool IsName(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_';
  });
}

std::string Named(const std::string& complaint) {
  std::string path;
  absl::string_view rest = complaint;
  const size_t close = complaint.find(')');
  if (absl::StartsWith(rest, "(") && close != std::string::npos) {
    path = complaint.substr(1, close - 1);
    rest = absl::StripLeadingAsciiWhitespace(rest.substr(close + 1));
  }
  const size_t colon = rest.find(": ");
  if (colon != absl::string_view::npos && IsName(rest.substr(0, colon))) {
    absl::StrAppend(&path, path.empty() ? "" : ".", rest.substr(0, colon));
    rest.remove_prefix(colon);
  }
  rest = absl::StripLeadingAsciiWhitespace(absl::StripPrefix(rest, ":"));
  if (path.empty()) return absl::StrCat("body: is not the JSON of this call: ", rest);
  if (rest == "Cannot find field.") rest = "there is no such field; see the .proto file";
  return absl::StrCat(path, ": ", rest);
}

}  // namespace

absl::Status FromJson(const std::string& json, google::protobuf::Message* message) {
  const auto status = google::protobuf::util::JsonStringToMessage(json, message);
  if (status.ok()) return absl::OkStatus();
  const std::string complaint = absl::StrReplaceAll(
      std::string(status.message().data(), status.message().size()), {{"\n", " "}});
  return absl::InvalidArgumentError(Named(complaint));
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  // A message of ours has no field that JSON cannot hold.
  return status.ok() ? json : "{}";
}

}  // namespace espalier::reward

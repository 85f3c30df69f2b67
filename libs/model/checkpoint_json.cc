// The depth is bounded because printing and destroying a JSON value recurse.
#include "libs/model/checkpoint_json.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace espalier::model {

using nlohmann::json;

absl::StatusOr<json> ParseUntrustedJson(const std::string& text, int depth_max,
                                        const std::string& source) {
  bool too_deep = false;
  const json::parser_callback_t bound = [&](int depth, json::parse_event_t, json&) {
    too_deep |= depth > depth_max;
    return !too_deep;
  };
  json value = json::parse(text, bound, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::DataLossError(
        absl::StrCat(source, ": JSON nested deeper than ", depth_max, " levels"));
  }
  if (value.is_discarded()) return absl::DataLossError(absl::StrCat(source, ": not valid JSON"));
  return value;
}

absl::StatusOr<std::string> PrintJson(const json& value, int indent, const std::string& source) {
  try {
    return value.dump(indent);
  } catch (const json::exception& error) {  // the library knows no other way to say it
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", error.what()));
  }
}

}  // namespace espalier::model

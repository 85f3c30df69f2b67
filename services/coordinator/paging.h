// Page sizes and opaque page tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace espalier::coordinator {

constexpr uint32_t kPageSizeDefault = 50;
constexpr uint32_t kPageSizeMax = 1000;

inline uint32_t PageSize(uint32_t asked) {
  return asked == 0 ? kPageSizeDefault : std::min(asked, kPageSizeMax);
}

// The token hides the key of the last row sent; clients hand it back as it is.
inline std::string EncodePageToken(const std::string& key) {
  return absl::WebSafeBase64Escape("1" + key);
}

inline absl::StatusOr<std::string> DecodePageToken(const std::string& token) {
  if (token.empty()) return std::string();
  std::string key;
  if (!absl::WebSafeBase64Unescape(token, &key) || key.empty() || key[0] != '1') {
    return absl::InvalidArgumentError(
        absl::StrCat("page_token: \"", token,
                     "\" is not one of ours; give next_page_token of the page before, or none"));
  }
  return key.substr(1);
}

}  // namespace espalier::coordinator

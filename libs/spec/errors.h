// ErrorList: everything that is wrong with a spec, one line each, so that one look mends it all.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace espalier::spec {

// Not thread-safe.
class ErrorList {
 public:
  // Further errors are counted, not listed: a hostile file must not become a hostile message.
  static constexpr size_t kListedMax = 40;

  void Add(const std::string& path, const std::string& what) {
    if (lines_.size() < kListedMax) {
      lines_.push_back(absl::StrCat(path, path.empty() ? "" : ": ", what));
    } else {
      ++unlisted_;
    }
  }

  absl::Status ToStatus() const {
    if (lines_.empty()) return absl::OkStatus();
    std::string text = absl::StrJoin(lines_, "\n");
    if (unlisted_ > 0) absl::StrAppend(&text, "\nand ", unlisted_, " more");
    return absl::InvalidArgumentError(text);
  }

 private:
  std::vector<std::string> lines_;
  size_t unlisted_ = 0;
};

}  // namespace espalier::spec

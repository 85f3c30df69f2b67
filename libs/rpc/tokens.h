// Bearer tokens: who may call what. The file holds hashes only, so that reading it gives nobody a
// token.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace espalier::rpc {

// viewer reads; submitter also starts, steers and scores; worker attaches to runs and scores; admin
// does everything.
enum class Role { kViewer, kSubmitter, kWorker, kAdmin };

const char* RoleName(Role role);
std::optional<Role> FindRole(std::string_view name);
// Whether `role` may call "/package.Service/Method". Health and reflection are open to every role;
// an unknown service to admin alone.
bool Allows(Role role, std::string_view path);
std::string RolesThatMay(std::string_view path);

// Lower-case hex SHA-256.
std::string HashToken(std::string_view token);
// 256 bits from the system's generator, printable: "esp_" and 64 hex digits.
std::string NewToken();

struct TokenEntry {
  std::string name;  // of the holder, for logs
  Role role = Role::kViewer;
  absl::Time expires = absl::InfiniteFuture();
};

// Immutable.
class TokenTable {
 public:
  // Lines "NAME ROLE SHA256HEX [EXPIRES]", EXPIRES as RFC 3339; '#' begins a comment.
  // InvalidArgument names the line.
  static absl::StatusOr<TokenTable> Parse(std::string_view text);
  // OK, Unauthenticated (no, unknown or expired token) or PermissionDenied (its role may not).
  // `header` is the value of "authorization", empty when there was none. Errors never repeat the
  // token. With OK, `holder` (unless null) gets the name of the token's holder.
  absl::Status Check(std::string_view header, std::string_view path, absl::Time now,
                     std::string* holder = nullptr) const;
  size_t size() const { return by_hash_.size(); }

 private:
  std::map<std::string, TokenEntry> by_hash_;
};

// A token file that is read again when it changes. A file that became bad is reported in the log,
// and what was known before stays in force. Thread-safe.
class TokenFile {
 public:
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(const std::string& path);
  absl::Status Check(std::string_view header, std::string_view path, absl::Time now,
                     std::string* holder = nullptr);

 private:
  explicit TokenFile(std::string path) : path_(std::move(path)) {}
  absl::Status Reload();
  void ReloadIfChanged(absl::Time now);

  const std::string path_;
  std::mutex mutex_;
  TokenTable table_;   // guarded, like all below, by mutex_
  std::string stamp_;  // inode, size and time of what was read
  absl::Time next_look_;
};

}  // namespace espalier::rpc

// Tokens: parsing, hashing, and the one table of what each role may call.
#include "libs/rpc/tokens.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"

namespace espalier::rpc {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);
constexpr std::array<std::pair<const char*, Role>, 4> kRoles = {{{"viewer", Role::kViewer},
                                                                 {"submitter", Role::kSubmitter},
                                                                 {"worker", Role::kWorker},
                                                                 {"admin", Role::kAdmin}}};

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Calls that change nothing.
bool Reads(std::string_view method) {
  for (const char* verb : {"Get", "List", "Watch", "Explain", "Propose", "Verify"}) {
    if (StartsWith(method, verb)) return true;
  }
  return false;
}

}  // namespace

const char* RoleName(Role role) {
  for (const auto& [name, value] : kRoles) {
    if (value == role) return name;
  }
  return "unknown";
}

std::optional<Role> FindRole(std::string_view name) {
  for (const auto& [known, role] : kRoles) {
    if (name == known) return role;
  }
  return std::nullopt;
}

bool Allows(Role role, std::string_view path) {
  if (role == Role::kAdmin) return true;
  if (StartsWith(path, "/grpc.health.v1.Health/") || StartsWith(path, "/grpc.reflection."))
    return true;
  const size_t slash = path.rfind('/');
  constexpr std::string_view kOurs = "/espalier.v1.";
  if (!StartsWith(path, kOurs) || slash == std::string_view::npos || slash < kOurs.size())
    return false;
  const std::string_view service = path.substr(kOurs.size(), slash - kOurs.size());
  const std::string_view method = path.substr(slash + 1);
  const bool scores = service == "RewardService";
  if (role == Role::kWorker) return scores || (service == "FleetService" && method == "Attach");
  if (method == "CreateBackup" || method == "Attach") return false;
  if (role == Role::kSubmitter) return true;
  return Reads(method);
}

// "submitter, admin".
std::string RolesThatMay(std::string_view path) {
  std::vector<std::string> names;
  for (const auto& [name, role] : kRoles) {
    if (Allows(role, path)) names.push_back(name);
  }
  return absl::StrJoin(names, ", ");
}

std::string HashToken(std::string_view token) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  CHECK_EQ(EVP_Digest(token.data(), token.size(), digest.data(), &size, EVP_sha256(), nullptr), 1);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
}

std::string NewToken() {
  std::array<unsigned char, 32> bytes{};
  CHECK_EQ(RAND_bytes(bytes.data(), bytes.size()), 1) << "the system gives no random bytes";
  return absl::StrCat("esp_", absl::BytesToHexString(absl::string_view(
                                  reinterpret_cast<const char*>(bytes.data()), bytes.size())));
}

absl::StatusOr<TokenTable> TokenTable::Parse(std::string_view text) {
  TokenTable table;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    const auto bad = [&](const std::string& what) {
      return absl::InvalidArgumentError(absl::StrCat("tokens, line ", number, ": ", what));
    };
    if (parts.size() != 3 && parts.size() != 4) {
      return bad(absl::StrCat(parts.size(), " words; a line is NAME ROLE SHA256HEX [EXPIRES]"));
    }
    TokenEntry entry;
    entry.name = parts[0];
    const auto role = FindRole(parts[1]);
    if (!role.has_value()) {
      return bad(
          absl::StrCat("role \"", parts[1], "\"; allowed are viewer, submitter, worker, admin"));
    }
    entry.role = *role;
    const std::string& hash = parts[2];
    if (hash.size() != 64 || !std::all_of(hash.begin(), hash.end(), [](unsigned char c) {
          return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
        })) {
      return bad("the third word is no SHA-256 in lower-case hex (64 digits)");
    }
    std::string error;
    if (parts.size() == 4 &&
        !absl::ParseTime(absl::RFC3339_full, parts[3], &entry.expires, &error)) {
      return bad(
          absl::StrCat("expires \"", parts[3], "\" is no time such as 2027-01-31T00:00:00Z"));
    }
    if (!table.by_hash_.emplace(hash, entry).second) {
      return bad(
          absl::StrCat("the same hash as of an earlier line (", table.by_hash_[hash].name, ")"));
    }
  }
  return table;
}

absl::Status TokenTable::Check(std::string_view header, std::string_view path, absl::Time now,
                               std::string* holder) const {
  constexpr std::string_view kBearer = "Bearer ";
  if (header.empty()) {
    return absl::UnauthenticatedError(
        "no token: send one as authorization: Bearer TOKEN (our programs: --token-file)");
  }
  if (!StartsWith(header, kBearer)) {
    return absl::UnauthenticatedError("authorization is not of the form \"Bearer TOKEN\"");
  }
  const auto found = by_hash_.find(HashToken(header.substr(kBearer.size())));
  if (found == by_hash_.end()) {
    return absl::UnauthenticatedError(
        "unknown token: send one whose line stands in the server's --tokens file (espalier token "
        "new makes both)");
  }
  const TokenEntry& entry = found->second;
  if (now >= entry.expires) {
    return absl::UnauthenticatedError(
        absl::StrCat("the token of ", entry.name, " expired at ",
                     absl::FormatTime(absl::RFC3339_sec, entry.expires, absl::UTCTimeZone()),
                     "; ask for a new one (espalier token new)"));
  }
  if (!Allows(entry.role, path)) {
    return absl::PermissionDeniedError(absl::StrCat("the token of ", entry.name, " has the role ",
                                                    RoleName(entry.role), ", which may not call ",
                                                    absl::string_view(path.data(), path.size()),
                                                    "; these may: ", RolesThatMay(path)));
  }
  if (holder != nullptr) *holder = entry.name;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(const std::string& path) {
  auto file = std::unique_ptr<TokenFile>(new TokenFile(path));
  std::lock_guard lock(file->mutex_);
  RETURN_IF_ERROR(file->Reload());
  if (file->table_.size() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokens: ", path,
                     " holds no token, so nobody could call; make one with "
                     "espalier token new"));
  }
  return file;
}

absl::Status TokenFile::Reload() {
  struct stat found {};
  std::ifstream in(path_);
  if (stat(path_.c_str(), &found) != 0 || !in) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokens: cannot read ", path_, ": ", strerror(errno)));
  }
  std::stringstream text;
  text << in.rdbuf();
  stamp_ = absl::StrCat(found.st_ino, "/", found.st_size, "/", found.st_mtim.tv_sec, ".",
                        found.st_mtim.tv_nsec);
  auto table = TokenTable::Parse(text.str());
  if (!table.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", table.status().message()));
  }
  table_ = *std::move(table);
  return absl::OkStatus();
}

void TokenFile::ReloadIfChanged(absl::Time now) {
  if (now < next_look_) return;
  next_look_ = now + kLookEvery;
  struct stat found {};
  if (stat(path_.c_str(), &found) == 0 &&
      stamp_ == absl::StrCat(found.st_ino, "/", found.st_size, "/", found.st_mtim.tv_sec, ".",
                             found.st_mtim.tv_nsec))
    return;
  const absl::Status status = Reload();
  if (status.ok()) {
    LOG(INFO) << "tokens_read path=" << path_ << " tokens=" << table_.size();
  } else {
    LOG(ERROR) << "tokens_bad cause=" << status
               << " remedy=\"the tokens known before stay in force\"";
  }
}

absl::Status TokenFile::Check(std::string_view header, std::string_view path, absl::Time now,
                              std::string* holder) {
  std::lock_guard lock(mutex_);
  ReloadIfChanged(now);
  return table_.Check(header, path, now, holder);
}

}  // namespace espalier::rpc

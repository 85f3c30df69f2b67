// Goal: a token opens exactly what its role may do, until it expires, and mistakes in the file are
// named.
#include "libs/rpc/tokens.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::rpc {
namespace {

using testing::HasSubstr;

const char kSubmit[] = "/espalier.v1.RunService/SubmitRun";
const char kGet[] = "/espalier.v1.RunService/GetRun";
const char kAttach[] = "/espalier.v1.FleetService/Attach";
const char kReport[] = "/espalier.v1.FleetService/ReportSteps";
const char kBackup[] = "/espalier.v1.HistoryService/CreateBackup";
const char kScore[] = "/espalier.v1.RewardService/ScoreBatch";
const char kHealth[] = "/grpc.health.v1.Health/Check";

TEST(Tokens, RolesMayDoWhatTheirNamesSay) {
  struct Row {
    Role role;
    std::vector<const char*> may, may_not;
  };
  const Row rows[] = {
      {Role::kViewer, {kGet, kHealth}, {kSubmit, kAttach, kReport, kBackup, kScore, "/x.Y/Get"}},
      {Role::kSubmitter, {kGet, kSubmit, kReport, kScore, kHealth}, {kAttach, kBackup, "/x.Y/Z"}},
      {Role::kWorker, {kAttach, kScore, kHealth}, {kGet, kSubmit, kBackup}},
      {Role::kAdmin, {kGet, kSubmit, kAttach, kBackup, kScore, kHealth, "/x.Y/Z"}, {}},
  };
  for (const Row& row : rows) {
    for (const char* path : row.may)
      EXPECT_TRUE(Allows(row.role, path)) << RoleName(row.role) << path;
    for (const char* path : row.may_not)
      EXPECT_FALSE(Allows(row.role, path)) << RoleName(row.role) << path;
  }
  EXPECT_FALSE(Allows(Role::kViewer, ""));
  EXPECT_FALSE(Allows(Role::kViewer, "/espalier.v1."));
  EXPECT_FALSE(Allows(Role::kViewer, "/espalier.v1.GetAnything"));
}

TEST(Tokens, HashesAreSha256AndNewTokensDiffer) {
  EXPECT_EQ(HashToken("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_NE(NewToken(), NewToken());
  EXPECT_EQ(NewToken().size(), 4u + 64u);
}

TEST(Tokens, ChecksTokenExpiryAndRole) {
  const auto table =
      TokenTable::Parse(absl::StrCat("# who\n\nalice submitter ", HashToken("a"), "\nbob viewer ",
                                     HashToken("b"), " 2026-01-01T00:00:00Z  # left\n"));
  ASSERT_TRUE(table.ok()) << table.status();
  absl::Time before, after;
  std::string error;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, "2025-12-31T23:59:59Z", &before, &error));
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, "2026-01-01T00:00:00Z", &after, &error));
  EXPECT_TRUE(table->Check("Bearer a", kSubmit, after).ok());
  EXPECT_TRUE(table->Check("Bearer b", kGet, before).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(table->Check("Bearer b", kGet, after)));
  EXPECT_THAT(std::string(table->Check("Bearer b", kGet, after).message()), HasSubstr("expired"));
  EXPECT_TRUE(absl::IsPermissionDenied(table->Check("Bearer b", kSubmit, before)));
  EXPECT_TRUE(absl::IsUnauthenticated(table->Check("", kGet, before)));
  EXPECT_TRUE(absl::IsUnauthenticated(table->Check("Basic a", kGet, before)));
  const absl::Status unknown = table->Check("Bearer secret-guess", kGet, before);
  EXPECT_TRUE(absl::IsUnauthenticated(unknown));
  EXPECT_THAT(std::string(unknown.message()), Not(HasSubstr("secret-guess")));
}

TEST(Tokens, NamesTheLineThatIsWrong) {
  const std::string good = absl::StrCat("a viewer ", HashToken("a"), "\n");
  for (const std::string& bad :
       {std::string("a viewer"), std::string("a king ") + HashToken("x"),
        std::string("a viewer abc"), std::string("a viewer ") + HashToken("x") + " tomorrow",
        good.substr(0, good.size() - 1)}) {
    const auto table = TokenTable::Parse(good + bad);
    EXPECT_TRUE(absl::IsInvalidArgument(table.status())) << bad;
    EXPECT_THAT(std::string(table.status().message()), HasSubstr("line 2")) << bad;
  }
}

TEST(Tokens, AFileIsReadAgainAndABadOneChangesNothing) {
  const std::string path = absl::StrCat("/tmp/espalier_tokens_", getpid());
  const auto write = [&](const std::string& text) {
    std::ofstream(path + ".new") << text;
    std::filesystem::rename(path + ".new", path);
  };
  write("");
  EXPECT_TRUE(absl::IsInvalidArgument(TokenFile::Open(path).status())) << "nobody could call";
  write(absl::StrCat("a viewer ", HashToken("a"), "\n"));
  auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Time now = absl::Now();
  EXPECT_TRUE((*file)->Check("Bearer a", kGet, now).ok());
  write("nonsense\n");
  EXPECT_TRUE((*file)->Check("Bearer a", kGet, now + absl::Seconds(5)).ok());
  write(absl::StrCat("b viewer ", HashToken("b"), "\n"));
  EXPECT_TRUE((*file)->Check("Bearer b", kGet, now + absl::Seconds(10)).ok());
  EXPECT_FALSE((*file)->Check("Bearer a", kGet, now + absl::Seconds(10)).ok());
  std::filesystem::remove(path);
  EXPECT_TRUE((*file)->Check("Bearer b", kGet, now + absl::Seconds(20)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(TokenFile::Open(path).status()));
}

}  // namespace
}  // namespace espalier::rpc

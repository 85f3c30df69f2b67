// token new: a bearer token for its holder, and the line that makes servers accept it.
#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/rpc/tokens.h"
#include "nlohmann/json.hpp"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"

namespace espalier::cli {
namespace {

struct TokenArguments {
  std::string name, role;
  int days = 90;
};

absl::StatusOr<int> NewToken(const Context& context, const TokenArguments& arguments) {
  const std::string token = rpc::NewToken();
  const std::string expires = absl::FormatTime(
      absl::RFC3339_sec, absl::Now() + absl::Hours(24) * arguments.days, absl::UTCTimeZone());
  const std::string line =
      absl::StrCat(arguments.name, " ", arguments.role, " ", rpc::HashToken(token), " ", expires);
  // The line passes the very reader that the servers use.
  if (const auto table = rpc::TokenTable::Parse(line); !table.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--name or --role: ", table.status().message()));
  }
  if (context.json) {
    Write(nlohmann::json{{"token", token}, {"line", line}, {"expires", expires}}.dump() + "\n");
  } else {
    Write(absl::StrCat("Token, shown only now; its holder keeps it in a file (--token-file):\n  ",
                       token, "\nLine for the servers' --tokens file:\n  ", line, "\n"));
  }
  return kExitOk;
}

}  // namespace

void AddTokenCommands(CLI::App& app, Context& context) {
  auto* token = app.add_subcommand("token", "Bearer tokens of the services");
  token->require_subcommand(1);
  auto arguments = std::make_shared<TokenArguments>();
  auto* fresh = token->add_subcommand("new", "Draw a token and print it with its hash");
  fresh->add_option("--name", arguments->name, "Its holder, for logs; one word")->required();
  fresh
      ->add_option("--role", arguments->role,
                   "viewer reads; submitter also starts, steers and scores; worker serves runs; "
                   "admin does everything")
      ->required()
      ->check(CLI::IsMember({"viewer", "submitter", "worker", "admin"}));
  fresh->add_option("--days", arguments->days, "Days until it expires")
      ->check(CLI::Range(1, 36500))
      ->capture_default_str();
  fresh->callback([&context, arguments] {
    context.action = [&context, arguments] { return NewToken(context, *arguments); };
  });
}

}  // namespace espalier::cli

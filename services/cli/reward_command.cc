// reward score over RewardService; reward verify on a file of answers, without a service.
#include <sstream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/reward/reward.h"
#include "libs/rpc/server.h"
#include "nlohmann/json.hpp"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/terminal.h"

namespace espalier::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* VerdictName(v1::Verdict verdict) {
  return verdict == v1::VERDICT_CORRECT ? "correct"
         : verdict == v1::VERDICT_WRONG ? "wrong"
                                        : "abstain";
}

const char* VerdictName(reward::Verdict verdict) {
  return verdict == reward::Verdict::kCorrect ? "correct"
         : verdict == reward::Verdict::kWrong ? "wrong"
                                              : "abstain";
}

std::string RenderScore(const v1::Score& score, const Style& style) {
  const Tone tone = score.verdict() == v1::VERDICT_CORRECT ? Tone::kGreen
                    : score.verdict() == v1::VERDICT_WRONG ? Tone::kRed
                                                           : Tone::kYellow;
  std::string text = absl::StrCat(
      Paint(VerdictName(score.verdict()), tone, style), ": ", Printable(score.reason()),
      absl::StrFormat("\ntotal %+.4f = answer %+.4f, accuracy %+.4f, reflection %+.4f, "
                      "length %+.4f, side %+.4f (weighted)\n",
                      score.total(), score.parts().answer(), score.parts().accuracy(),
                      score.parts().reflection(), score.parts().length(), score.parts().side()));
  absl::StrAppend(&text, "answer \"", Printable(score.extracted()), "\", stated again ",
                  score.reflections(), " times, ", score.hesitations(), " hesitations\n");
  if (score.has_tail_share()) {
    absl::StrAppend(&text,
                    absl::StrFormat("%.1f%% of the trace comes after the first correct answer\n",
                                    score.tail_share() * 100));
  }
  return text;
}

absl::StatusOr<int> Score(const Context& context, const std::string& reference,
                          const std::string& trace) {
  v1::ScoreTraceRequest request;
  request.set_reference(reference);
  if (trace == "-") {
    ASSIGN_OR_RETURN(*request.mutable_trace()->mutable_text(), ReadInput("-"));
  } else {
    request.mutable_trace()->set_text(trace);
  }
  v1::RewardService::Stub stub(rpc::MakeChannel(context.reward));
  ASSIGN_OR_RETURN(const auto response, Call(stub, &v1::RewardService::Stub::ScoreTrace, request,
                                             "reward service", context.reward));
  context.Print(response, [&] { return RenderScore(response.score(), context.style); });
  return kExitOk;
}

struct Judged {
  reward::Verification verification;
  std::string extracted;
};

// As the reward service's VerifyAnswer: what the answer states is compared; one that states nothing
// is wrong.
Judged Judge(const std::string& gold, const std::string& answer) {
  const reward::Extraction extraction = reward::ExtractAnswer(answer);
  if (extraction.found) return {reward::VerifyAnswer(gold, extraction.text), extraction.text};
  reward::Verification nothing;
  nothing.verdict = reward::Verdict::kWrong;
  nothing.reason = "The answer states nothing.";
  return {nothing, ""};
}

std::string TextOf(const Json& line, const char* key) {
  return line[key].is_string() ? line[key].get<std::string>() : line[key].dump();
}

absl::StatusOr<int> Verify(const Context& context, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadInput(path));
  std::istringstream lines(text);
  int64_t number = 0, judged = 0, expected = 0, agreed = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json parsed = Json::parse(line, nullptr, false);
    if (!parsed.is_object() || !parsed.contains("gold") || !parsed.contains("answer")) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " line ", number, " — write one {\"id\":…,\"gold\":…,\"answer\":…} a line"));
    }
    const Judged result = Judge(TextOf(parsed, "gold"), TextOf(parsed, "answer"));
    const char* verdict = VerdictName(result.verification.verdict);
    ++judged;
    if (parsed.contains("expected") && parsed["expected"].is_number()) {
      ++expected;
      agreed += (parsed["expected"].get<double>() > 0.5) ==
                (result.verification.verdict == reward::Verdict::kCorrect);
    }
    const Json id = parsed.contains("id") ? parsed["id"] : Json(number);
    if (context.json) {
      const Json out = {{"id", id},
                        {"verdict", verdict},
                        {"reason", result.verification.reason},
                        {"extracted", result.extracted}};
      Write(out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    } else {
      Write(absl::StrCat(id.is_string() ? Printable(id.get<std::string>()) : id.dump(), "  ",
                         verdict, "  ", Printable(result.verification.reason), "\n"));
    }
  }
  if (!context.json) {
    Write(absl::StrCat(
        judged, " answers",
        expected > 0 ? absl::StrCat(", ", agreed, " of ", expected, " as expected") : "", "\n"));
  }
  return kExitOk;
}

}  // namespace

void AddRewardCommands(CLI::App& app, Context& context) {
  auto* parent = app.add_subcommand("reward", "Score reasoning traces and check answers");
  parent->require_subcommand(1);
  auto reference = std::make_shared<std::string>(), trace = std::make_shared<std::string>();
  auto* score = parent->add_subcommand("score", "Score one trace with the reward service");
  score->add_option("--reference", *reference, "The right answer")->required();
  score->add_option("--trace", *trace, "The trace; - reads standard input")->required();
  score->callback([&context, reference, trace] {
    context.action = [&context, reference, trace] { return Score(context, *reference, *trace); };
  });
  auto path = std::make_shared<std::string>();
  auto* verify = parent->add_subcommand(
      "verify", "Check answers of a file against their references (offline)");
  verify
      ->add_option(
          "--jsonl", *path,
          "Lines of {\"id\":…,\"gold\":…,\"answer\":…[,\"expected\":0|1]}; - reads standard input")
      ->required();
  verify->callback(
      [&context, path] { context.action = [&context, path] { return Verify(context, *path); }; });
}

}  // namespace espalier::cli

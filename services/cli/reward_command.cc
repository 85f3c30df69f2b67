// reward score over RewardService, or on a file of traces without one; reward verify on a file of
// answers; reward presets.
#include <iostream>
#include <sstream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/reward/presets.h"
#include "libs/reward/reward.h"
#include "libs/rpc/server.h"
#include "libs/spec/fields.h"
#include "libs/spec/reward_options.h"
#include "libs/spec/scalars.h"
#include "nlohmann/json.hpp"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/reward_jsonl.h"
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

struct ScoreFlags {
  std::string reference, trace, jsonl, preset;
  std::vector<std::string> changes;  // "field=value"
};

absl::StatusOr<v1::RewardSpec> RewardOf(const ScoreFlags& flags) {
  v1::RewardSpec reward;
  if (!flags.preset.empty()) reward.set_preset(flags.preset);
  for (const std::string& change : flags.changes) {
    const size_t equals = change.find('=');
    const auto* field = equals == std::string::npos
                            ? nullptr
                            : reward.GetDescriptor()->FindFieldByName(change.substr(0, equals));
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", change, " — write field=value, such as --set length_max=2048"));
    }
    if (!spec::SetScalar(&reward, *field, change.substr(equals + 1))) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", change, " — allowed is ", spec::AllowedWords(*field)));
    }
  }
  return reward;
}

absl::StatusOr<int> ScoreOne(const Context& context, const ScoreFlags& flags) {
  v1::ScoreTraceRequest request;
  ASSIGN_OR_RETURN(*request.mutable_reward(), RewardOf(flags));
  request.set_reference(flags.reference);
  if (flags.trace == "-") {
    ASSIGN_OR_RETURN(*request.mutable_trace()->mutable_text(), ReadInput("-"));
  } else {
    request.mutable_trace()->set_text(flags.trace);
  }
  v1::RewardService::Stub stub(rpc::MakeChannel(context.reward));
  ASSIGN_OR_RETURN(const auto response, Call(stub, &v1::RewardService::Stub::ScoreTrace, request,
                                             "reward service", context.reward));
  context.Print(response, [&] { return RenderScore(response.score(), context.style); });
  return kExitOk;
}

absl::StatusOr<int> ScoreFile(const Context& context, const ScoreFlags& flags) {
  ASSIGN_OR_RETURN(const v1::RewardSpec reward, RewardOf(flags));
  ASSIGN_OR_RETURN(const std::string text, ReadInput(flags.jsonl));
  ASSIGN_OR_RETURN(const JsonlCounts counts,
                   ScoreJsonl(
                       text, reward, [](const std::string& line) { Write(line); },
                       [&](const std::string& problem) {
                         std::cerr << "espalier: " << flags.jsonl << " " << Printable(problem)
                                   << "\n";
                       }));
  if (!context.json) {
    std::cerr << counts.scored << " traces scored, " << counts.correct << " correct, " << counts.bad
              << " bad lines\n";
  }
  return counts.bad == 0 ? kExitOk : kExitUsage;
}

absl::StatusOr<int> Score(const Context& context, const ScoreFlags& flags) {
  const bool one = !flags.reference.empty() || !flags.trace.empty();
  if (one == !flags.jsonl.empty()) {
    return absl::InvalidArgumentError(
        "reward score — give --reference and --trace, or --jsonl with a file");
  }
  if (one && flags.reference.empty()) {
    return absl::InvalidArgumentError("reward score: --reference is missing — the right answer");
  }
  return one ? ScoreOne(context, flags) : ScoreFile(context, flags);
}

// The values of a preset as the spec's fields, the sizes of a task aside.
Json ValuesOf(const reward::Preset& preset) {
  const v1::RewardSpec spec = spec::ToRewardSpec(preset.options);
  Json values = Json::object();
  const auto* descriptor = spec.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto& field = *descriptor->field(i);
    const std::string& name = field.name();
    const bool size = name == "length_max" || name == "length_buffer" || name == "length_target";
    if (!spec.GetReflection()->HasField(spec, &field) || size) continue;
    if (field.type() == google::protobuf::FieldDescriptor::TYPE_BOOL) {
      values[name] = spec.GetReflection()->GetBool(spec, &field);
    } else if (field.type() == google::protobuf::FieldDescriptor::TYPE_DOUBLE) {
      values[name] = spec.GetReflection()->GetDouble(spec, &field);
    } else {
      values[name] = spec::ScalarText(spec, field);
    }
  }
  return values;
}

int ListPresets(const Context& context) {
  Json list = Json::array();
  std::string text;
  for (const reward::Preset& preset : reward::Presets()) {
    const Json values = ValuesOf(preset);
    list.push_back({{"name", preset.name}, {"help", preset.help}, {"values", values}});
    absl::StrAppend(&text, preset.name, "\n  ", preset.help, "\n ");
    for (const auto& [name, value] : values.items()) {
      absl::StrAppend(&text, " ", name, "=",
                      value.is_string() ? value.get<std::string>() : value.dump());
    }
    absl::StrAppend(&text, "\n");
  }
  Write(context.json ? Json{{"presets", list}}.dump(2) + "\n" : text);
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
  auto flags = std::make_shared<ScoreFlags>();
  auto* score = parent->add_subcommand(
      "score", "Score one trace with the reward service, or a file of traces offline");
  score->add_option("--reference", flags->reference, "The right answer");
  score->add_option("--trace", flags->trace, "The trace; - reads standard input");
  score->add_option("--jsonl", flags->jsonl,
                    "Lines of {\"id\":…,\"prompt\":…,\"gold\":…,\"trace\":…}; - reads standard "
                    "input. Prints a line of JSON for each");
  score->add_option("--preset", flags->preset, "Named configuration; reward presets lists them");
  score->add_option("--set", flags->changes, "Set a field of the reward: field=value")
      ->allow_extra_args(false);
  score->callback(
      [&context, flags] { context.action = [&context, flags] { return Score(context, *flags); }; });
  auto* presets = parent->add_subcommand("presets", "Named configurations and their values");
  presets->callback([&context] {
    context.action = [&context]() -> absl::StatusOr<int> { return ListPresets(context); };
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

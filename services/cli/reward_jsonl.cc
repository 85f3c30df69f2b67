// The service's own conversion scores, so that a file and the service cannot disagree.
#include "services/cli/reward_jsonl.h"

#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "services/reward/convert.h"

namespace espalier::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Line {
  int64_t number = 0;
  Json id;
  std::string prompt, gold;
  v1::Trace trace;
};

// What is wrong with the field, or empty.
std::string ReadText(const Json& object, const char* field, bool required, std::string* text) {
  if (!object.contains(field) || object[field].is_null()) {
    return required ? absl::StrCat(field, ": missing, it is required") : "";
  }
  const Json& value = object[field];
  if (!value.is_string() && !value.is_number()) {
    return absl::StrCat(field, ": found ", value.type_name(), ", a string is expected");
  }
  *text = value.is_string() ? value.get<std::string>() : value.dump();
  return "";
}

std::string ReadLine(const std::string& text, Line* line) {
  const Json object = Json::parse(text, nullptr, false);
  if (object.is_discarded())
    return "is no JSON; write one {\"id\", \"prompt\", \"gold\", \"trace\"} a line";
  if (!object.is_object())
    return absl::StrCat("found ", object.type_name(), ", an object is expected");
  line->id = object.contains("id") ? object["id"] : Json(line->number);
  if (line->id.is_structured())
    return absl::StrCat("id: found ", line->id.type_name(), ", a string or number is expected");
  std::string trace;
  for (const std::string& problem :
       {ReadText(object, "gold", true, &line->gold), ReadText(object, "trace", true, &trace),
        ReadText(object, "prompt", false, &line->prompt)}) {
    if (!problem.empty()) return problem;
  }
  if (line->gold.empty()) return "gold: empty; give the right answer";
  if (trace.size() > reward::kTraceBytesMax) {
    return absl::StrCat("trace: found ", trace.size(), " bytes, allowed are up to ",
                        reward::kTraceBytesMax);
  }
  line->trace.set_text(trace);
  if (object.contains("token_count")) {
    const Json& count = object["token_count"];
    if (!count.is_number_unsigned() || count.get<uint64_t>() > UINT32_MAX)
      return "token_count: a whole number from 0 is expected";
    line->trace.set_token_count(count.get<uint32_t>());
  }
  if (object.contains("truncated")) {
    if (!object["truncated"].is_boolean()) return "truncated: true or false is expected";
    line->trace.set_truncated(object["truncated"].get<bool>());
  }
  return "";
}

const char* NameOf(v1::Verdict verdict) {
  return verdict == v1::VERDICT_CORRECT ? "correct"
         : verdict == v1::VERDICT_WRONG ? "wrong"
                                        : "abstain";
}

int64_t CodePoints(const std::string& text, uint32_t bytes) {
  int64_t points = 0;
  for (uint32_t at = 0; at < bytes && at < text.size(); ++at) {
    points += (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
  }
  return points;
}

std::string ToJsonLine(const Line& line, const v1::Score& score) {
  const v1::RewardParts& parts = score.parts();
  const Json first = score.has_first_correct_span()
                         ? Json(CodePoints(line.trace.text(), score.first_correct_span().begin()))
                         : Json(nullptr);
  const Json out = {{"id", line.id},
                    {"verdict", NameOf(score.verdict())},
                    {"first_correct", first},
                    {"restatements", score.reflections()},
                    {"hesitations", score.hesitations()},
                    {"share_after_first_correct",
                     score.has_tail_share() ? Json(score.tail_share()) : Json(nullptr)},
                    {"components",
                     {{"answer", parts.answer()},
                      {"accuracy", parts.accuracy()},
                      {"reflection", parts.reflection()},
                      {"length", parts.length()},
                      {"side", parts.side()}}},
                    {"total", score.total()}};
  return out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

class Scorer {
 public:
  Scorer(const v1::RewardSpec& reward, const std::function<void(const std::string&)>& write,
         const std::function<void(const std::string&)>& report)
      : reward_(reward), write_(write), report_(report) {}

  void Read(const std::string& text, int64_t number) {
    Line line;
    line.number = number;
    if (const std::string problem = ReadLine(text, &line); !problem.empty()) {
      return Report(number, problem);
    }
    const bool joins = !group_.empty() && !line.prompt.empty() &&
                       line.prompt == group_.front().prompt && line.gold == group_.front().gold &&
                       group_.size() < static_cast<size_t>(reward::kBatchTracesMax);
    if (!joins) Flush();
    group_.push_back(std::move(line));
  }

  void Flush() {
    if (group_.empty()) return;
    v1::ScoreBatchRequest request;
    request.set_reference(group_.front().gold);
    request.set_prompt(group_.front().prompt);
    *request.mutable_reward() = reward_;
    for (const Line& line : group_) *request.add_traces() = line.trace;
    const absl::StatusOr<v1::ScoreBatchResponse> response = reward::ScoreBatch(request);
    for (size_t i = 0; i < group_.size(); ++i) {
      if (!response.ok()) {
        Report(group_[i].number, std::string(response.status().message()));
        continue;
      }
      const v1::Score& score = response->scores(static_cast<int>(i));
      ++counts_.scored;
      counts_.correct += score.verdict() == v1::VERDICT_CORRECT;
      write_(ToJsonLine(group_[i], score));
    }
    group_.clear();
  }

  const JsonlCounts& counts() const { return counts_; }

 private:
  void Report(int64_t number, const std::string& problem) {
    ++counts_.bad;
    report_(absl::StrCat("line ", number, ": ", problem));
  }

  const v1::RewardSpec& reward_;
  const std::function<void(const std::string&)>& write_;
  const std::function<void(const std::string&)>& report_;
  std::vector<Line> group_;
  JsonlCounts counts_;
};

}  // namespace

absl::StatusOr<JsonlCounts> ScoreJsonl(const std::string& text, const v1::RewardSpec& reward,
                                       const std::function<void(const std::string&)>& write,
                                       const std::function<void(const std::string&)>& report) {
  RETURN_IF_ERROR(reward::ToOptions(reward).status());
  Scorer scorer(reward, write, report);
  std::istringstream lines(text);
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos) scorer.Read(line, number);
  }
  scorer.Flush();
  return scorer.counts();
}

}  // namespace espalier::cli

// get_reward: queries become groups by prompt and label, each group one ScoreBatch; answers go back
// to the places of their queries.
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libs/spec/fields.h"
#include "nlohmann/json.hpp"
#include "services/reward/http_calls.h"
#include "services/reward/proto_json.h"
#include "services/reward/trim_response.h"

namespace espalier::reward {
namespace {

using nlohmann::json;

struct Group {
  v1::ScoreBatchRequest request;
  std::vector<size_t> places;  // of its traces among the queries
  v1::ScoreBatchResponse response;
};

struct Queries {
  std::vector<std::string> texts, prompts, labels;  // prompts may be empty
};

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

// A list of texts. A number stands for its digits: labels are often numbers.
absl::StatusOr<std::vector<std::string>> Texts(const json& body, const char* name) {
  if (!body.contains(name)) return Bad(absl::StrCat(name, ": missing; give a list of texts"));
  const json& list = body[name];
  if (!list.is_array()) {
    return Bad(absl::StrCat(name, ": found ", list.type_name(), ", needed is a list of texts"));
  }
  std::vector<std::string> texts;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_string()) {
      texts.push_back(list[i].get<std::string>());
    } else if (list[i].is_number()) {
      texts.push_back(list[i].dump());
    } else {
      return Bad(absl::StrCat(name, "[", i, "]: found ", list[i].type_name(), ", needed is a text",
                              name == std::string("labels")
                                  ? "; the reference answer of every query goes into labels"
                                  : ""));
    }
  }
  return texts;
}

absl::StatusOr<Queries> Parse(const std::string& text) {
  const json body = json::parse(text, nullptr, false);
  if (body.is_discarded() || !body.is_object()) {
    return Bad(
        "body: is no JSON object; send {\"query\": [...], \"prompts\": [...], \"labels\": "
        "[...]}");
  }
  Queries queries;
  auto texts = Texts(body, "query");
  if (!texts.ok()) return texts.status();
  queries.texts = *std::move(texts);
  if (queries.texts.empty() || queries.texts.size() > kQueriesMax) {
    return Bad(absl::StrCat("query: found ", queries.texts.size(), " texts, allowed are 1 to ",
                            kQueriesMax, "; send more in several calls"));
  }
  auto labels = Texts(body, "labels");
  if (!labels.ok()) return labels.status();
  queries.labels = *std::move(labels);
  if (body.contains("prompts") && !body["prompts"].is_null()) {
    auto prompts = Texts(body, "prompts");
    if (!prompts.ok()) return prompts.status();
    queries.prompts = *std::move(prompts);
  }
  for (const auto& [name, list] :
       {std::pair("labels", &queries.labels), std::pair("prompts", &queries.prompts)}) {
    if (list->size() == queries.texts.size() || (list->empty() && list == &queries.prompts)) {
      continue;
    }
    return Bad(absl::StrCat(name, ": found ", list->size(), " entries for ", queries.texts.size(),
                            " queries; give one for each"));
  }
  return queries;
}

// The parameters of the URL as a RewardSpec; "prompts" is none of its fields.
absl::StatusOr<v1::RewardSpec> ParseSpec(const HttpParameters& parameters) {
  json fields = json::object();
  for (const auto& [name, value] : parameters) {
    if (name == "prompts") {
      if (value == "keep" || value == "cut") continue;
      return Bad(absl::StrCat("prompts: found \"", value, "\", allowed are cut and keep"));
    }
    const auto* field = v1::RewardSpec::descriptor()->FindFieldByName(name);
    const auto* known = field == nullptr || field->enum_type() == nullptr
                            ? nullptr
                            : spec::FindEnumValue(*field->enum_type(), value);
    if (known != nullptr) {
      fields[name] = known->name();  // "group" for LENGTH_SHAPING_GROUP, as in a run's file
    } else if (value == "true" || value == "false") {
      fields[name] = value == "true";
    } else {
      fields[name] = value;
    }
  }
  v1::RewardSpec spec;
  const absl::Status status =
      FromJson(fields.dump(-1, ' ', false, json::error_handler_t::replace), &spec);
  if (!status.ok()) {
    return Bad(absl::StrCat(std::string(status.message()),
                            " (parameters of the URL are fields of RewardSpec, or prompts=keep)"));
  }
  return spec;
}

absl::StatusOr<std::vector<Group>> MakeGroups(const Queries& queries, const v1::RewardSpec& spec,
                                              bool keep_prompts) {
  std::vector<Group> groups;
  std::map<std::pair<std::string, std::string>, size_t> known;
  for (size_t i = 0; i < queries.texts.size(); ++i) {
    const std::string prompt = queries.prompts.empty() ? "" : queries.prompts[i];
    absl::string_view response = queries.texts[i];
    if (!keep_prompts && !prompt.empty()) {
      const size_t at = response.find(prompt);
      if (at == absl::string_view::npos) {
        return Bad(absl::StrCat(
            "query[", i, "]: does not contain prompts[", i,
            "], so that prompt and response cannot ",
            "be told apart; send both as the model saw them, or call get_reward?prompts=keep"));
      }
      response.remove_prefix(at + prompt.size());
    }
    // Without prompts nobody says which queries belong together.
    const auto found =
        queries.prompts.empty() ? known.end() : known.find(std::pair(prompt, queries.labels[i]));
    const size_t place = found == known.end() ? groups.size() : found->second;
    if (place == groups.size()) {
      groups.emplace_back();
      groups.back().request.set_reference(queries.labels[i]);
      groups.back().request.set_prompt(prompt);
      *groups.back().request.mutable_reward() = spec;
      known.emplace(std::pair(prompt, queries.labels[i]), place);
    }
    const absl::string_view trimmed = TrimResponse(response);
    v1::Trace* trace = groups[place].request.add_traces();
    trace->set_text(trimmed.data(), trimmed.size());
    groups[place].places.push_back(i);
  }
  return groups;
}

// Scores all groups, a bounded number at a time, and waits for every one that was begun.
absl::Status ScoreAll(ScoreEngine* engine, const std::shared_ptr<CallControl>& control,
                      std::vector<Group>* groups) {
  ScorePool::Line line;
  std::mutex mutex;
  std::condition_variable changed;
  size_t open = 0;
  absl::Status first_error;
  std::unique_lock lock(mutex);
  for (Group& group : *groups) {
    changed.wait(lock, [&] { return open < kGroupsInFlightMax; });
    if (!first_error.ok()) break;
    ++open;
    lock.unlock();  // the engine may answer at once
    engine->Answer(group.request, control, &line,
                   [&, target = &group](absl::StatusOr<v1::ScoreBatchResponse> result) {
                     std::lock_guard guard(mutex);
                     if (result.ok()) {
                       target->response = *std::move(result);
                     } else if (first_error.ok()) {
                       first_error = result.status();
                       control->cancelled = true;  // one refusal is the whole call's
                     }
                     --open;
                     changed.notify_one();
                   });
    lock.lock();
  }
  changed.wait(lock, [&] { return open == 0; });
  return first_error;
}

// An error of group 3 in the caller's own terms.
absl::Status InCallersWords(const absl::Status& status, const std::vector<Group>& groups) {
  const absl::string_view message = status.message();
  if (absl::StartsWith(message, "reference: ")) {
    for (const Group& group : groups) {
      if (group.response.scores_size() > 0) continue;
      return absl::Status(status.code(), absl::StrCat("labels[", group.places[0], "]: ",
                                                      absl::StripPrefix(message, "reference: ")));
    }
  }
  return status;
}

json ToReply(const std::vector<Group>& groups, size_t count) {
  struct Log {
    const char* name;
    double (*value)(const v1::Score&);
  };
  static constexpr Log kLogs[] = {
      {"correct",
       [](const v1::Score& s) { return static_cast<double>(s.verdict() == v1::VERDICT_CORRECT); }},
      {"abstained",
       [](const v1::Score& s) { return static_cast<double>(s.verdict() == v1::VERDICT_ABSTAIN); }},
      {"reflections", [](const v1::Score& s) { return static_cast<double>(s.reflections()); }},
      {"hesitations", [](const v1::Score& s) { return static_cast<double>(s.hesitations()); }},
      {"format_ok", [](const v1::Score& s) { return static_cast<double>(s.format_ok()); }},
      {"repetition_ok", [](const v1::Score& s) { return static_cast<double>(s.repetition_ok()); }},
      {"length_part", [](const v1::Score& s) { return s.parts().length(); }},
  };
  std::vector<double> rewards(count), scores(count);
  std::map<std::string, std::vector<double>> logs;
  for (const Log& log : kLogs) logs[log.name].resize(count);
  for (const Group& group : groups) {
    for (size_t i = 0; i < group.places.size(); ++i) {
      const v1::Score& score = group.response.scores(static_cast<int>(i));
      const size_t place = group.places[i];
      rewards[place] = score.total();
      scores[place] = kLogs[0].value(score);
      for (const Log& log : kLogs) logs[log.name][place] = log.value(score);
    }
  }
  return {{"rewards", rewards}, {"scores", scores}, {"extra_logs", logs}};
}

}  // namespace

HttpReply GetRewardCall(ScoreEngine* engine, std::shared_ptr<CallControl> control,
                        const HttpParameters& parameters, const std::string& body) {
  const auto refuse = [engine](const absl::Status& status) {
    engine->stats().Count(Outcome::kInvalid);
    return ErrorReply(status);
  };
  const auto spec = ParseSpec(parameters);
  if (!spec.ok()) return refuse(spec.status());
  const auto queries = Parse(body);
  if (!queries.ok()) return refuse(queries.status());
  const auto kept = parameters.find("prompts");
  auto groups = MakeGroups(*queries, *spec, kept != parameters.end() && kept->second == "keep");
  if (!groups.ok()) return refuse(groups.status());
  const absl::Status scored = ScoreAll(engine, control, &*groups);
  if (!scored.ok()) return ErrorReply(InCallersWords(scored, *groups));
  return {200, ToReply(*groups, queries->texts.size()).dump()};
}

}  // namespace espalier::reward

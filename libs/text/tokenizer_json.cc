// tokenizer.json, as Hugging Face's tokenizers library reads it: written from a BpeModel, and read
// back with every promise checked.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/text/bpe.h"
#include "libs/text/byte_alphabet.h"
#include "libs/text/pretokenizer.h"
#include "nlohmann/json.hpp"

namespace espalier::text {
namespace {

using Json = nlohmann::json;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer.json: ", what, "; only byte-level BPE as this library writes it can be read"));
}

std::string Spelled(const BpeModel& model, int32_t id) {
  return id < kSpecialCount ? kSpecialNames[id] : BytesToAlphabet(model.tokens[id]);
}

Json ByteLevel(bool add_prefix_space) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", false}};
}

// Value at a path of object keys and array indices, or null.
const Json* At(const Json& json, std::initializer_list<const char*> path) {
  const Json* node = &json;
  for (const char* key : path) {
    if (node->is_array() && key[0] >= '0' && key[0] <= '9') {
      const size_t index = static_cast<size_t>(key[0] - '0');
      if (index >= node->size()) return nullptr;
      node = &(*node)[index];
    } else if (node->is_object() && node->contains(key)) {
      node = &(*node)[key];
    } else {
      return nullptr;
    }
  }
  return node;
}

// Ids by spelling. All different, from 0 without a gap, special tokens first, every byte present.
absl::Status ReadVocabulary(const Json& json, BpeModel* model,
                            absl::flat_hash_map<std::string, int32_t>* ids) {
  const Json* vocab = At(json, {"model", "vocab"});
  if (vocab == nullptr || !vocab->is_object()) return Bad("model.vocab is missing");
  model->tokens.assign(vocab->size(), "");
  std::vector<bool> seen(vocab->size(), false);
  for (const auto& [spelling, value] : vocab->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocab->size() ||
        seen[value.get<size_t>()]) {
      return Bad(absl::StrCat("model.vocab[", spelling, "] is no id from 0 to ", vocab->size() - 1,
                              " of its own"));
    }
    const size_t id = value.get<size_t>();
    seen[id] = true;
    ids->emplace(spelling, static_cast<int32_t>(id));
    if (id < kSpecialCount) {
      if (spelling != kSpecialNames[id]) {
        return Bad(absl::StrCat("id ", id, " is \"", spelling, "\", not ", kSpecialNames[id]));
      }
      continue;
    }
    const auto bytes = AlphabetToBytes(spelling);
    if (!bytes.has_value() || bytes->empty()) {
      return Bad(absl::StrCat("model.vocab has \"", spelling, "\", not of the byte alphabet"));
    }
    model->tokens[id] = *bytes;
  }
  std::set<std::string> bytes;
  for (const std::string& token : model->tokens) {
    if (token.size() == 1) bytes.insert(token);
  }
  if (bytes.size() != 256)
    return Bad(absl::StrCat("only ", bytes.size(), " of 256 bytes have a token"));
  return absl::OkStatus();
}

absl::Status ReadMerges(const Json& json, const absl::flat_hash_map<std::string, int32_t>& ids,
                        BpeModel* model) {
  const Json* merges = At(json, {"model", "merges"});
  if (merges == nullptr || !merges->is_array()) return Bad("model.merges is missing");
  for (const Json& merge : *merges) {
    std::string left, right;
    if (merge.is_string()) {
      const std::string line = merge.get<std::string>();
      const size_t space = line.find(' ');
      left = line.substr(0, space);
      if (space != std::string::npos) right = line.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    const auto left_id = ids.find(left), right_id = ids.find(right);
    if (left_id == ids.end() || right_id == ids.end() || left_id->second < kSpecialCount ||
        right_id->second < kSpecialCount || !ids.contains(left + right)) {
      return Bad(absl::StrCat("model.merges[", model->merges.size(), "] joins unknown tokens"));
    }
    model->merges.emplace_back(left_id->second, right_id->second);
  }
  return absl::OkStatus();
}

// Another pre-tokenizer would cut texts elsewhere, and every id after it would mean something else.
absl::Status CheckPipeline(const Json& json) {
  const auto is = [&json](std::initializer_list<const char*> path, const Json& expected) {
    const Json* found = At(json, path);
    return found != nullptr && *found == expected;
  };
  if (!is({"model", "type"}, "BPE")) return Bad("model.type is not BPE");
  if (!is({"pre_tokenizer", "pretokenizers", "0", "pattern", "Regex"}, kSplitRegex) ||
      !is({"pre_tokenizer", "pretokenizers", "1", "type"}, "ByteLevel") ||
      !is({"pre_tokenizer", "pretokenizers", "1", "add_prefix_space"}, false)) {
    return Bad("pre_tokenizer cuts text in another way");
  }
  return absl::OkStatus();
}

}  // namespace

std::string BpeToJson(const BpeModel& model) {
  Json added = Json::array(), merges = Json::array();
  for (int id = 0; id < kSpecialCount; ++id) {
    added.push_back({{"id", id},
                     {"content", kSpecialNames[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  // In order of ids, which a Json object would sort by spelling.
  std::string vocab_text = "{";
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    absl::StrAppend(&vocab_text, id == 0 ? "" : ",",
                    Json(Spelled(model, static_cast<int32_t>(id))).dump(), ":", id);
  }
  vocab_text += "}";
  for (const auto& [left, right] : model.merges) {
    merges.push_back(Spelled(model, left) + " " + Spelled(model, right));
  }
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kSplitRegex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json pre = {{"type", "Sequence"},
                    {"pretokenizers", Json::array({split, ByteLevel(false)})}};
  std::string text = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":";
  absl::StrAppend(&text, added.dump(), ",\"normalizer\":null,\"pre_tokenizer\":", pre.dump(),
                  ",\"post_processor\":null,\"decoder\":", ByteLevel(true).dump(),
                  ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                  "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                  "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":",
                  vocab_text, ",\"merges\":", merges.dump(), "}}\n");
  return text;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad("not JSON");
  BpeModel model;
  absl::flat_hash_map<std::string, int32_t> ids;
  RETURN_IF_ERROR(CheckPipeline(json));
  RETURN_IF_ERROR(ReadVocabulary(json, &model, &ids));
  RETURN_IF_ERROR(ReadMerges(json, ids, &model));
  return MakeBpeTokenizer(std::move(model));
}

}  // namespace espalier::text

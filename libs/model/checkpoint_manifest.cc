// Every field is required, and what cannot be is refused by name.
#include "libs/model/checkpoint_manifest.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint_json.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "espalier-checkpoint";
constexpr int kVersion = 1;
constexpr int kDepthMax = 8;
constexpr uint64_t kManifestBytesMax = uint64_t{1} << 30;
constexpr int kRanksMax = 1 << 20;

const char* QkNormName(QkNorm norm) {
  return norm == QkNorm::kNone ? "none" : norm == QkNorm::kHead ? "head" : "full";
}

json ConfigToJson(const ModelConfig& config) {
  return {{"vocabulary", config.vocabulary},
          {"layers", config.layers},
          {"width", config.width},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"experts", config.experts},
          {"top_k", config.top_k},
          {"expert_width", config.expert_width},
          {"shared_expert_width", config.shared_expert_width},
          {"dense_layers", config.dense_layers},
          {"dense_width", config.dense_width},
          {"router", config.router == RouterKind::kSigmoid ? "sigmoid" : "softmax"},
          {"normalize_top_k", config.normalize_top_k},
          {"routed_scaling", config.routed_scaling},
          {"aux_loss", config.aux_loss},
          {"rope_theta", config.rope_theta},
          {"rms_eps", config.rms_eps},
          {"tie_embeddings", config.tie_embeddings},
          {"init_std", config.init_std},
          {"qk_norm", QkNormName(config.qk_norm)}};
}

// Reads the fields of one object; the first problem is kept and everything after it reads as zero.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) Fail("", "is not an object");
  }

  template <typename Integer>
  Integer Int(const char* name, Integer least = 0,
              Integer most = std::numeric_limits<Integer>::max()) {
    const json* value = Find(name);
    if (value == nullptr) return 0;
    if (!value->is_number_unsigned() || std::cmp_greater(value->get<uint64_t>(), most) ||
        std::cmp_less(value->get<uint64_t>(), least)) {
      Fail(name, absl::StrCat("is not an integer of ", least, " to ", most));
      return 0;
    }
    return static_cast<Integer>(value->get<uint64_t>());
  }
  bool Has(const char* name) const { return object_.is_object() && object_.contains(name); }
  double Double(const char* name) {
    const json* value = Find(name);
    if (value == nullptr) return 0;
    if (!value->is_number() || !std::isfinite(value->get<double>())) Fail(name, "is no number");
    return status_.ok() ? value->get<double>() : 0;
  }
  bool Bool(const char* name) {
    const json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) Fail(name, "is not true or false");
    return status_.ok() && value->get<bool>();
  }
  std::string String(const char* name) {
    const json* value = Find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) Fail(name, "is no string");
    return status_.ok() ? value->get<std::string>() : "";
  }
  const json& List(const char* name) {
    static const json kEmpty = json::array();
    const json* value = Find(name);
    if (value != nullptr && !value->is_array()) Fail(name, "is no list");
    return status_.ok() && value != nullptr ? *value : kEmpty;
  }
  // A list of integers in [0, most].
  template <typename Integer>
  std::vector<Integer> Ints(const char* name, int64_t most) {
    std::vector<Integer> out;
    for (const json& value : List(name)) {
      if (!value.is_number_unsigned() || std::cmp_greater(value.get<uint64_t>(), most)) {
        Fail(name, absl::StrCat("holds something that is not an integer of 0 to ", most));
        return {};
      }
      out.push_back(static_cast<Integer>(value.get<uint64_t>()));
    }
    return out;
  }

  void Fail(const std::string& name, const std::string& problem) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(where_, name, " ", problem));
  }
  const absl::Status& status() const { return status_; }

 private:
  const json* Find(const char* name) {
    if (!status_.ok()) return nullptr;
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    Fail(name, "is missing");
    return nullptr;
  }

  const json& object_;
  std::string where_;
  absl::Status status_;
};

absl::StatusOr<ModelConfig> ConfigFromJson(const json& value, const std::string& where) {
  Fields fields(value, where);
  ModelConfig config;
  config.vocabulary = fields.Int<int>("vocabulary", 1);
  config.layers = fields.Int<int>("layers", 1);
  config.width = fields.Int<int>("width", 1);
  config.heads = fields.Int<int>("heads", 1);
  config.kv_heads = fields.Int<int>("kv_heads", 1);
  config.head_dim = fields.Int<int>("head_dim", 1);
  config.experts = fields.Int<int>("experts", 1);
  config.top_k = fields.Int<int>("top_k", 1);
  config.expert_width = fields.Int<int>("expert_width", 1);
  config.shared_expert_width = fields.Int<int>("shared_expert_width");
  config.dense_layers = fields.Int<int>("dense_layers");
  config.dense_width = fields.Int<int>("dense_width");
  const std::string router = fields.String("router");
  if (router != "sigmoid" && router != "softmax") fields.Fail("router", "is no known router");
  config.router = router == "sigmoid" ? RouterKind::kSigmoid : RouterKind::kSoftmax;
  config.normalize_top_k = fields.Bool("normalize_top_k");
  config.routed_scaling = fields.Double("routed_scaling");
  config.aux_loss = fields.Double("aux_loss");
  config.rope_theta = fields.Double("rope_theta");
  config.rms_eps = fields.Double("rms_eps");
  config.tie_embeddings = fields.Bool("tie_embeddings");
  config.init_std = fields.Double("init_std");
  // Checkpoints older than the field are of models without such norms.
  const std::string norm = fields.Has("qk_norm") ? fields.String("qk_norm") : "none";
  for (const QkNorm kind : {QkNorm::kNone, QkNorm::kHead, QkNorm::kFull}) {
    if (norm == QkNormName(kind)) config.qk_norm = kind;
  }
  if (norm != QkNormName(config.qk_norm)) fields.Fail("qk_norm", "is no known norm");
  RETURN_IF_ERROR(fields.status());
  return config;
}

json LayoutToJson(const ExpertLayout& layout) {
  json layers = json::array();
  for (const LayerLayout& layer : layout.layers) {
    layers.push_back({{"ids", layer.ids}, {"ranks", layer.ranks}, {"masked", layer.masked}});
  }
  return layers;
}

absl::StatusOr<LayerLayout> LayerFromJson(const json& value, const std::string& where) {
  Fields fields(value, where);
  LayerLayout layer;
  layer.ids = fields.Ints<int>("ids", std::numeric_limits<int>::max());
  layer.ranks = fields.Ints<int>("ranks", kRanksMax);
  layer.masked = fields.Ints<uint8_t>("masked", 1);
  RETURN_IF_ERROR(fields.status());
  return layer;
}

absl::StatusOr<std::vector<FileDigest>> FilesFromJson(const json& list, const std::string& where) {
  std::vector<FileDigest> files;
  const int count = static_cast<int>(list.size());
  for (int rank = 0; rank < count; ++rank) {
    Fields fields(list[rank], absl::StrCat(where, "files[", rank, "]."));
    FileDigest file;
    file.name = fields.String("name");
    // No name but the expected one: a manifest cannot lead outside its folder.
    if (file.name != RankFileName(rank, count)) {
      fields.Fail("name", "is not " + RankFileName(rank, count));
    }
    file.bytes = fields.Int<uint64_t>("bytes");
    file.sha256 = fields.String("sha256");
    RETURN_IF_ERROR(fields.status());
    files.push_back(std::move(file));
  }
  if (files.empty()) return absl::DataLossError(where + "files names no file");
  return files;
}

}  // namespace

std::string RankFileName(int rank, int rank_count) {
  return absl::StrFormat("rank-%05d-of-%05d.safetensors", rank, rank_count);
}

absl::StatusOr<std::string> SealManifest(json manifest) {
  manifest.erase("digest");
  ASSIGN_OR_RETURN(const std::string text, PrintJson(manifest, -1, kManifestName));
  manifest["digest"] = Sha256Hex(text);
  return PrintJson(manifest, 1, kManifestName);
}

absl::StatusOr<std::string> PrintManifest(const Manifest& manifest) {
  const CheckpointState& state = manifest.state;
  json files = json::array();
  for (const FileDigest& file : manifest.files) {
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return SealManifest({{"format", kFormat},
                       {"version", kVersion},
                       {"step", state.step},
                       {"last_applied_sequence", state.last_applied_sequence},
                       {"config", ConfigToJson(state.config)},
                       {"layout", LayoutToJson(state.layout)},
                       {"tokenizer", state.tokenizer_json},
                       {"trainer", state.trainer_json},
                       {"files", std::move(files)}});
}

absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& source) {
  ASSIGN_OR_RETURN(json value, ParseUntrustedJson(text, kDepthMax, source));
  const std::string where = source + ": ";
  Fields fields(value, where);
  const std::string format = fields.String("format"), digest = fields.String("digest");
  const int version = fields.Int<int>("version");
  Manifest manifest;
  manifest.state.step = fields.Int<uint64_t>("step");
  manifest.state.last_applied_sequence = fields.Int<uint64_t>("last_applied_sequence");
  manifest.state.tokenizer_json = fields.String("tokenizer");
  manifest.state.trainer_json = fields.String("trainer");
  const json &layers = fields.List("layout"), &files = fields.List("files");
  RETURN_IF_ERROR(fields.status());
  if (format != kFormat || version != kVersion) {
    return absl::DataLossError(absl::StrCat(where, "format ", format, " version ", version,
                                            " is not ", kFormat, " version ", kVersion));
  }
  ASSIGN_OR_RETURN(manifest.state.config, ConfigFromJson(value["config"], where + "config."));
  ASSIGN_OR_RETURN(manifest.files, FilesFromJson(files, where));
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    ASSIGN_OR_RETURN(LayerLayout one,
                     LayerFromJson(layers[layer], absl::StrCat(where, "layout[", layer, "].")));
    manifest.state.layout.layers.push_back(std::move(one));
  }
  const absl::Status possible = ValidateLayout(manifest.state.config, manifest.state.layout,
                                               static_cast<int>(manifest.files.size()));
  if (!possible.ok()) return absl::DataLossError(absl::StrCat(where, possible.message()));

  value.erase("digest");
  ASSIGN_OR_RETURN(const std::string canonical, PrintJson(value, -1, source));
  if (Sha256Hex(canonical) != digest) {
    return absl::DataLossError(where + "is damaged: its digest is not that of its content");
  }
  return manifest;
}

absl::StatusOr<Manifest> ReadManifest(const std::string& path) {
  const std::string file = path + "/" + kManifestName;
  absl::StatusOr<std::string> text = ReadWholeFile(file, kManifestBytesMax);
  std::error_code error;
  if (absl::IsNotFound(text.status()) && std::filesystem::is_directory(path, error)) {
    return absl::DataLossError(absl::StrCat(file, " is missing; use an older checkpoint"));
  }
  RETURN_IF_ERROR(text.status());
  return ParseManifest(*text, file);
}

bool SameFunction(const ModelConfig& a, const ModelConfig& b) {
  json first = ConfigToJson(a), second = ConfigToJson(b);
  for (const char* knob : {"aux_loss", "init_std"}) {
    first.erase(knob);
    second.erase(knob);
  }
  return first == second;
}

}  // namespace espalier::model

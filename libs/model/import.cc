// Tensors by the names of their family into the parameters of our model. Ours are Glm4Moe's names;
// the other families differ in the experts (Mixtral: block_sparse_moe and w1, w3, w2) or write all
// experts of a layer as one tensor.
#include "libs/model/import.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint_io.h"
#include "libs/model/checkpoint_json.h"
#include "libs/model/checkpoint_manifest.h"
#include "libs/model/host_parameters.h"
#include "libs/model/safetensors.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

using nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr uint64_t kIndexBytesMax = uint64_t{1} << 30;
constexpr int kIndexDepthMax = 4;

// All tensors of a checkpoint, whichever files they lie in. Files are opened on first use.
class TensorFolder {
 public:
  static absl::StatusOr<TensorFolder> Open(const std::string& directory) {
    TensorFolder folder(directory);
    struct stat status;
    if (stat((directory + "/" + kIndexFile).c_str(), &status) == 0) {
      RETURN_IF_ERROR(folder.ReadIndex());
      return folder;
    }
    if (stat((directory + "/" + kSingleFile).c_str(), &status) != 0) {
      return absl::NotFoundError(absl::StrCat(directory, " has neither ", kSingleFile, " nor ",
                                              kIndexFile, "; save the model as safetensors"));
    }
    ASSIGN_OR_RETURN(const SafetensorsReader* reader, folder.File(kSingleFile));
    for (const std::string& name : reader->names()) folder.file_of_[name] = kSingleFile;
    return folder;
  }

  bool Contains(const std::string& name) const { return file_of_.contains(name); }
  const std::map<std::string, std::string>& tensors() const { return file_of_; }
  const std::string& directory() const { return directory_; }

  absl::Status Read(const std::string& name, const std::vector<int64_t>& shape, int64_t offset,
                    std::span<float> out) {
    const auto file = file_of_.find(name);
    if (file == file_of_.end()) {
      return absl::DataLossError(absl::StrCat(directory_, " has no tensor ", name));
    }
    ASSIGN_OR_RETURN(const SafetensorsReader* reader, File(file->second));
    return reader->ReadFloats(name, shape, offset, out);
  }

 private:
  explicit TensorFolder(std::string directory) : directory_(std::move(directory)) {}

  absl::Status ReadIndex() {
    const std::string path = directory_ + "/" + kIndexFile;
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kIndexBytesMax));
    ASSIGN_OR_RETURN(const json index, ParseUntrustedJson(text, kIndexDepthMax, path));
    const auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (!index.is_object() || map == index.end() || !map->is_object()) {
      return absl::DataLossError(path + ": weight_map is missing");
    }
    for (const auto& [name, file] : map->items()) {
      // A name alone: an index cannot lead outside its folder.
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos ||
          file.get<std::string>().empty()) {
        return absl::DataLossError(
            absl::StrCat(path, ": ", name, " lies in no file of the folder"));
      }
      file_of_[name] = file.get<std::string>();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const SafetensorsReader*> File(const std::string& file) {
    std::unique_ptr<SafetensorsReader>& reader = readers_[file];
    if (reader == nullptr) {
      ASSIGN_OR_RETURN(reader, SafetensorsReader::Open(directory_ + "/" + file));
    }
    return reader.get();
  }

  std::string directory_;
  std::map<std::string, std::string> file_of_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> readers_;
};

// What a parameter of ours is: which part of which layer.
struct Place {
  int layer = -1, expert = -1;
  std::string part;  // behind "model.layers.N.", or behind "model.layers.N.mlp.experts.M.", or the
                     // whole name
};

Place PlaceOf(const std::string& name) {
  Place place;
  int used = 0;
  if (std::sscanf(name.c_str(), "model.layers.%d.mlp.experts.%d.%n", &place.layer, &place.expert,
                  &used) == 2 &&
      used > 0) {
    place.part = name.substr(used);
    return place;
  }
  place.expert = -1;
  used = 0;
  if (std::sscanf(name.c_str(), "model.layers.%d.%n", &place.layer, &used) == 1 && used > 0) {
    place.part = name.substr(used);
    return place;
  }
  return {.part = name};
}

// Reads one checkpoint of a family into a model.
class Importer {
 public:
  Importer(Model<float>& model, ModelFamily family, TensorFolder& folder)
      : model_(model), config_(model.config()), family_(family), folder_(folder) {}

  absl::Status Run() {
    RETURN_IF_ERROR(CheckNames());
    const HostParameters host(model_);
    RETURN_IF_ERROR(host.status());
    for (Parameter<float>* parameter : model_.parameters()) {
      RETURN_IF_ERROR(ReadParameter(*parameter));
      parameter->moment1.clear();
      parameter->moment2.clear();
    }
    for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
      RETURN_IF_ERROR(ReadSelectionBias(layer));
    }
    return model_.StoreParameters();
  }

 private:
  bool mixtral() const { return family_ == ModelFamily::kMixtral; }
  static std::string LayerName(int layer) { return absl::StrCat("model.layers.", layer, "."); }

  // Where the experts of a layer stand: transformers 5 says mlp. in memory and block_sparse_moe. on
  // disk for Mixtral.
  std::string MoePrefix(int layer) const {
    const std::string own = LayerName(layer) + "block_sparse_moe.";
    if (mixtral() && folder_.Contains(own + "gate.weight")) return own;
    return LayerName(layer) + "mlp.";
  }

  absl::Status ReadParameter(Parameter<float>& parameter) {
    const Place place = PlaceOf(parameter.name);
    if (place.expert >= 0) return ReadExpert(place, parameter);
    if (place.part == "mlp.gate.weight") return ReadRouter(place.layer, parameter);
    return folder_.Read(parameter.name, parameter.shape, 0, parameter.value);
  }

  absl::Status ReadExpert(const Place& place, Parameter<float>& parameter) {
    const std::string prefix = MoePrefix(place.layer) + "experts.";
    const bool down = place.part == "down_proj.weight", up = place.part == "up_proj.weight";
    const int64_t experts = config_.experts, inner = config_.expert_width, width = config_.width;
    const std::string fused = prefix + (down ? "down_proj" : "gate_up_proj");
    if (folder_.Contains(fused)) {
      if (down) {
        return folder_.Read(fused, {experts, width, inner}, place.expert * width * inner,
                            parameter.value);
      }
      return folder_.Read(fused, {experts, 2 * inner, width},
                          (2 * place.expert + (up ? 1 : 0)) * inner * width, parameter.value);
    }
    const std::string part = !mixtral() ? place.part
                             : down     ? "w2.weight"
                             : up       ? "w3.weight"
                                        : "w1.weight";
    return folder_.Read(absl::StrCat(prefix, place.expert, ".", part), parameter.shape, 0,
                        parameter.value);
  }

  // Rows of the experts in the layout.
  absl::Status ReadRouter(int layer, Parameter<float>& parameter) {
    const std::vector<int>& ids = model_.layout().layers[layer].ids;
    const std::span<float> values(parameter.value);
    for (size_t row = 0; row < ids.size(); ++row) {
      RETURN_IF_ERROR(folder_.Read(
          MoePrefix(layer) + "gate.weight", {config_.experts, config_.width},
          int64_t{ids[row]} * config_.width, values.subspan(row * config_.width, config_.width)));
    }
    return absl::OkStatus();
  }

  absl::Status ReadSelectionBias(int layer) {
    std::vector<float>& bias = model_.selection_bias(layer);
    std::fill(bias.begin(), bias.end(), 0.0f);
    if (family_ != ModelFamily::kGlm4Moe) return absl::OkStatus();
    std::vector<float> all(config_.experts);
    RETURN_IF_ERROR(
        folder_.Read(MoePrefix(layer) + "gate.e_score_correction_bias", {config_.experts}, 0, all));
    const std::vector<int>& ids = model_.layout().layers[layer].ids;
    for (size_t i = 0; i < ids.size(); ++i) bias[i] = all[ids[i]];
    return absl::OkStatus();
  }

  // A tensor that the model has no place for (a bias, another layer) means another function:
  // refused.
  absl::Status CheckNames() const {
    for (const auto& [name, file] : folder_.tensors()) {
      if (Known(name)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(folder_.directory(), "/", file, ": tensor ", name,
                       " has no place in a model of this config.json; import computes nothing with "
                       "it, so that the checkpoint is refused"));
    }
    return absl::OkStatus();
  }

  bool Known(const std::string& name) const {
    static const std::set<std::string>* const kTop = new std::set<std::string>{
        "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    static const std::set<std::string>* const kLayer = new std::set<std::string>{
        "input_layernorm.weight",  "post_attention_layernorm.weight", "self_attn.q_proj.weight",
        "self_attn.k_proj.weight", "self_attn.v_proj.weight",         "self_attn.o_proj.weight"};
    if (kTop->contains(name) || absl::EndsWith(name, "rotary_emb.inv_freq")) return true;
    const Place place = PlaceOf(name);
    if (place.layer < 0 || place.layer >= config_.layers) return false;
    const std::string part = name.substr(LayerName(place.layer).size());
    if (kLayer->contains(part)) return true;
    if (part == "self_attn.q_norm.weight" || part == "self_attn.k_norm.weight") {
      return config_.qk_norm != QkNorm::kNone;
    }
    if (!config_.IsMoe(place.layer)) return IsFfn(part, "mlp.");
    if (part == "mlp.gate.e_score_correction_bias") return family_ == ModelFamily::kGlm4Moe;
    if (IsFfn(part, "mlp.shared_experts.")) return config_.shared_expert_width > 0;
    const std::string moe = MoePrefix(place.layer).substr(LayerName(place.layer).size());
    if (part == moe + "gate.weight") return true;
    const std::string experts = moe + "experts.";
    if (!absl::StartsWith(part, experts)) return false;
    const std::string rest = part.substr(experts.size());
    if (rest == "gate_up_proj" || rest == "down_proj") return true;
    int expert = -1, used = 0;
    if (std::sscanf(rest.c_str(), "%d.%n", &expert, &used) != 1 || used == 0) return false;
    if (expert < 0 || expert >= config_.experts) return false;
    const std::string projection = rest.substr(used);
    if (!mixtral()) return IsFfn(projection, "");
    return projection == "w1.weight" || projection == "w2.weight" || projection == "w3.weight";
  }

  static bool IsFfn(const std::string& part, const std::string& prefix) {
    return part == prefix + "gate_proj.weight" || part == prefix + "up_proj.weight" ||
           part == prefix + "down_proj.weight";
  }

  Model<float>& model_;
  const ModelConfig& config_;
  const ModelFamily family_;
  TensorFolder& folder_;
};

}  // namespace

absl::Status ImportWeights(Model<float>& model, const std::string& directory) {
  ASSIGN_OR_RETURN(const ImportedModel imported, ReadImportedConfig(directory));
  if (!SameFunction(model.config(), imported.config)) {
    return absl::FailedPreconditionError(absl::StrCat(
        directory, " holds a model of another configuration than the one that it is read into"));
  }
  ASSIGN_OR_RETURN(TensorFolder folder, TensorFolder::Open(directory));
  return Importer(model, imported.family, folder).Run();
}

}  // namespace espalier::model

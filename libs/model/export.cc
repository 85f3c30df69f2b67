// Our names are Glm4Moe's already, up to the experts' numbers, which become consecutive in each
// layer; OLMoE and Qwen3-MoE have the same ones, Mixtral other names for its experts.
#include "libs/model/export.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint_io.h"
#include "libs/model/export_config.h"
#include "libs/model/host_parameters.h"
#include "libs/model/safetensors.h"
#include "libs/observe/log.h"

namespace espalier::model {
namespace {

// Far below any score (at most 1) plus a selection bias, and finite in fp32 and bf16.
constexpr float kNeverChosen = -1e9f;

std::string MlpPrefix(int layer) { return absl::StrCat("model.layers.", layer, ".mlp."); }

// The tensors of one rank's shard: views of the model's parameters, and what had to be made. Views
// die with the next change of the model.
class ShardBuilder {
 public:
  ShardBuilder(Model<float>& model, const ExportShape& shape)
      : model_(model), shape_(shape), zeros_(SharedWidth() * width()) {}

  void AddAll() {
    const bool root = model_.communicator().rank() == 0;
    for (const Parameter<float>* parameter : model_.parameters()) {
      if (parameter->expert) {
        AddExpert(*parameter);
      } else if (root) {
        AddDense(*parameter);
      }
    }
    if (!root || !glm()) return;
    for (int layer = model_.config().dense_layers; layer < model_.config().layers; ++layer) {
      AddSelectionBias(layer);
      AddPaddingExperts(layer);
      if (model_.config().shared_expert_width == 0) {
        AddZeroFfn(MlpPrefix(layer) + "shared_experts", SharedWidth());
      }
    }
  }

  absl::StatusOr<FileDigest> Write(const std::string& path) const {
    ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                     SafetensorsWriter::Create(path, infos_, {{"format", "pt"}}));
    for (const std::span<const float> values : data_) RETURN_IF_ERROR(writer->Append(values));
    return writer->Finish();
  }

  // Bytes of data and names, to be read by ParseShard.
  std::string Describe() const {
    uint64_t bytes = 0;
    for (const std::span<const float> values : data_) bytes += values.size_bytes();
    std::string text = absl::StrCat(bytes);
    for (const TensorInfo& info : infos_) absl::StrAppend(&text, "\n", info.name);
    return text;
  }

 private:
  bool glm() const { return shape_.family == ModelFamily::kGlm4Moe; }
  int64_t width() const { return model_.config().width; }
  int64_t SharedWidth() const {
    return int64_t{shape_.shared_experts} * model_.config().expert_width;
  }

  void Add(std::string name, std::vector<int64_t> shape, std::span<const float> values) {
    infos_.push_back({std::move(name), TensorType::kF32, std::move(shape)});
    data_.push_back(values);
  }

  // A matrix that starts with `values` of [rows_from, columns_from] and is zero elsewhere.
  void AddPadded(const std::string& name, std::span<const float> values, int64_t rows_from,
                 int64_t columns_from, int64_t rows, int64_t columns) {
    std::vector<float>& made = made_.emplace_back(rows * columns, 0.0f);
    for (int64_t row = 0; row < rows_from; ++row) {
      std::copy_n(values.begin() + row * columns_from, columns_from, made.begin() + row * columns);
    }
    Add(name, {rows, columns}, made);
  }

  void AddDense(const Parameter<float>& parameter) {
    const std::string& name = parameter.name;
    if (name.ends_with(".mlp.gate.weight") && !glm()) {
      AddChoosableRows(parameter);
    } else if (name.ends_with(".mlp.gate.weight")) {
      AddPadded(name, parameter.value, parameter.shape[0], width(), shape_.routed_experts, width());
    } else if (name.find(".shared_experts.") == std::string::npos) {
      Add(name, parameter.shape, parameter.value);
    } else if (name.ends_with(".down_proj.weight")) {
      AddPadded(name, parameter.value, width(), parameter.shape[1], width(), SharedWidth());
    } else {
      AddPadded(name, parameter.value, parameter.shape[0], width(), SharedWidth(), width());
    }
  }

  void AddSelectionBias(int layer) {
    const LayerLayout& layout = model_.layout().layers[layer];
    std::vector<float>& bias = made_.emplace_back(shape_.routed_experts, kNeverChosen);
    const std::vector<float>& ours = model_.selection_bias(layer);
    for (size_t i = 0; i < layout.ids.size(); ++i) {
      if (layout.masked[i] == 0) bias[i] = ours[i];
    }
    Add(MlpPrefix(layer) + "gate.e_score_correction_bias", {shape_.routed_experts}, bias);
  }

  void AddPaddingExperts(int layer) {
    const int alive = static_cast<int>(model_.layout().layers[layer].ids.size());
    for (int expert = alive; expert < shape_.routed_experts; ++expert) {
      AddZeroFfn(absl::StrCat(MlpPrefix(layer), "experts.", expert), model_.config().expert_width);
    }
  }

  void AddZeroFfn(const std::string& prefix, int64_t inner) {
    const std::span<const float> zeros(zeros_.data(), inner * width());
    Add(prefix + ".gate_proj.weight", {inner, width()}, zeros);
    Add(prefix + ".up_proj.weight", {inner, width()}, zeros);
    Add(prefix + ".down_proj.weight", {width(), inner}, zeros);
  }

  // A router of experts that are not masked.
  void AddChoosableRows(const Parameter<float>& parameter) {
    int layer = -1;
    CHECK_EQ(std::sscanf(parameter.name.c_str(), "model.layers.%d.", &layer), 1) << parameter.name;
    const std::vector<uint8_t>& masked = model_.layout().layers[layer].masked;
    std::vector<float>& rows = made_.emplace_back();
    for (size_t row = 0; row < masked.size(); ++row) {
      if (masked[row] != 0) continue;
      const auto from = parameter.value.begin() + static_cast<int64_t>(row) * width();
      rows.insert(rows.end(), from, from + width());
    }
    const bool mixtral = shape_.family == ModelFamily::kMixtral;
    Add(mixtral ? absl::StrCat("model.layers.", layer, ".block_sparse_moe.gate.weight")
                : parameter.name,
        {shape_.routed_experts, width()}, rows);
  }

  // Under its place among the exported ones instead of its original number. Without a selection bias a masked expert has no place.
  void AddExpert(const Parameter<float>& parameter) {
    const std::string& name = parameter.name;
    int layer = -1, id = -1, used = 0;
    CHECK_EQ(std::sscanf(name.c_str(), "model.layers.%d.mlp.experts.%d.%n", &layer, &id, &used), 2)
        << name;
    const LayerLayout& layout = model_.layout().layers[layer];
    const auto at = std::lower_bound(layout.ids.begin(), layout.ids.end(), id) - layout.ids.begin();
    if (!glm() && layout.masked[at] != 0) return;
    const auto place =
        glm() ? at : std::count(layout.masked.begin(), layout.masked.begin() + at, 0);
    Add(ExpertName(layer, static_cast<int>(place), name.substr(used)), parameter.shape,
        parameter.value);
  }

  std::string ExpertName(int layer, int place, const std::string& projection) const {
    if (shape_.family != ModelFamily::kMixtral) {
      return absl::StrCat(MlpPrefix(layer), "experts.", place, ".", projection);
    }
    const char* own = projection == "gate_proj.weight" ? "w1.weight"
                      : projection == "up_proj.weight" ? "w3.weight"
                                                       : "w2.weight";
    return absl::StrCat("model.layers.", layer, ".block_sparse_moe.experts.", place, ".", own);
  }

  Model<float>& model_;
  const ExportShape shape_;
  std::vector<TensorInfo> infos_;
  std::vector<std::span<const float>> data_;
  std::deque<std::vector<float>> made_;  // a deque: views into it stay valid
  const std::vector<float> zeros_;       // as many as the longest tensor of zeros has
};

std::string ShardName(int rank, int rank_count) {
  return absl::StrFormat("model-%05d-of-%05d.safetensors", rank + 1, rank_count);
}

Shard ParseShard(const std::string& description, std::string file) {
  std::vector<std::string> lines = absl::StrSplit(description, '\n');
  Shard shard{.file = std::move(file), .data_bytes = std::strtoull(lines[0].c_str(), nullptr, 10)};
  shard.tensors.assign(lines.begin() + 1, lines.end());
  return shard;
}

absl::Status WriteSmallFile(const FolderWriter& folder, const std::string& name,
                            const absl::StatusOr<std::string>& text) {
  RETURN_IF_ERROR(text.status());
  return WriteSyncedFile(folder.File(name), *text);
}

absl::Status WriteSmallFiles(const FolderWriter& folder, const Model<float>& model,
                             const ExportShape& shape, const text::Tokenizer& tokenizer,
                             const std::vector<Shard>& shards) {
  const ModelConfig& config = model.config();
  RETURN_IF_ERROR(WriteSmallFile(folder, "config.json", PrintExportConfig(config, shape)));
  RETURN_IF_ERROR(WriteSmallFile(folder, "model.safetensors.index.json", PrintShardIndex(shards)));
  RETURN_IF_ERROR(WriteSmallFile(folder, "tokenizer.json", tokenizer.ToJson()));
  RETURN_IF_ERROR(WriteSmallFile(folder, "tokenizer_config.json", PrintTokenizerConfig()));
  RETURN_IF_ERROR(WriteSmallFile(folder, "generation_config.json", PrintGenerationConfig()));
  return WriteSmallFile(folder, "espalier_experts.json",
                        PrintExpertNumbers(config, model.layout(), shape));
}

}  // namespace

absl::Status ExportHuggingFace(Model<float>& model, const text::Tokenizer& tokenizer,
                               const std::string& directory, ModelFamily family) {
  ASSIGN_OR_RETURN(const ExportShape shape,
                   ShapeForExport(model.config(), model.layout(), family));
  if (tokenizer.vocabulary() > model.config().vocabulary) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the tokenizer has ", tokenizer.vocabulary(), " tokens, the model ",
        model.config().vocabulary, "; export with the tokenizer that it was trained with"));
  }
  collective::Communicator& communicator = model.communicator();
  ASSIGN_OR_RETURN(const std::unique_ptr<FolderWriter> folder,
                   FolderWriter::Begin(communicator, directory, FolderWriter::Existing::kReplace));
  const HostParameters host(model);
  RETURN_IF_ERROR(AgreeOnStatus(communicator, host.status()));
  ShardBuilder shard(model, shape);
  shard.AddAll();
  const absl::Status mine =
      shard.Write(folder->File(ShardName(communicator.rank(), communicator.size()))).status();
  RETURN_IF_ERROR(AgreeOnStatus(communicator, mine));
  ASSIGN_OR_RETURN(const std::vector<std::string> descriptions,
                   GatherStrings(communicator, shard.Describe()));
  absl::Status written = absl::OkStatus();
  if (communicator.rank() == 0) {
    std::vector<Shard> shards;
    for (int rank = 0; rank < communicator.size(); ++rank) {
      shards.push_back(ParseShard(descriptions[rank], ShardName(rank, communicator.size())));
    }
    written = WriteSmallFiles(*folder, model, shape, tokenizer, shards);
  }
  return folder->Commit(written);
}

}  // namespace espalier::model

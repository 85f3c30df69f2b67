// Names, shapes and first values of all parameters.
#include "libs/model/weights.h"

#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/model/random.h"

namespace espalier::model {
namespace {

// Makes parameters of one kind of storage.
template <typename T>
class Shapes {
 public:
  Shapes(const ModelConfig& config, Storage storage) : config_(config), storage_(storage) {}

  Parameter<T> Make(std::string name, std::vector<int64_t> shape, bool expert) const {
    Parameter<T> parameter;
    parameter.decay = shape.size() > 1;
    parameter.name = std::move(name);
    parameter.shape = std::move(shape);
    parameter.expert = expert;
    if (storage_ == Storage::kNone) return parameter;
    parameter.value.resize(parameter.size());
    parameter.grad.resize(parameter.size());
    return parameter;
  }
  Parameter<T> Norm(const std::string& name) const { return Make(name, {config_.width}, false); }
  Parameter<T> Matrix(const std::string& name, int64_t rows, int64_t columns) const {
    return Make(name, {rows, columns}, false);
  }
  FfnWeights<T> Ffn(const std::string& prefix, int64_t inner, bool expert) const {
    return {.gate = Make(prefix + ".gate_proj.weight", {inner, config_.width}, expert),
            .up = Make(prefix + ".up_proj.weight", {inner, config_.width}, expert),
            .down = Make(prefix + ".down_proj.weight", {config_.width, inner}, expert)};
  }

 private:
  const ModelConfig& config_;
  const Storage storage_;
};

template <typename T>
LayerWeights<T> MakeLayer(const ModelConfig& config, Storage storage, int layer,
                          const LayerLayout& layout, int rank) {
  const Shapes<T> make(config, storage);
  const std::string prefix = absl::StrCat("model.layers.", layer);
  const std::string attention = prefix + ".self_attn.";
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  LayerWeights<T> weights{.input_norm = make.Norm(prefix + ".input_layernorm.weight"),
                          .q = make.Matrix(attention + "q_proj.weight", q_width, config.width),
                          .k = make.Matrix(attention + "k_proj.weight", kv_width, config.width),
                          .v = make.Matrix(attention + "v_proj.weight", kv_width, config.width),
                          .o = make.Matrix(attention + "o_proj.weight", config.width, q_width),
                          .post_norm = make.Norm(prefix + ".post_attention_layernorm.weight")};
  if (config.qk_norm != QkNorm::kNone) {
    const bool head = config.qk_norm == QkNorm::kHead;
    weights.q_norm =
        make.Make(attention + "q_norm.weight", {head ? config.head_dim : q_width}, false);
    weights.k_norm =
        make.Make(attention + "k_norm.weight", {head ? config.head_dim : kv_width}, false);
  }
  if (!config.IsMoe(layer)) {
    weights.dense = make.Ffn(prefix + ".mlp", config.dense_width, false);
    return weights;
  }
  weights.router = make.Matrix(prefix + ".mlp.gate.weight", static_cast<int64_t>(layout.ids.size()),
                               config.width);
  weights.selection_bias.assign(layout.ids.size(), T(0));
  if (config.shared_expert_width > 0) {
    weights.dense =
        make.Ffn(prefix + ".mlp.shared_experts", config.shared_expert_width, false);
  }
  for (size_t i = 0; i < layout.ids.size(); ++i) {
    if (layout.ranks[i] != rank) continue;
    weights.experts.push_back(MakeEmptyExpert<T>(config, layer, layout.ids[i], storage));
  }
  return weights;
}

template <typename T>
void ListFfn(FfnWeights<T>& ffn, std::vector<Parameter<T>*>& list) {
  if (!ffn.present()) return;
  list.insert(list.end(), {&ffn.gate, &ffn.up, &ffn.down});
}

// Projections onto the residual stream start smaller, so that its variance does not grow with
// depth.
bool IsResidual(const std::string& name) {
  return absl::EndsWith(name, ".o_proj.weight") || absl::EndsWith(name, ".down_proj.weight");
}

}  // namespace

template <typename T>
Weights<T> MakeShapes(const ModelConfig& config, const ExpertLayout& layout, int rank,
                      Storage storage) {
  const Shapes<T> make(config, storage);
  Weights<T> weights{
      .embedding = make.Matrix("model.embed_tokens.weight", config.vocabulary, config.width),
      .final_norm = make.Norm("model.norm.weight")};
  if (!config.tie_embeddings)
    weights.lm_head = make.Matrix("lm_head.weight", config.vocabulary, config.width);
  for (int layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(
        MakeLayer<T>(config, storage, layer, layout.layers[layer], rank));
  }
  return weights;
}

template <typename T>
void DrawParameter(const ModelConfig& config, const ExpertLayout& layout, uint64_t seed,
                   Parameter<T>& parameter) {
  parameter.value.resize(parameter.size());
  const std::string& name = parameter.name;
  if (parameter.shape.size() == 1) {
    parameter.value.assign(parameter.value.size(), T(1));
    return;
  }
  int layer = 0;
  if (absl::EndsWith(name, ".mlp.gate.weight") &&
      std::sscanf(name.c_str(), "model.layers.%d.", &layer) == 1) {
    // One row an expert, drawn by the expert's own number: what is alive does not change the others.
    const std::vector<int>& ids = layout.layers[layer].ids;
    for (size_t row = 0; row < ids.size(); ++row) {
      CounterRandom(seed, absl::StrCat(name, ".", ids[row]))
          .FillNormal(parameter.value.data() + row * config.width, config.width, config.init_std);
    }
    return;
  }
  const double deviation =
      IsResidual(name) ? config.init_std / std::sqrt(2.0 * config.layers) : config.init_std;
  CounterRandom(seed, name).FillNormal(parameter.value.data(), parameter.size(), deviation);
}

template <typename T>
Weights<T> MakeWeights(const ModelConfig& config, const ExpertLayout& layout, int rank,
                       uint64_t seed, base::ThreadPool& pool) {
  Weights<T> weights = MakeShapes<T>(config, layout, rank, Storage::kArrays);
  const std::vector<Parameter<T>*> list = ListParameters(weights);
  pool.ForTasks(static_cast<int64_t>(list.size()),
                [&](int64_t i, int) { DrawParameter(config, layout, seed, *list[i]); });
  return weights;
}

template <typename T>
std::unique_ptr<ExpertWeights<T>> MakeEmptyExpert(const ModelConfig& config, int layer, int id,
                                                  Storage storage) {
  auto expert = std::make_unique<ExpertWeights<T>>();
  expert->id = id;
  expert->ffn = Shapes<T>(config, storage)
                    .Ffn(absl::StrCat("model.layers.", layer, ".mlp.experts.", id),
                         config.expert_width, true);
  return expert;
}

template <typename T>
std::vector<Parameter<T>*> ListParameters(Weights<T>& weights) {
  std::vector<Parameter<T>*> list = {&weights.embedding};
  for (LayerWeights<T>& layer : weights.layers) {
    list.insert(list.end(),
                {&layer.input_norm, &layer.q, &layer.k, &layer.v, &layer.o, &layer.post_norm});
    if (!layer.q_norm.shape.empty()) list.insert(list.end(), {&layer.q_norm, &layer.k_norm});
    if (!layer.router.shape.empty()) list.push_back(&layer.router);
    ListFfn(layer.dense, list);
  }
  list.push_back(&weights.final_norm);
  if (!weights.lm_head.shape.empty()) list.push_back(&weights.lm_head);
  for (LayerWeights<T>& layer : weights.layers) {
    for (const auto& expert : layer.experts) ListFfn(expert->ffn, list);
  }
  return list;
}

#define ESPALIER_INSTANTIATE(T)                                                                   \
  template Weights<T> MakeShapes<T>(const ModelConfig&, const ExpertLayout&, int, Storage);       \
  template void DrawParameter<T>(const ModelConfig&, const ExpertLayout&, uint64_t,               \
                                 Parameter<T>&);                                                  \
  template Weights<T> MakeWeights<T>(const ModelConfig&, const ExpertLayout&, int, uint64_t,      \
                                     base::ThreadPool&);                                          \
  template std::unique_ptr<ExpertWeights<T>> MakeEmptyExpert<T>(const ModelConfig&, int, int,     \
                                                                Storage);                         \
  template std::vector<Parameter<T>*> ListParameters<T>(Weights<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

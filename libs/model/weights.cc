// Names, shapes and first values of all parameters.
#include "libs/model/weights.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/model/random.h"

namespace espalier::model {
namespace {

template <typename T>
Parameter<T> MakeParameter(std::string name, std::vector<int64_t> shape, bool expert) {
  Parameter<T> parameter;
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  parameter.decay = shape.size() > 1;
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  parameter.value.resize(size);
  parameter.grad.resize(size);
  parameter.expert = expert;
  return parameter;
}

// Makes parameters and draws their values.
template <typename T>
class Initializer {
 public:
  Initializer(const ModelConfig& config, uint64_t seed) : config_(config), seed_(seed) {}

  Parameter<T> Norm(const std::string& name) const {
    Parameter<T> parameter = MakeParameter<T>(name, {config_.width}, false);
    parameter.value.assign(parameter.value.size(), T(1));
    return parameter;
  }
  Parameter<T> Matrix(const std::string& name, int64_t rows, int64_t columns) const {
    Parameter<T> parameter = MakeParameter<T>(name, {rows, columns}, false);
    Draw(parameter, config_.init_std);
    return parameter;
  }
  // Projections onto the residual stream start smaller, so that its variance does not grow with
  // depth.
  Parameter<T> Residual(const std::string& name, int64_t rows, int64_t columns) const {
    Parameter<T> parameter = MakeParameter<T>(name, {rows, columns}, false);
    Draw(parameter, ResidualStd());
    return parameter;
  }
  FfnWeights<T> Ffn(const std::string& prefix, int64_t inner) const {
    return {.gate = Matrix(prefix + ".gate_proj.weight", inner, config_.width),
            .up = Matrix(prefix + ".up_proj.weight", inner, config_.width),
            .down = Residual(prefix + ".down_proj.weight", config_.width, inner)};
  }
  void DrawExpert(ExpertWeights<T>& expert) const {
    Draw(expert.ffn.gate, config_.init_std);
    Draw(expert.ffn.up, config_.init_std);
    Draw(expert.ffn.down, ResidualStd());
  }
  // One row an expert, drawn by the expert's own number: what is alive does not change the others.
  Parameter<T> Router(const std::string& name, const LayerLayout& layout) const {
    Parameter<T> parameter =
        MakeParameter<T>(name, {static_cast<int64_t>(layout.ids.size()), config_.width}, false);
    for (size_t row = 0; row < layout.ids.size(); ++row) {
      CounterRandom(seed_, absl::StrCat(name, ".", layout.ids[row]))
          .FillNormal(parameter.value.data() + row * config_.width, config_.width,
                      config_.init_std);
    }
    return parameter;
  }

 private:
  double ResidualStd() const { return config_.init_std / std::sqrt(2.0 * config_.layers); }
  void Draw(Parameter<T>& parameter, double deviation) const {
    CounterRandom(seed_, parameter.name)
        .FillNormal(parameter.value.data(), parameter.size(), deviation);
  }

  const ModelConfig& config_;
  uint64_t seed_;
};

template <typename T>
LayerWeights<T> MakeLayer(const ModelConfig& config, const Initializer<T>& init, int layer,
                          const LayerLayout& layout, int rank) {
  const std::string prefix = absl::StrCat("model.layers.", layer);
  const std::string attention = prefix + ".self_attn.";
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  LayerWeights<T> weights{.input_norm = init.Norm(prefix + ".input_layernorm.weight"),
                          .q = init.Matrix(attention + "q_proj.weight", q_width, config.width),
                          .k = init.Matrix(attention + "k_proj.weight", kv_width, config.width),
                          .v = init.Matrix(attention + "v_proj.weight", kv_width, config.width),
                          .o = init.Residual(attention + "o_proj.weight", config.width, q_width),
                          .post_norm = init.Norm(prefix + ".post_attention_layernorm.weight")};
  if (!config.IsMoe(layer)) {
    weights.dense = init.Ffn(prefix + ".mlp", config.dense_width);
    return weights;
  }
  weights.router = init.Router(prefix + ".mlp.gate.weight", layout);
  weights.selection_bias.assign(layout.ids.size(), T(0));
  if (config.shared_expert_width > 0) {
    weights.dense = init.Ffn(prefix + ".mlp.shared_experts", config.shared_expert_width);
  }
  for (size_t i = 0; i < layout.ids.size(); ++i) {
    if (layout.ranks[i] != rank) continue;
    weights.experts.push_back(MakeEmptyExpert<T>(config, layer, layout.ids[i]));
    init.DrawExpert(*weights.experts.back());
  }
  return weights;
}

template <typename T>
void ListFfn(FfnWeights<T>& ffn, std::vector<Parameter<T>*>& list) {
  if (!ffn.present()) return;
  list.insert(list.end(), {&ffn.gate, &ffn.up, &ffn.down});
}

}  // namespace

template <typename T>
Weights<T> MakeWeights(const ModelConfig& config, const ExpertLayout& layout, int rank,
                       uint64_t seed) {
  const Initializer<T> init(config, seed);
  Weights<T> weights{
      .embedding = init.Matrix("model.embed_tokens.weight", config.vocabulary, config.width),
      .final_norm = init.Norm("model.norm.weight")};
  if (!config.tie_embeddings)
    weights.lm_head = init.Matrix("lm_head.weight", config.vocabulary, config.width);
  for (int layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(MakeLayer(config, init, layer, layout.layers[layer], rank));
  }
  return weights;
}

template <typename T>
std::unique_ptr<ExpertWeights<T>> MakeEmptyExpert(const ModelConfig& config, int layer, int id) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".mlp.experts.", id);
  auto expert = std::make_unique<ExpertWeights<T>>();
  expert->id = id;
  expert->ffn.gate =
      MakeParameter<T>(prefix + ".gate_proj.weight", {config.expert_width, config.width}, true);
  expert->ffn.up =
      MakeParameter<T>(prefix + ".up_proj.weight", {config.expert_width, config.width}, true);
  expert->ffn.down =
      MakeParameter<T>(prefix + ".down_proj.weight", {config.width, config.expert_width}, true);
  return expert;
}

template <typename T>
std::vector<Parameter<T>*> ListParameters(Weights<T>& weights) {
  std::vector<Parameter<T>*> list = {&weights.embedding};
  for (LayerWeights<T>& layer : weights.layers) {
    list.insert(list.end(),
                {&layer.input_norm, &layer.q, &layer.k, &layer.v, &layer.o, &layer.post_norm});
    if (!layer.router.value.empty()) list.push_back(&layer.router);
    ListFfn(layer.dense, list);
  }
  list.push_back(&weights.final_norm);
  if (!weights.lm_head.value.empty()) list.push_back(&weights.lm_head);
  for (LayerWeights<T>& layer : weights.layers) {
    for (const auto& expert : layer.experts) ListFfn(expert->ffn, list);
  }
  return list;
}

#define ESPALIER_INSTANTIATE(T)                                                                \
  template Weights<T> MakeWeights<T>(const ModelConfig&, const ExpertLayout&, int, uint64_t);  \
  template std::unique_ptr<ExpertWeights<T>> MakeEmptyExpert<T>(const ModelConfig&, int, int); \
  template std::vector<Parameter<T>*> ListParameters<T>(Weights<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

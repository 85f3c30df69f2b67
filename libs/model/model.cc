// Creation of a model and its small methods.
#include "libs/model/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/matmul.h"
#include "libs/base/status_macros.h"
#include "libs/model/model_impl.h"

namespace espalier::model {
namespace {

absl::Status AtLeast(const char* field, int value, int least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model.", field, " is ", value, "; it must be at least ", least));
}

absl::Status ValidateConfig(const ModelConfig& config) {
  RETURN_IF_ERROR(AtLeast("vocabulary", config.vocabulary, 1));
  RETURN_IF_ERROR(AtLeast("layers", config.layers, 1));
  RETURN_IF_ERROR(AtLeast("width", config.width, 1));
  RETURN_IF_ERROR(AtLeast("heads", config.heads, 1));
  RETURN_IF_ERROR(AtLeast("kv_heads", config.kv_heads, 1));
  RETURN_IF_ERROR(AtLeast("head_dim", config.head_dim, 2));
  RETURN_IF_ERROR(AtLeast("dense_layers", config.dense_layers, 0));
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model.heads is ", config.heads, "; it must be a multiple of kv_heads, ", config.kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.head_dim is ", config.head_dim, "; it must be even"));
  }
  if (config.dense_layers > 0) RETURN_IF_ERROR(AtLeast("dense_width", config.dense_width, 1));
  if (config.dense_layers < config.layers) {
    RETURN_IF_ERROR(AtLeast("expert_width", config.expert_width, 1));
    RETURN_IF_ERROR(AtLeast("top_k", config.top_k, 1));
    RETURN_IF_ERROR(AtLeast("experts", config.experts, config.top_k));
  }
  return absl::OkStatus();
}

}  // namespace

template <typename T>
absl::StatusOr<std::unique_ptr<Model<T>>> Model<T>::Create(const ModelConfig& config,
                                                           const ExpertLayout& layout,
                                                           collective::Communicator* communicator,
                                                           uint64_t seed, int threads) {
  RETURN_IF_ERROR(ValidateConfig(config));
  RETURN_IF_ERROR(ValidateLayout(config, layout, communicator->size()));
  RETURN_IF_ERROR(AtLeast("threads", threads, 1));
  kernels::LimitBlasThreads();
  return std::unique_ptr<Model<T>>(
      std::make_unique<ModelImpl<T>>(config, layout, communicator, seed, threads));
}

template <typename T>
ModelImpl<T>::ModelImpl(const ModelConfig& config, const ExpertLayout& layout,
                        collective::Communicator* communicator, uint64_t seed, int threads)
    : config_(config),
      layout_(layout),
      communicator_(communicator),
      pool_(threads),
      weights_(MakeWeights<T>(config, layout, communicator->rank(), seed)),
      rope_(config.head_dim, config.rope_theta),
      activations_(config.layers) {
  MakeExchanges();
  FreezeMasked();
  ClearRouteCounts();
}

template <typename T>
void ModelImpl<T>::MakeExchanges() {
  exchanges_.clear();
  for (const LayerLayout& layer : layout_.layers) exchanges_.emplace_back(layer, communicator_);
}

template <typename T>
void ModelImpl<T>::ClearRouteCounts() {
  route_counts_.resize(config_.layers);
  for (int layer = 0; layer < config_.layers; ++layer) {
    route_counts_[layer].assign(layout_.layers[layer].ids.size(), 0);
  }
  output_norms_ = measure_norms_ ? route_counts_ : std::vector<LayerOutputNorms>();
}

template <typename T>
void ModelImpl<T>::MeasureOutputNorms(bool on) {
  measure_norms_ = on;
  ClearRouteCounts();
}

template <typename T>
int64_t ModelImpl<T>::TotalParameters() const {
  int64_t total = 0;
  for (const Parameter<T>* parameter : ListParameters(const_cast<Weights<T>&>(weights_))) {
    if (!parameter->expert) total += parameter->size();
  }
  for (const LayerLayout& layer : layout_.layers) {
    total += static_cast<int64_t>(layer.ids.size()) * config_.ExpertParams();
  }
  return total;
}

template <typename T>
void ModelImpl<T>::ZeroGradients() {
  const std::vector<Parameter<T>*> list = parameters();
  pool_.ForTasks(static_cast<int64_t>(list.size()), [&](int64_t i, int) {
    std::fill(list[i]->grad.begin(), list[i]->grad.end(), T(0));
  });
}

template <typename T>
absl::Status ModelImpl<T>::Agree(const absl::Status& mine) {
  if (communicator_->size() == 1) return mine;
  int64_t fine = mine.ok() ? 1 : 0;
  RETURN_IF_ERROR(communicator_->AllReduceMin(std::span<int64_t>(&fine, 1)));
  if (!mine.ok() || fine == 1) return mine;
  return absl::InvalidArgumentError("another rank refused its input; see its error");
}

template class Model<float>;
template class Model<double>;
#define ESPALIER_INSTANTIATE(T)                                               \
  template ModelImpl<T>::ModelImpl(const ModelConfig&, const ExpertLayout&,   \
                                   collective::Communicator*, uint64_t, int); \
  template void ModelImpl<T>::MakeExchanges();                                \
  template void ModelImpl<T>::ClearRouteCounts();                             \
  template void ModelImpl<T>::MeasureOutputNorms(bool);                       \
  template int64_t ModelImpl<T>::TotalParameters() const;                     \
  template void ModelImpl<T>::ZeroGradients();                                \
  template absl::Status ModelImpl<T>::Agree(const absl::Status&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

// Creation of a model and its small methods.
#include "libs/model/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/matmul.h"
#include "libs/base/status_macros.h"
#include "libs/model/batch.h"
#include "libs/model/model_impl.h"

namespace espalier::model {
template <typename T>
absl::StatusOr<std::unique_ptr<Model<T>>> Model<T>::Create(const ModelConfig& config,
                                                           const ExpertLayout& layout,
                                                           collective::Communicator* communicator,
                                                           uint64_t seed, int threads) {
  RETURN_IF_ERROR(ValidateConfig(config));
  RETURN_IF_ERROR(ValidateLayout(config, layout, communicator->size()));
  if (threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", threads, "; it must be at least 1"));
  }
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
      weights_(MakeWeights<T>(config, layout, communicator->rank(), seed, pool_)),
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
  return AgreeOnInput(*communicator_, mine);
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

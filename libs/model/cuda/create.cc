// Creation of a model on a GPU, its tables and its small methods.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/model/batch.h"
#include "libs/model/cuda/cuda_model.h"
#include "libs/observe/log.h"

namespace espalier::model {

using kernels::cuda::Memory;

template <typename T>
absl::StatusOr<std::unique_ptr<Model<float>>> CudaModel<T>::Create(
    const ModelConfig& config, const ExpertLayout& layout, collective::Communicator* communicator,
    uint64_t seed, const ModelOptions& options) {
  RETURN_IF_ERROR(ValidateConfig(config));
  RETURN_IF_ERROR(ValidateLayout(config, layout, communicator->size()));
  if (config.head_dim > kernels::cuda::kHeadDimMax) {
    return absl::InvalidArgumentError(absl::StrCat("model.head_dim is ", config.head_dim,
                                                   "; on a GPU it may be at most ",
                                                   kernels::cuda::kHeadDimMax));
  }
  if (config.experts > kernels::cuda::kRouterExperts) {
    return absl::InvalidArgumentError(absl::StrCat("model.experts is ", config.experts,
                                                   "; on a GPU they may be at most ",
                                                   kernels::cuda::kRouterExperts));
  }
  if (config.top_k > kernels::cuda::kRouterTopK) {
    return absl::InvalidArgumentError(absl::StrCat("model.top_k is ", config.top_k,
                                                   "; on a GPU it may be at most ",
                                                   kernels::cuda::kRouterTopK));
  }
  std::unique_ptr<CudaModel> model(new CudaModel(config, layout, communicator, options));
  RETURN_IF_ERROR(model->SetUp(seed));
  return std::unique_ptr<Model<float>>(std::move(model));
}

template <typename T>
absl::Status CudaModel<T>::SetUp(uint64_t seed) {
  ASSIGN_OR_RETURN(device_, kernels::cuda::UseDevice(options_.device_index));
  ASSIGN_OR_RETURN(stream_owner_, kernels::cuda::MakeStream());
  stream_ = stream_owner_.get();
  timeline_ = std::make_unique<EventTimeline>(stream_);
  ASSIGN_OR_RETURN(sent_, kernels::cuda::MakeEvent());
  constexpr bool kBf16 = !std::is_same_v<T, float>;
  // The choice among measured algorithms could differ from run to run, and with it the last bits of fp32.
  ASSIGN_OR_RETURN(matmul_, kernels::cuda::Matmul::Create(/*tune=*/kBf16));
  if (kBf16) {
    ASSIGN_OR_RETURN(attention_, kernels::cuda::CudnnAttention::Create());
  }
  host_ = MakeShapes<float>(config_, layout_, communicator_->rank(), Storage::kNone);
  ASSIGN_OR_RETURN(weights_, PlaceWeights<T>(config_, host_, stream_));
  activations_ = std::vector<CudaActivations<T>>(config_.layers);
  RETURN_IF_ERROR(ConnectPeers());
  inputs_ = std::vector<Buffer<T>>(config_.layers);
  RETURN_IF_ERROR(TakeLayout());

  // Some gigabytes of first values at a time: drawn by all threads, then sent.
  const std::vector<Placed<T>> places = ListPlaces(config_, host_, weights_);
  constexpr int64_t kElementsAtOnce = int64_t{1} << 28;
  for (size_t begin = 0; begin < places.size();) {
    size_t end = begin;
    for (int64_t elements = 0; end < places.size() && (end == begin || elements < kElementsAtOnce);
         ++end) {
      elements += places[end].host->size();
    }
    pool_.ForTasks(static_cast<int64_t>(end - begin), [&](int64_t i, int) {
      DrawParameter(config_, layout_, seed, *places[begin + i].host);
    });
    for (; begin < end; ++begin) {
      const Placed<T>& place = places[begin];
      const Slice slice{place.offset, place.host->size()};
      RETURN_IF_ERROR(TakeMaster(*place.arena, slice, place.host->value.data()));
      RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
      std::vector<float>().swap(place.host->value);  // assigning {} would keep the memory
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::ConnectPeers() {
  if (communicator_->size() == 1) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<PeerExchange<T>>> peers = absl::FailedPreconditionError(
      "it was asked for by ModelOptions::peer_memory = false");
  if (options_.peer_memory) {
    peers = PeerExchange<T>::Create(config_, communicator_, weights_.dense.gradient(), stream_);
  }
  if (peers.ok()) {
    peers_ = *std::move(peers);
    LOG(INFO) << "exchange_by_device_memory rank=" << communicator_->rank() << " way=\""
              << peers_->description() << "\"";
    return absl::OkStatus();
  }
  if (!absl::IsFailedPrecondition(peers.status())) return peers.status();
  LOG(INFO) << "exchange_through_host rank=" << communicator_->rank() << " reason=\""
            << peers.status().message() << "\"";
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::TakeLayout() {
  const int64_t cells = int64_t{config_.layers} * config_.experts;
  RETURN_IF_ERROR(bias_.Reserve(cells));
  RETURN_IF_ERROR(masked_.Reserve(cells));
  RETURN_IF_ERROR(group_of_.Reserve(cells));
  RETURN_IF_ERROR(counts_.Reserve(cells));
  RETURN_IF_ERROR(norm_sums_.Reserve(cells));
  RETURN_IF_ERROR(aux_sum_.Reserve(1));
  RETURN_IF_ERROR(expert_squares_.Reserve(squares_size()));
  RETURN_IF_CUDA_ERROR(
      cudaMemsetAsync(expert_squares_.data(), 0, squares_size() * sizeof(double), stream_));
  exchanges_.clear();
  std::vector<uint8_t> masked(cells, 0);
  std::vector<int32_t> group_of(cells, 0);
  for (int layer = 0; layer < config_.layers; ++layer) {
    const LayerLayout& layout = layout_.layers[layer];
    exchanges_.emplace_back(layout, communicator_);
    const int64_t at = int64_t{layer} * config_.experts;
    std::copy(layout.masked.begin(), layout.masked.end(), masked.begin() + at);
    const auto groups = exchanges_.back().group_of();
    std::copy(groups.begin(), groups.end(), group_of.begin() + at);
    if (!config_.IsMoe(layer)) continue;
    // As the CPU model says it: rows whose value and moments no optimizer may change.
    LayerWeights<float>& weights = host_.layers[layer];
    const bool any = std::any_of(layout.masked.begin(), layout.masked.end(),
                                 [](uint8_t value) { return value != 0; });
    weights.router.frozen_rows = any ? layout.masked : std::vector<uint8_t>();
  }
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(masked_.data(), masked.data(), cells, cudaMemcpyHostToDevice, stream_));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(group_of_.data(), group_of.data(), cells * sizeof(int32_t),
                                       cudaMemcpyHostToDevice, stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (peers_ != nullptr) RETURN_IF_ERROR(peers_->TakeLayout(layout_));
  bias_sent_.clear();
  route_counts_.assign(config_.layers, {});
  for (int layer = 0; layer < config_.layers; ++layer) route_counts_[layer].assign(experts(layer), 0);
  output_norms_ = measure_norms_ ? route_counts_ : std::vector<LayerOutputNorms>();
  return absl::OkStatus();
}

template <typename T>
int64_t CudaModel<T>::TotalParameters() const {
  int64_t total = 0;
  for (const Parameter<float>* parameter : ListParameters(const_cast<Weights<float>&>(host_))) {
    if (!parameter->expert) total += parameter->size();
  }
  for (const LayerLayout& layer : layout_.layers) {
    total += static_cast<int64_t>(layer.ids.size()) * config_.ExpertParams();
  }
  return total;
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::StatusOr<std::unique_ptr<Model<float>>> CudaModel<T>::Create(                   \
      const ModelConfig&, const ExpertLayout&, collective::Communicator*, uint64_t,              \
      const ModelOptions&);                                                                      \
  template absl::Status CudaModel<T>::TakeLayout();                                              \
  template int64_t CudaModel<T>::TotalParameters() const;
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

absl::StatusOr<std::string> DescribeDevice(Device device, int index) {
  if (device == Device::kCpu) return "cpu";
  ASSIGN_OR_RETURN(const kernels::cuda::DeviceInfo info, kernels::cuda::UseDevice(index));
  return absl::StrCat(info.name, ", ", info.memory_bytes >> 30, " GiB");
}

absl::StatusOr<std::unique_ptr<Model<float>>> CreateModel(const ModelConfig& config,
                                                          const ExpertLayout& layout,
                                                          collective::Communicator* communicator,
                                                          uint64_t seed,
                                                          const ModelOptions& options) {
  if (options.device == Device::kCpu) {
    if (options.precision != Precision::kFp32) {
      return absl::InvalidArgumentError("precision bf16 needs --device cuda; CPUs train in fp32");
    }
    if (options.recompute) {
      return absl::InvalidArgumentError("workers.recompute needs --device cuda; on CPUs leave it out");
    }
    return Model<float>::Create(config, layout, communicator, seed, options.threads);
  }
  if (options.precision == Precision::kFp32) {
    return CudaModel<float>::Create(config, layout, communicator, seed, options);
  }
  return CudaModel<__nv_bfloat16>::Create(config, layout, communicator, seed, options);
}

}  // namespace espalier::model

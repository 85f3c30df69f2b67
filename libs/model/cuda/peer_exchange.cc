// Windows are laid out for the most tokens that any rank ever had; a signal closes each phase, so no phase overwrites what another reads:
// rows are sent when all have combined what was sent before, and combined when all have placed what they got.
#include "libs/model/cuda/peer_exchange.h"

#include <algorithm>
#include <chrono>
#include <new>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::model {
namespace {

// Far above any step's imbalance; the abort word ends waits for ranks that are known to be gone.
constexpr uint64_t kWaitLimitNs = uint64_t{120} * 1000 * 1000 * 1000;
constexpr std::chrono::milliseconds kLookEvery(20);
constexpr int64_t kAlign = 256;

int64_t Place(int64_t bytes, int64_t* end) {
  const int64_t at = *end;
  *end += (bytes + kAlign - 1) / kAlign * kAlign;
  return at;
}

absl::Status UploadNow(const std::vector<int32_t>& values, kernels::cuda::Buffer<int32_t>& device,
                       cudaStream_t stream) {
  RETURN_IF_ERROR(device.Reserve(static_cast<int64_t>(values.size()) + 1));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(device.data(), values.data(),
                                       values.size() * sizeof(int32_t), cudaMemcpyHostToDevice,
                                       stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return absl::OkStatus();
}

}  // namespace

template <typename T>
absl::StatusOr<std::unique_ptr<PeerExchange<T>>> PeerExchange<T>::Create(
    const ModelConfig& config, collective::Communicator* communicator, T* dense_gradient,
    cudaStream_t stream) {
  std::unique_ptr<PeerExchange> exchange(new PeerExchange(config, communicator, stream));
  RETURN_IF_CUDA_ERROR(cudaHostAlloc(reinterpret_cast<void**>(&exchange->control_),
                                     sizeof(kernels::cuda::PeerControl), cudaHostAllocPortable));
  new (exchange->control_) kernels::cuda::PeerControl();
  ASSIGN_OR_RETURN(exchange->counted_, kernels::cuda::MakeEvent());
  kernels::cuda::PeerView& view = exchange->view_;
  view.control = exchange->control_;
  view.ranks = communicator->size();
  view.rank = communicator->rank();
  view.top_k = config.top_k;
  view.experts_max = config.experts;
  view.width = config.width;
  RETURN_IF_ERROR(exchange->Grow(1));
  ASSIGN_OR_RETURN(exchange->dense_, PeerWindow::Share(dense_gradient, *communicator));
  exchange->watcher_ = std::thread([raw = exchange.get()] { raw->Watch(); });
  return exchange;
}

template <typename T>
PeerExchange<T>::~PeerExchange() {
  done_ = true;
  if (watcher_.joinable()) watcher_.join();
  // Ends waits that are still on the stream: nobody will answer them.
  if (control_ != nullptr) control_->abort = 1;
  cudaStreamSynchronize(stream_);
  if (control_ != nullptr) cudaFreeHost(control_);
}

template <typename T>
void PeerExchange<T>::Watch() {
  while (!done_) {
    if (!communicator_->Health().ok()) {
      control_->abort = 1;
      return;
    }
    std::this_thread::sleep_for(kLookEvery);
  }
}

template <typename T>
absl::Status PeerExchange<T>::Check() const {
  if (control_->failed == 0) return absl::OkStatus();
  const int rank = static_cast<int>(control_->failed) - 1;
  const absl::Status health = communicator_->Health();
  const absl::Status status = absl::UnavailableError(
      absl::StrCat("rank ", rank, " did not come to the exchange of device memory: ",
                   health.ok() ? "it hangs, or its device is lost" : health.message()));
  communicator_->Abort(status);
  return status;
}

template <typename T>
double PeerExchange<T>::TakeWaitedSeconds() {
  const uint64_t now = control_->waited_ns, since = now - waited_taken_ns_;
  waited_taken_ns_ = now;
  return static_cast<double>(since) * 1e-9;
}

template <typename T>
absl::Status PeerExchange<T>::Grow(int64_t tokens) {
  // Nobody may still use the old windows.
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  RETURN_IF_ERROR(Check());
  RETURN_IF_ERROR(communicator_->Barrier());
  const int64_t ranks = view_.ranks, row = view_.width * static_cast<int64_t>(sizeof(T));
  int64_t end = kernels::cuda::kPeerHeaderBytes;
  view_.tokens_max = tokens;
  view_.counts = Place(ranks * (view_.experts_max + 1) * static_cast<int64_t>(sizeof(int32_t)), &end);
  view_.entries = Place(
      ranks * tokens * view_.top_k * static_cast<int64_t>(sizeof(kernels::cuda::PeerEntry)), &end);
  view_.gates = Place(tokens * view_.top_k * static_cast<int64_t>(sizeof(float)), &end);
  view_.arrived = Place(ranks * tokens * row, &end);
  view_.returned = Place((1 + tokens * (kPartial ? ranks : view_.top_k)) * row, &end);
  window_.Unmap();
  RETURN_IF_ERROR(communicator_->Barrier());
  window_ = PeerWindow();
  ASSIGN_OR_RETURN(window_, PeerWindow::Allocate(end, *communicator_));
  for (int rank = 0; rank < view_.ranks; ++rank) view_.window[rank] = window_.of(rank);
  epoch_ = 0;
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::TakeLayout(const ExpertLayout& layout) {
  layers_.resize(layout.layers.size());
  for (size_t l = 0; l < layout.layers.size(); ++l) {
    const LayerLayout& from = layout.layers[l];
    Layer& layer = layers_[l];
    const int experts = static_cast<int>(from.ids.size());
    std::vector<int32_t> home(experts), held_ids, next(view_.ranks, 0);
    layer.first = 0;
    for (int i = 0; i < experts; ++i) {
      const int rank = from.ranks[i];
      home[i] = rank << 16 | next[rank]++;
      if (rank < view_.rank) ++layer.first;
      if (rank == view_.rank) held_ids.push_back(i);
    }
    layer.experts = experts;
    layer.held = static_cast<int>(held_ids.size());
    RETURN_IF_ERROR(UploadNow(home, layer.home, stream_));
    RETURN_IF_ERROR(UploadNow(held_ids, layer.held_ids, stream_));
    RETURN_IF_ERROR(layer.group_offsets.Reserve(layer.held + 1));
    RETURN_IF_ERROR(layer.base.Reserve(int64_t{layer.held} * view_.ranks + 1));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::BeginPass(int64_t tokens) {
  RETURN_IF_ERROR(Check());
  const std::vector<int64_t> mine(view_.ranks, tokens);
  std::vector<int64_t> all(view_.ranks);
  RETURN_IF_ERROR(communicator_->AllToAll(mine, std::span<int64_t>(all)));
  const int64_t most = *std::max_element(all.begin(), all.end());
  // An eighth more, so that ragged batches do not grow it again and again.
  if (most > view_.tokens_max) RETURN_IF_ERROR(Grow(most + most / 8));
  all_tokens_ = 0;
  for (int rank = 0; rank < view_.ranks; ++rank) all_tokens_ += view_.tokens[rank] = all[rank];
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::MeetHost() {
  return window_.shares_context() ? communicator_->Barrier() : absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::Signal() {
  RETURN_IF_CUDA_ERROR(kernels::cuda::RaisePeers(view_, ++epoch_, stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::Await() {
  RETURN_IF_ERROR(MeetHost());
  RETURN_IF_CUDA_ERROR(kernels::cuda::AwaitPeers(view_, epoch_, kWaitLimitNs, stream_));
  return absl::OkStatus();
}

// What was sent and never returned, as when a layer is computed again: all have placed it before any sends more.
template <typename T>
absl::Status PeerExchange<T>::CloseArrivals() {
  if (!arrivals_open_) return absl::OkStatus();
  RETURN_IF_ERROR(Signal());
  return Await();
}

template <typename T>
absl::Status PeerExchange<T>::Dispatch(int index, const Routed& routed) {
  Layer& layer = layers_[index];
  const int64_t n = view_.tokens[view_.rank];
  RETURN_IF_ERROR(CloseArrivals());
  RETURN_IF_ERROR(layer.ranks_of.Reserve(n));
  RETURN_IF_ERROR(layer.table.Reserve(n * view_.top_k));
  RETURN_IF_ERROR(layer.place.Reserve(all_tokens_ * view_.top_k));
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::SendCounts(view_, routed.offsets, layer.experts, ++epoch_, stream_));
  RETURN_IF_ERROR(MeetHost());
  RETURN_IF_CUDA_ERROR(kernels::cuda::TakeCounts(view_,
                                                 {.first = layer.first,
                                                  .held = layer.held,
                                                  .group_offsets = layer.group_offsets.data(),
                                                  .base = layer.base.data()},
                                                 epoch_, kWaitLimitNs, stream_));
  RETURN_IF_CUDA_ERROR(cudaEventRecord(counted_.get(), stream_));
  // Rows travel while the host learns how many there are.
  RETURN_IF_CUDA_ERROR(kernels::cuda::SendRows<T>(view_,
                                                  {.x = routed.x,
                                                   .choice = routed.choice,
                                                   .slot = routed.slot,
                                                   .weight = routed.weight,
                                                   .offsets = routed.offsets,
                                                   .home = layer.home.data(),
                                                   .group_of = routed.group_of,
                                                   .ranks_of = layer.ranks_of.data(),
                                                   .table = layer.table.data(),
                                                   .partial = kPartial},
                                                  stream_));
  RETURN_IF_ERROR(Signal());
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(counted_.get()));
  RETURN_IF_ERROR(Check());
  layer.rows = control_->rows;
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::Arrive(int index, T* out, float* row_weight, bool measure) {
  Layer& layer = layers_[index];
  if (measure) {
    RETURN_IF_ERROR(expert_of_.Reserve(layer.rows));
    RETURN_IF_ERROR(identity_.Reserve(layer.rows));
  }
  RETURN_IF_ERROR(Await());
  arrivals_open_ = true;
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::PlaceRows<T>(view_,
                                  {.out = out,
                                   .rows = layer.rows,
                                   .place = layer.place.data(),
                                   .base = layer.base.data(),
                                   .held = layer.held,
                                   .row_weight = row_weight,
                                   .held_ids = layer.held_ids.data(),
                                   .expert_of = measure ? expert_of_.data() : nullptr,
                                   .identity = measure ? identity_.data() : nullptr},
                                  stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::DispatchBack(int index, const T* x, T* out) {
  Layer& layer = layers_[index];
  RETURN_IF_ERROR(CloseArrivals());
  arrivals_open_ = true;
  RETURN_IF_CUDA_ERROR(kernels::cuda::SendRows<T>(
      view_, {.x = x, .ranks_of = layer.ranks_of.data(), .partial = kPartial}, stream_));
  RETURN_IF_ERROR(Signal());
  RETURN_IF_ERROR(Await());
  RETURN_IF_CUDA_ERROR(kernels::cuda::PlaceRows<T>(
      view_, {.out = out, .rows = layer.rows, .place = layer.place.data()}, stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status PeerExchange<T>::Return(int index, const T* rows, const float* drow_weight) {
  Layer& layer = layers_[index];
  RETURN_IF_CUDA_ERROR(kernels::cuda::ReturnRows<T>(view_,
                                                    {.rows = rows,
                                                     .rows_count = layer.rows,
                                                     .place = layer.place.data(),
                                                     .drow_weight = drow_weight,
                                                     .partial = kPartial},
                                                    stream_));
  RETURN_IF_ERROR(Signal());
  arrivals_open_ = false;
  return Await();
}

template <typename T>
ReturnedRows<T> PeerExchange<T>::returned(int layer) const {
  return {.rows = reinterpret_cast<const T*>(view_.window[view_.rank] + view_.returned),
          .table = layers_[layer].table.data(),
          .fan = kPartial ? std::min(view_.top_k, view_.ranks) : view_.top_k};
}

template <typename T>
const float* PeerExchange<T>::gate_gradients() const {
  return reinterpret_cast<const float*>(view_.window[view_.rank] + view_.gates);
}

template <typename T>
absl::Status PeerExchange<T>::SumDense(int64_t n) {
  kernels::cuda::SumPeersArgs<T> args{.n = n};
  for (int rank = 0; rank < view_.ranks; ++rank) {
    args.arrays[rank] = reinterpret_cast<T*>(dense_.of(rank));
  }
  RETURN_IF_ERROR(Signal());
  RETURN_IF_ERROR(Await());
  RETURN_IF_CUDA_ERROR(kernels::cuda::SumPeers<T>(view_, args, stream_));
  RETURN_IF_ERROR(Signal());
  return Await();
}

template class PeerExchange<float>;
template class PeerExchange<__nv_bfloat16>;

}  // namespace espalier::model

// ApplyLayout on the device: what stays of a layer closes up where it is, what moves goes through the host with its moments, and the memory
// behind is given back. Also the way of all parameters to the host and back.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/cuda/adamw.h"
#include "libs/model/batch.h"
#include "libs/model/cuda/cuda_model.h"
#include "libs/model/layout_change.h"
#include "libs/observe/log.h"

namespace espalier::model {

namespace {

constexpr int64_t kMasterChunk = int64_t{1} << 24;
constexpr std::chrono::milliseconds kBetweenPieces{5};

}  // namespace

template <typename T>
absl::Status CudaModel<T>::SendMaster(const Arena<T>& arena, const Slice& slice, float* host) {
  if constexpr (!Arena<T>::kHalves) {
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host, arena.value(slice), slice.size * sizeof(float),
                                         cudaMemcpyDeviceToHost, stream_));
  } else {
    RETURN_IF_ERROR(master_chunk_.Reserve(kMasterChunk));
    for (int64_t begin = 0; begin < slice.size; begin += kMasterChunk) {
      const Slice part{slice.offset + begin, std::min(kMasterChunk, slice.size - begin)};
      RETURN_IF_CUDA_ERROR(kernels::cuda::JoinMaster(arena.value(part), arena.low(part),
                                                     master_chunk_.data(), part.size, stream_));
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host + begin, master_chunk_.data(),
                                           part.size * sizeof(float), cudaMemcpyDeviceToHost,
                                           stream_));
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::TakeMaster(const Arena<T>& arena, const Slice& slice,
                                      const float* host) {
  if constexpr (!Arena<T>::kHalves) {
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(arena.value(slice), host, slice.size * sizeof(float),
                                         cudaMemcpyHostToDevice, stream_));
  } else {
    RETURN_IF_ERROR(master_chunk_.Reserve(kMasterChunk));
    for (int64_t begin = 0; begin < slice.size; begin += kMasterChunk) {
      const Slice part{slice.offset + begin, std::min(kMasterChunk, slice.size - begin)};
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(master_chunk_.data(), host + begin,
                                           part.size * sizeof(float), cudaMemcpyHostToDevice,
                                           stream_));
      RETURN_IF_CUDA_ERROR(kernels::cuda::SplitMaster(master_chunk_.data(), arena.value(part),
                                                      arena.low(part), part.size, stream_));
    }
  }
  return absl::OkStatus();
}

// The three fp32 arrays of one expert's two matrices, gate_up then down: master, moment1, moment2 of each.
template <typename T>
absl::Status CudaModel<T>::PackExpert(int layer, int place, std::byte* to) {
  const DeviceLayer& places = weights_.layers[layer];
  const Arena<T>& arena = weights_.experts[layer];
  const int64_t matrix = int64_t{config_.expert_width} * config_.width;
  auto* at = reinterpret_cast<float*>(to);
  for (const Slice& slice : {Slice{places.gate_up.offset + place * 2 * matrix, 2 * matrix},
                             Slice{places.down.offset + place * matrix, matrix}}) {
    RETURN_IF_ERROR(SendMaster(arena, slice, at));
    for (const float* array : {arena.moment1(slice), arena.moment2(slice)}) {
      at += slice.size;
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(at, array, slice.size * sizeof(float),
                                           cudaMemcpyDeviceToHost, stream_));
    }
    at += slice.size;
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::UnpackExpert(int layer, int place, const std::byte* from) {
  const DeviceLayer& places = weights_.layers[layer];
  const Arena<T>& arena = weights_.experts[layer];
  const int64_t matrix = int64_t{config_.expert_width} * config_.width;
  const auto* at = reinterpret_cast<const float*>(from);
  for (const Slice& slice : {Slice{places.gate_up.offset + place * 2 * matrix, 2 * matrix},
                             Slice{places.down.offset + place * matrix, matrix}}) {
    RETURN_IF_ERROR(TakeMaster(arena, slice, at));
    for (float* array : {arena.moment1(slice), arena.moment2(slice)}) {
      at += slice.size;
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(array, at, slice.size * sizeof(float),
                                           cudaMemcpyHostToDevice, stream_));
    }
    at += slice.size;
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::ShrinkRouter(int layer, const std::vector<int>& kept) {
  const Slice& router = weights_.layers[layer].router;
  Arena<T>& arena = weights_.dense;
  const int64_t width = config_.width;
  // Rows only move up, one after the other: no row is overwritten before it was read.
  for (size_t row = 0; row < kept.size(); ++row) {
    if (kept[row] == static_cast<int>(row)) continue;
    const Slice to{router.offset + static_cast<int64_t>(row) * width, width};
    const Slice from{router.offset + kept[row] * width, width};
    const auto move = [&](auto* target, const auto* source) {
      return cudaMemcpyAsync(target, source, width * sizeof(*source), cudaMemcpyDeviceToDevice,
                             stream_);
    };
    RETURN_IF_CUDA_ERROR(move(arena.value(to), arena.value(from)));
    if (Arena<T>::kHalves) RETURN_IF_CUDA_ERROR(move(arena.low(to), arena.low(from)));
    RETURN_IF_CUDA_ERROR(move(arena.moment1(to), arena.moment1(from)));
    RETURN_IF_CUDA_ERROR(move(arena.moment2(to), arena.moment2(from)));
  }
  // What stands behind the rows alive must not show in norms over the whole arena.
  const Slice rest{router.offset + static_cast<int64_t>(kept.size()) * width,
                   router.size - static_cast<int64_t>(kept.size()) * width};
  RETURN_IF_CUDA_ERROR(
      cudaMemsetAsync(arena.gradient(rest), 0, rest.size * sizeof(T), stream_));
  LayerWeights<float>& host = host_.layers[layer];
  host.router.shape[0] = static_cast<int64_t>(kept.size());
  std::vector<float> bias;
  for (const int row : kept) bias.push_back(host.selection_bias[row]);
  host.selection_bias = std::move(bias);
  return absl::OkStatus();
}

// Experts keep their order, so nothing that is still to be moved is written over: those that move down go first, lowest first, then those
// that move up, highest first.
template <typename T>
absl::Status CudaModel<T>::ShiftExperts(int layer, const std::vector<ExpertShift>& shifts) {
  const DeviceLayer& places = weights_.layers[layer];
  const Arena<T>& arena = weights_.experts[layer];
  const int64_t matrix = int64_t{config_.expert_width} * config_.width;
  // `count` experts at once, which overlap with their new place nowhere.
  const auto move = [&](int from, int to, int count) -> absl::Status {
    for (const auto& [part, each] : {std::pair(places.gate_up.offset, 2 * matrix),
                                     std::pair(places.down.offset, matrix)}) {
      const Slice source{part + from * each, count * each}, target{part + to * each, count * each};
      const auto copy = [&, size = count * each](auto* there, const auto* here) {
        return cudaMemcpyAsync(there, here, size * sizeof(*here), cudaMemcpyDeviceToDevice,
                               stream_);
      };
      RETURN_IF_CUDA_ERROR(copy(arena.value(target), arena.value(source)));
      if (Arena<T>::kHalves) RETURN_IF_CUDA_ERROR(copy(arena.low(target), arena.low(source)));
      RETURN_IF_CUDA_ERROR(copy(arena.moment1(target), arena.moment1(source)));
      RETURN_IF_CUDA_ERROR(copy(arena.moment2(target), arena.moment2(source)));
    }
    return absl::OkStatus();
  };
  for (size_t i = 0; i < shifts.size();) {
    const int distance = shifts[i].from - shifts[i].to;
    // Neighbours that move down by as much go together, but no more than the distance.
    int count = 1;
    while (i + count < shifts.size() && count < distance &&
           shifts[i + count].from == shifts[i].from + count &&
           shifts[i + count].to == shifts[i].to + count) {
      ++count;
    }
    if (distance > 0) RETURN_IF_ERROR(move(shifts[i].from, shifts[i].to, count));
    i += static_cast<size_t>(count);
  }
  for (size_t i = shifts.size(); i-- > 0;) {
    if (shifts[i].to > shifts[i].from) RETURN_IF_ERROR(move(shifts[i].from, shifts[i].to, 1));
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<int64_t> CudaModel<T>::ApplyLayout(const ExpertLayout& layout) {
  absl::Status valid = ValidateLayout(config_, layout, communicator_->size());
  if (valid.ok()) valid = ValidateSurvivors(layout_, layout);
  RETURN_IF_ERROR(AgreeOnInput(*communicator_, valid));
  FinishGivingBack();

  const int ranks = communicator_->size(), me = communicator_->rank();
  const std::vector<ExpertMove> moves = ListMoves(layout_, layout);
  const auto place_of = [&](int layer, int id) {
    const auto& held = host_.layers[layer].experts;
    return static_cast<int>(std::find_if(held.begin(), held.end(),
                                         [id](const auto& expert) { return expert->id == id; }) -
                            held.begin());
  };
  std::vector<int64_t> send_bytes(ranks, 0), recv_bytes(ranks, 0);
  for (const ExpertMove& move : moves) {
    if (move.from == me) send_bytes[move.to] += ExpertBytes();
    if (move.to == me) recv_bytes[move.from] += ExpertBytes();
  }
  int64_t sent = 0, received = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    sent += send_bytes[rank];
    received += recv_bytes[rank];
  }
  // Which experts each layer holds afterwards, and memory for those that come: before anything changes, on all ranks or on none.
  std::vector<std::vector<int>> ids(config_.layers);
  absl::Status room;
  for (int layer = config_.dense_layers; layer < config_.layers && room.ok(); ++layer) {
    const LayerLayout& after = layout.layers[layer];
    for (size_t i = 0; i < after.ids.size(); ++i) {
      if (after.ranks[i] == me) ids[layer].push_back(after.ids[i]);
    }
    DeviceLayer& places = weights_.layers[layer];
    const int more = static_cast<int>(ids[layer].size());
    if (more > places.held)
      room = ResizeExperts(config_, more, &weights_.experts[layer], &places);
  }
  if (const absl::Status agreed = AgreeOnInput(*communicator_, room); !agreed.ok()) {
    for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
      RETURN_IF_ERROR(ResizeExperts(config_, static_cast<int>(host_.layers[layer].experts.size()),
                                    &weights_.experts[layer], &weights_.layers[layer]));
    }
    return agreed;
  }
  std::vector<std::byte> send(sent), recv(received);
  std::byte* at = send.data();
  for (int rank = 0; rank < ranks; ++rank) {
    for (const ExpertMove& move : moves) {
      if (move.from != me || move.to != rank) continue;
      RETURN_IF_ERROR(PackExpert(move.layer, place_of(move.layer, move.id), at));
      at += ExpertBytes();
    }
  }
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (ranks > 1) {
    RETURN_IF_ERROR(
        communicator_->AllToAllV(send, send_bytes, std::span<std::byte>(recv), recv_bytes));
  }

  // Where each arrival stands in `recv`: by source rank, then in order of the moves.
  const auto arrival = [&](int layer, int id) -> const std::byte* {
    const std::byte* from = recv.data();
    for (int rank = 0; rank < ranks; ++rank) {
      for (const ExpertMove& move : moves) {
        if (move.from != rank || move.to != me) continue;
        if (move.layer == layer && move.id == id) return from;
        from += ExpertBytes();
      }
    }
    return nullptr;
  };
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    const LayerLayout& after = layout.layers[layer];
    LayerWeights<float>& host = host_.layers[layer];
    const bool same = ids[layer].size() == host.experts.size() &&
                      std::equal(ids[layer].begin(), ids[layer].end(), host.experts.begin(),
                                 [](int id, const auto& expert) { return expert->id == id; });
    if (!same) {
      std::vector<ExpertShift> shifts;
      std::vector<std::unique_ptr<ExpertWeights<float>>> held;
      for (size_t i = 0; i < ids[layer].size(); ++i) {
        const int was = place_of(layer, ids[layer][i]), place = static_cast<int>(i);
        held.push_back(MakeEmptyExpert<float>(config_, layer, ids[layer][i], Storage::kNone));
        if (was < static_cast<int>(host.experts.size())) shifts.push_back({was, place});
      }
      RETURN_IF_ERROR(ShiftExperts(layer, shifts));
      for (size_t i = 0; i < ids[layer].size(); ++i) {
        if (place_of(layer, ids[layer][i]) < static_cast<int>(host.experts.size())) continue;
        RETURN_IF_ERROR(
            UnpackExpert(layer, static_cast<int>(i), arrival(layer, ids[layer][i])));
      }
      host.experts = std::move(held);
    }
    RETURN_IF_ERROR(ShrinkRouter(layer, KeptRows(layout_.layers[layer], after)));
  }
  // `recv` and what goes are read until here.
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  layout_ = layout;
  RETURN_IF_ERROR(TakeLayout());
  GiveBack(ids);
  return sent;
}

// Unmapping takes longer than a step on a large model, and touches nothing that a step reads: it is done beside the next ones, with pauses
// in which these get at the driver.
template <typename T>
void CudaModel<T>::GiveBack(const std::vector<std::vector<int>>& ids) {
  std::vector<std::pair<Arena<T>*, Slice>> parts;
  const int64_t matrix = int64_t{config_.expert_width} * config_.width;
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    DeviceLayer& places = weights_.layers[layer];
    const auto held = static_cast<int>(ids[layer].size());
    if (held >= places.held) continue;
    places.held = held;
    places.gate_up.size = held * 2 * matrix;
    places.down.size = held * matrix;
    parts.emplace_back(&weights_.experts[layer], places.gate_up);
    parts.emplace_back(&weights_.experts[layer], places.down);
  }
  if (parts.empty()) return;
  giving_back_ = std::thread([parts = std::move(parts), index = device_.index] {
    absl::Status status = kernels::cuda::UseDevice(index).status();
    const int64_t before = kernels::cuda::DeviceBytes();
    for (const auto& [arena, part] : parts) {
      if (status.ok())
        arena->Shrink(part, [] { std::this_thread::sleep_for(kBetweenPieces); });
    }
    LOG(INFO) << "expert_memory_given_back bytes=" << before - kernels::cuda::DeviceBytes()
              << " status=" << status;
  });
}

template <typename T>
void CudaModel<T>::FinishGivingBack() const {
  if (giving_back_.joinable()) giving_back_.join();
}

template <typename T>
absl::Status CudaModel<T>::FetchParameters() {
  for (const Placed<T>& place : ListPlaces(config_, host_, weights_)) {
    const Slice slice{place.offset, place.host->size()};
    place.host->value.resize(slice.size);
    RETURN_IF_ERROR(SendMaster(*place.arena, slice, place.host->value.data()));
    const std::pair<std::vector<float>*, const float*> moments[] = {
        {&place.host->moment1, place.arena->moment1(slice)},
        {&place.host->moment2, place.arena->moment2(slice)}};
    for (const auto& [to, from] : moments) {
      to->resize(slice.size);
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(to->data(), from, slice.size * sizeof(float),
                                           cudaMemcpyDeviceToHost, stream_));
    }
  }
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::StoreParameters() {
  for (const Placed<T>& place : ListPlaces(config_, host_, weights_)) {
    const Slice slice{place.offset, place.host->size()};
    RETURN_IF_ERROR(TakeMaster(*place.arena, slice, place.host->value.data()));
    const std::pair<const std::vector<float>*, float*> moments[] = {
        {&place.host->moment1, place.arena->moment1(slice)},
        {&place.host->moment2, place.arena->moment2(slice)}};
    for (const auto& [from, to] : moments) {
      if (from->empty()) {
        RETURN_IF_CUDA_ERROR(cudaMemsetAsync(to, 0, slice.size * sizeof(float), stream_));
      } else {
        RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(to, from->data(), slice.size * sizeof(float),
                                             cudaMemcpyHostToDevice, stream_));
      }
    }
  }
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  return absl::OkStatus();
}

template <typename T>
void CudaModel<T>::DropParameters() {
  for (Parameter<float>* parameter : parameters()) {
    // Assigning {} would keep the memory.
    for (std::vector<float>* array : {&parameter->value, &parameter->moment1, &parameter->moment2})
      std::vector<float>().swap(*array);
  }
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::TakeMaster(const Arena<T>&, const Slice&, const float*);   \
  template absl::StatusOr<int64_t> CudaModel<T>::ApplyLayout(const ExpertLayout&);               \
  template void CudaModel<T>::FinishGivingBack() const;                                          \
  template absl::Status CudaModel<T>::FetchParameters();                                         \
  template absl::Status CudaModel<T>::StoreParameters();                                         \
  template void CudaModel<T>::DropParameters();
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

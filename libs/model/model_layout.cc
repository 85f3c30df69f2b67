// ApplyLayout: experts leave or move with weights and moments; the router keeps the rows of those
// alive; those masked are frozen.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "libs/base/status_macros.h"
#include "libs/model/layout_change.h"
#include "libs/model/model_impl.h"

namespace espalier::model {
namespace {

template <typename T>
ExpertWeights<T>& FindExpert(LayerWeights<T>& layer, int id) {
  return **std::find_if(layer.experts.begin(), layer.experts.end(),
                        [id](const auto& expert) { return expert->id == id; });
}

template <typename T>
std::array<Parameter<T>*, 3> Projections(ExpertWeights<T>& expert) {
  return {&expert.ffn.gate, &expert.ffn.up, &expert.ffn.down};
}

template <typename T>
void AppendBytes(const std::vector<T>& values, std::vector<std::byte>& wire) {
  const std::byte* data = reinterpret_cast<const std::byte*>(values.data());
  wire.insert(wire.end(), data, data + values.size() * sizeof(T));
}

// One byte saying whether moments follow, then each projection's value and, if so, moments.
template <typename T>
void PackExpert(ExpertWeights<T>& expert, std::vector<std::byte>& wire) {
  const bool moments = !expert.ffn.gate.moment1.empty();
  wire.push_back(std::byte{moments});
  for (const Parameter<T>* parameter : Projections(expert)) {
    AppendBytes(parameter->value, wire);
    if (!moments) continue;
    AppendBytes(parameter->moment1, wire);
    AppendBytes(parameter->moment2, wire);
  }
}

template <typename T>
const std::byte* TakeBytes(const std::byte* at, std::vector<T>& values, size_t count) {
  values.resize(count);
  std::memcpy(values.data(), at, count * sizeof(T));
  return at + count * sizeof(T);
}

template <typename T>
const std::byte* UnpackExpert(const std::byte* at, ExpertWeights<T>& expert) {
  const bool moments = *at++ != std::byte{0};
  for (Parameter<T>* parameter : Projections(expert)) {
    const size_t count = parameter->grad.size();
    at = TakeBytes(at, parameter->value, count);
    if (!moments) continue;
    at = TakeBytes(at, parameter->moment1, count);
    at = TakeBytes(at, parameter->moment2, count);
  }
  return at;
}

// Keeps the rows (of `width`) named by `kept`, in that order; an empty array (no moments yet) stays
// empty.
template <typename T>
void KeepRows(std::vector<T>& values, const std::vector<int>& kept, int64_t width) {
  if (values.empty()) return;
  for (size_t row = 0; row < kept.size(); ++row) {
    std::copy_n(values.begin() + kept[row] * width, width,
                values.begin() + static_cast<int64_t>(row) * width);
  }
  values.resize(kept.size() * width);
}

template <typename T>
void ShrinkRouter(LayerWeights<T>& weights, const LayerLayout& before, const LayerLayout& after,
                  int64_t width) {
  const std::vector<int> kept = KeptRows(before, after);
  Parameter<T>& router = weights.router;
  for (std::vector<T>* values : {&router.value, &router.grad, &router.moment1, &router.moment2}) {
    KeepRows(*values, kept, width);
  }
  router.shape[0] = static_cast<int64_t>(kept.size());
  KeepRows(weights.selection_bias, kept, 1);
}

}  // namespace

template <typename T>
void ModelImpl<T>::FreezeMasked() {
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    const LayerLayout& layout = layout_.layers[layer];
    LayerWeights<T>& weights = weights_.layers[layer];
    const bool any = std::any_of(layout.masked.begin(), layout.masked.end(),
                                 [](uint8_t masked) { return masked != 0; });
    weights.router.frozen_rows = any ? layout.masked : std::vector<uint8_t>();
    for (auto& expert : weights.experts) {
      const auto at = std::lower_bound(layout.ids.begin(), layout.ids.end(), expert->id);
      const bool masked = layout.masked[at - layout.ids.begin()] != 0;
      for (Parameter<T>* projection : Projections(*expert)) {
        projection->frozen_rows.assign(masked ? projection->shape[0] : 0, 1);
      }
    }
  }
}

template <typename T>
absl::StatusOr<int64_t> ModelImpl<T>::ApplyLayout(const ExpertLayout& layout) {
  absl::Status valid = ValidateLayout(config_, layout, communicator_->size());
  if (valid.ok()) valid = ValidateSurvivors(layout_, layout);
  RETURN_IF_ERROR(Agree(valid));

  const int ranks = communicator_->size(), me = communicator_->rank();
  const std::vector<ExpertMove> moves = ListMoves(layout_, layout);
  std::vector<std::vector<std::byte>> outgoing(ranks);
  for (const ExpertMove& move : moves) {
    if (move.from == me)
      PackExpert(FindExpert(weights_.layers[move.layer], move.id), outgoing[move.to]);
  }
  std::vector<int64_t> send_bytes(ranks), recv_bytes(ranks);
  std::vector<std::byte> send, recv;
  for (int rank = 0; rank < ranks; ++rank) {
    send_bytes[rank] = static_cast<int64_t>(outgoing[rank].size());
    send.insert(send.end(), outgoing[rank].begin(), outgoing[rank].end());
    outgoing[rank] = {};
  }
  if (ranks > 1) {
    RETURN_IF_ERROR(communicator_->AllToAll(send_bytes, std::span<int64_t>(recv_bytes)));
    int64_t total = 0;
    for (const int64_t bytes : recv_bytes) total += bytes;
    recv.resize(total);
    RETURN_IF_ERROR(
        communicator_->AllToAllV(send, send_bytes, std::span<std::byte>(recv), recv_bytes));
  }

  // From here on nothing can fail. Arrivals stand by source rank, then in order of the moves.
  std::map<std::pair<int, int>, std::unique_ptr<ExpertWeights<T>>> arrived;
  const std::byte* at = recv.data();
  for (int rank = 0; rank < ranks; ++rank) {
    for (const ExpertMove& move : moves) {
      if (move.from != rank || move.to != me) continue;
      std::unique_ptr<ExpertWeights<T>> expert = MakeEmptyExpert<T>(config_, move.layer, move.id);
      at = UnpackExpert(at, *expert);
      arrived[{move.layer, move.id}] = std::move(expert);
    }
  }
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    LayerWeights<T>& weights = weights_.layers[layer];
    const LayerLayout& after = layout.layers[layer];
    std::vector<std::unique_ptr<ExpertWeights<T>>> held;
    for (size_t i = 0; i < after.ids.size(); ++i) {
      if (after.ranks[i] != me) continue;
      const auto found = arrived.find({layer, after.ids[i]});
      if (found != arrived.end()) {
        held.push_back(std::move(found->second));
      } else {
        for (auto& expert : weights.experts) {
          if (expert != nullptr && expert->id == after.ids[i]) held.push_back(std::move(expert));
        }
      }
    }
    weights.experts = std::move(held);
    ShrinkRouter(weights, layout_.layers[layer], after, config_.width);
  }
  layout_ = layout;
  MakeExchanges();
  FreezeMasked();
  ClearRouteCounts();
  return static_cast<int64_t>(send.size());
}

template void ModelImpl<float>::FreezeMasked();
template void ModelImpl<double>::FreezeMasked();
template absl::StatusOr<int64_t> ModelImpl<float>::ApplyLayout(const ExpertLayout&);
template absl::StatusOr<int64_t> ModelImpl<double>::ApplyLayout(const ExpertLayout&);

}  // namespace espalier::model

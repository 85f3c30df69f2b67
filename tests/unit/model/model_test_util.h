// What the model's tests share: ranks on threads, small configurations, batches and losses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "libs/collective/communicator.h"
#include "libs/model/model.h"

namespace espalier::model {

inline ModelConfig TinyConfig(RouterKind router) {
  return {.vocabulary = 23,
          .layers = 3,
          .width = 12,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 6,
          .experts = 5,
          .top_k = 2,
          .expert_width = 7,
          .shared_expert_width = 5,
          .dense_layers = 1,
          .dense_width = 9,
          .router = router,
          .normalize_top_k = true,
          .routed_scaling = 1.3,
          .init_std = 0.2};
}

// Sequences of the given lengths with random tokens; targets are the next tokens, the last one's is
// -1.
inline Batch RandomBatch(const std::vector<int>& lengths, int vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  Batch batch{.starts = {0}};
  for (const int length : lengths) {
    for (int i = 0; i < length; ++i)
      batch.tokens.push_back(static_cast<int32_t>(random() % vocabulary));
    for (int i = 0; i < length; ++i) {
      batch.targets.push_back(i + 1 < length ? batch.tokens[batch.starts.back() + i + 1] : -1);
    }
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
  }
  return batch;
}

// Sequences [first, last) of a batch.
inline Batch Slice(const Batch& batch, int64_t first, int64_t last) {
  const int64_t begin = batch.starts[first], end = batch.starts[last];
  Batch slice;
  slice.tokens.assign(batch.tokens.begin() + begin, batch.tokens.begin() + end);
  slice.targets.assign(batch.targets.begin() + begin, batch.targets.begin() + end);
  for (int64_t i = first; i <= last; ++i) slice.starts.push_back(batch.starts[i] - begin);
  return slice;
}

// Cross-entropy over `global_tokens` targets.
template <typename T>
typename Model<T>::LossFunction CrossEntropy(int64_t global_tokens) {
  return [global_tokens](std::span<const T>, std::span<T> dlogps) {
    for (T& d : dlogps) d = T(-1) / static_cast<T>(global_tokens);
  };
}

// Runs `body(rank, communicator)` on `size` ranks, a thread each.
inline void OnRanks(int size, const std::function<void(int, collective::Communicator&)>& body) {
  if (size == 1) {
    const std::unique_ptr<collective::Communicator> single = collective::MakeSingleCommunicator();
    body(0, *single);
    return;
  }
  std::vector<std::unique_ptr<collective::Communicator>> ranks =
      collective::MakeInProcessCommunicators(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] { body(rank, *ranks[rank]); });
  for (std::thread& thread : threads) thread.join();
}

template <typename T>
std::unique_ptr<Model<T>> MakeModel(const ModelConfig& config, const ExpertLayout& layout,
                                    collective::Communicator& communicator, int threads = 1,
                                    uint64_t seed = 7) {
  auto model = Model<T>::Create(config, layout, &communicator, seed, threads);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

}  // namespace espalier::model

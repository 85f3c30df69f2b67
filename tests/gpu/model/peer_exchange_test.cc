// Goal: rows and sums that go through peers' device memory are those that the definition gives, whatever the layout, the counts of tokens and the
// experts chosen, again and again. Method: 2 and 4 ranks as threads on one GPU against plain loops on the host, in fp32 and bf16.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "gtest/gtest.h"
#include "libs/model/cuda/peer_exchange.h"
#include "tests/gpu/kernels/twin.h"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

using kernels::cuda::Device;
using kernels::cuda::DeviceCount;
using kernels::cuda::Random;

struct Shape {
  int width, experts, top_k;
  std::vector<int64_t> tokens;  // by rank
  bool lopsided = false;        // the last rank holds nothing
};

// What the router and PlanSlots would have given one rank.
struct Tokens {
  std::vector<float> x, weight;
  std::vector<int32_t> choice, slot, offsets;
};

Tokens DrawTokens(const Shape& shape, int64_t n, const std::vector<int32_t>& group_of) {
  Tokens tokens;
  tokens.x = kernels::cuda::RandomValues<__nv_bfloat16>(n * shape.width);
  tokens.weight = kernels::cuda::RandomValues<float>(n * shape.top_k);
  std::vector<int32_t> order(shape.experts);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t token = 0; token < n; ++token) {
    std::shuffle(order.begin(), order.end(), Random());
    // Half of the tokens want the same few experts.
    if (token % 2 == 0) std::sort(order.begin(), order.begin() + std::min(shape.experts, 2 * shape.top_k));
    tokens.choice.insert(tokens.choice.end(), order.begin(), order.begin() + shape.top_k);
  }
  std::vector<int32_t> count(shape.experts + 1, 0);
  for (const int32_t expert : tokens.choice) ++count[group_of[expert] + 1];
  std::partial_sum(count.begin(), count.end(), count.begin());
  tokens.offsets = count;
  tokens.slot.resize(tokens.choice.size());
  for (size_t i = 0; i < tokens.choice.size(); ++i) {
    tokens.slot[i] = count[group_of[tokens.choice[i]]]++;
  }
  return tokens;
}

// One expert's "work": a factor of its own, so that rows that get mixed up show.
float Factor(int expert) { return 1.0f + 0.125f * static_cast<float>(expert); }

// Devices are filled on the null stream, which a stream of ours does not wait for.
void Settle() { ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(nullptr)); }

template <typename T>
double Allowed() {
  return std::is_same_v<T, float> ? 1e-6 : 8e-3;
}

template <typename T>
void RunRank(int rank, collective::Communicator& communicator, const Shape& shape,
             const ExpertLayout& layout, const std::vector<Tokens>& all, int rounds) {
  const LayerLayout& layer = layout.layers[0];
  ASSERT_TRUE(kernels::cuda::UseDevice(0).ok());
  auto stream_owner = kernels::cuda::MakeStream();
  ASSERT_TRUE(stream_owner.ok());
  cudaStream_t stream = stream_owner->get();
  ModelConfig config = TinyConfig(RouterKind::kSoftmax);
  config.width = shape.width;
  config.experts = shape.experts;
  config.top_k = shape.top_k;
  constexpr int64_t kDense = 8 * 1031;
  std::vector<float> gradient(kDense);
  for (int64_t i = 0; i < kDense; ++i) gradient[i] = static_cast<float>((i * (rank + 3)) % 17 - 8);
  Device<T> dense(gradient);
  Settle();
  auto created = PeerExchange<T>::Create(config, &communicator, dense.get(), stream);
  ASSERT_TRUE(created.ok()) << created.status();
  PeerExchange<T>& exchange = **created;
  ASSERT_TRUE(exchange.TakeLayout(layout).ok());

  const int ranks = communicator.size();
  std::vector<int32_t> group_of(shape.experts), held;
  int32_t next = 0;
  for (int r = 0; r < ranks; ++r) {
    for (int i = 0; i < shape.experts; ++i) {
      if (layer.ranks[i] != r) continue;
      group_of[i] = next++;
      if (r == rank) held.push_back(i);
    }
  }
  const Tokens& mine = all[rank];
  const int64_t n = shape.tokens[rank], width = shape.width, top_k = shape.top_k;
  Device<T> x(mine.x);
  Device<float> weight(mine.weight);
  Device<int32_t> choice(mine.choice), slot(mine.slot), offsets(mine.offsets), groups(group_of);
  Settle();

  // What must arrive here: by expert, then source, then token.
  std::vector<float> want_rows, want_weight;
  std::vector<int32_t> want_expert;
  for (const int32_t expert : held) {
    for (int source = 0; source < ranks; ++source) {
      for (int64_t i = 0; i < shape.tokens[source] * top_k; ++i) {
        if (all[source].choice[i] != expert) continue;
        const auto from = all[source].x.begin() + i / top_k * width;
        want_rows.insert(want_rows.end(), from, from + width);
        want_weight.push_back(all[source].weight[i]);
        want_expert.push_back(expert);
      }
    }
  }
  const int64_t rows = static_cast<int64_t>(want_expert.size());

  std::vector<float> first[2];  // forward and backward of the first round: the others are the same bits
  for (int round = 0; round < rounds; ++round) {
    ASSERT_TRUE(exchange.BeginPass(n).ok());
    const typename PeerExchange<T>::Routed routed = {x.get(),      choice.get(),  slot.get(),
                                                     weight.get(), offsets.get(), groups.get()};
    // A layer that is computed again sends twice before it returns anything.
    for (int repeat = 0; repeat <= round % 2; ++repeat) {
      const absl::Status sent = exchange.Dispatch(0, routed);
      ASSERT_TRUE(sent.ok()) << sent;
      ASSERT_EQ(rows, exchange.rows(0));
      Device<T> arrived(rows * width);
      Device<float> row_weight(rows);
      Settle();
      ASSERT_TRUE(exchange.Arrive(0, arrived.get(), row_weight.get(), /*measure=*/true).ok());
      ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
      ASSERT_EQ(want_rows, arrived.Floats());
      ASSERT_EQ(want_weight, row_weight.Raw());
      std::vector<int32_t> expert_of(rows);
      ASSERT_EQ(cudaSuccess, cudaMemcpy(expert_of.data(), exchange.expert_of(),
                                        rows * sizeof(int32_t), cudaMemcpyDeviceToHost));
      ASSERT_EQ(want_expert, expert_of);
    }
    std::vector<float> out(want_rows);
    for (size_t i = 0; i < out.size(); ++i) out[i] *= Factor(want_expert[i / width]);
    for (const bool backward : {false, true}) {
      Device<T> worked(out);
      Device<float> dweight(want_weight);  // comes back where it came from
      Settle();
      if (backward) {
        Device<T> again(rows * width);
        Settle();
        ASSERT_TRUE(exchange.DispatchBack(0, x.get(), again.get()).ok());
        ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
        ASSERT_EQ(want_rows, again.Floats());
      }
      ASSERT_TRUE(exchange.Return(0, worked.get(), backward ? dweight.get() : nullptr).ok());
      ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
      ASSERT_TRUE(exchange.Check().ok());

      const ReturnedRows<T> returned = exchange.returned(0);
      std::vector<int32_t> table(n * returned.fan);
      ASSERT_EQ(cudaSuccess, cudaMemcpy(table.data(), returned.table, table.size() * sizeof(int32_t),
                                        cudaMemcpyDeviceToHost));
      const int64_t highest = table.empty() ? 0 : *std::max_element(table.begin(), table.end());
      std::vector<T> raw((highest + 1) * width);
      ASSERT_EQ(cudaSuccess, cudaMemcpy(raw.data(), returned.rows, raw.size() * sizeof(T),
                                        cudaMemcpyDeviceToHost));
      std::vector<float> got(n * width, 0.0f), want(n * width, 0.0f);
      for (int64_t token = 0; token < n; ++token) {
        for (int64_t c = 0; c < width; ++c) {
          for (int i = 0; i < returned.fan; ++i) {
            got[token * width + c] +=
                static_cast<float>(raw[table[token * returned.fan + i] * width + c]);
          }
          for (int64_t k = 0; k < top_k; ++k) {
            // Rounded as the device array `worked` is.
            want[token * width + c] += static_cast<float>(static_cast<T>(
                mine.x[token * width + c] * Factor(mine.choice[token * top_k + k])));
          }
        }
      }
      EXPECT_LE(kernels::cuda::RelativeError(got, want), Allowed<T>()) << "round " << round;
      if (round == 0) first[backward] = got;
      EXPECT_EQ(first[backward], got) << "round " << round;
      if (backward && n > 0) {
        std::vector<float> gates(n * top_k);
        ASSERT_EQ(cudaSuccess, cudaMemcpy(gates.data(), exchange.gate_gradients(),
                                          gates.size() * sizeof(float), cudaMemcpyDeviceToHost));
        EXPECT_EQ(mine.weight, gates);
      }
    }
  }

  ASSERT_TRUE(exchange.SumDense(kDense).ok());
  ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
  ASSERT_TRUE(exchange.Check().ok());
  std::vector<float> want_sum(kDense, 0.0f);
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < kDense; ++i) want_sum[i] += static_cast<float>((i * (r + 3)) % 17 - 8);
  }
  EXPECT_EQ(want_sum, dense.Floats());  // small whole numbers: exact in bf16 too
  // Nobody frees memory that others still read.
  EXPECT_TRUE(communicator.Barrier().ok());
}

template <typename T>
void RunShape(const Shape& shape, int rounds) {
  const int ranks = static_cast<int>(shape.tokens.size());
  ExpertLayout layout;
  layout.layers.resize(1);
  LayerLayout& layer = layout.layers[0];
  const int holders = shape.lopsided ? ranks - 1 : ranks;
  for (int i = 0; i < shape.experts; ++i) {
    layer.ids.push_back(2 * i);  // some were pruned
    layer.ranks.push_back(static_cast<int>(Random()() % holders));
    layer.masked.push_back(0);
  }
  std::vector<int32_t> group_of(shape.experts);
  int32_t next = 0;
  for (int r = 0; r < ranks; ++r) {
    for (int i = 0; i < shape.experts; ++i) {
      if (layer.ranks[i] == r) group_of[i] = next++;
    }
  }
  std::vector<Tokens> all;
  for (const int64_t n : shape.tokens) all.push_back(DrawTokens(shape, n, group_of));
  OnRanks(ranks, [&](int rank, collective::Communicator& communicator) {
    RunRank<T>(rank, communicator, shape, layout, all, rounds);
    if (::testing::Test::HasFailure()) communicator.Abort(absl::AbortedError("the test failed"));
  });
}

class PeerExchangeTest : public ::testing::TestWithParam<Shape> {};

TEST_P(PeerExchangeTest, BringsEveryRowToItsExpertAndBackInFp32) {
  SKIP_WITHOUT_GPU();
  RunShape<float>(GetParam(), 3);
}

TEST_P(PeerExchangeTest, BringsEveryRowToItsExpertAndBackInBf16) {
  SKIP_WITHOUT_GPU();
  RunShape<__nv_bfloat16>(GetParam(), 3);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PeerExchangeTest,
    ::testing::Values(Shape{64, 8, 2, {33, 33}}, Shape{2048, 32, 8, {257, 100, 31, 400}},
                      Shape{12, 5, 2, {7, 0}}, Shape{13, 6, 6, {1, 0, 40, 3}},
                      Shape{256, 16, 4, {64, 64, 64, 64}, true}, Shape{40, 40, 32, {19, 5, 8}},
                      Shape{128, 1, 1, {50, 60}}));

TEST(PeerExchange, AnAbortedGroupEndsEveryRankSoon) {
  SKIP_WITHOUT_GPU();
  const ModelConfig config = TinyConfig(RouterKind::kSoftmax);
  OnRanks(3, [&](int rank, collective::Communicator& communicator) {
    const auto stream = kernels::cuda::MakeStream();
    ASSERT_TRUE(stream.ok());
    Device<float> dense(std::vector<float>(64, 1.0f));
    Settle();
    auto exchange = PeerExchange<float>::Create(config, &communicator, dense.get(), stream->get());
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    ASSERT_TRUE((*exchange)->SumDense(64).ok());
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      communicator.Abort(absl::UnavailableError("told to"));
    }
    EXPECT_TRUE(absl::IsUnavailable((*exchange)->SumDense(64)));
    ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream->get()));  // nothing waits there
    EXPECT_FALSE((*exchange)->BeginPass(3).ok());
    // What came before the end is whole.
    EXPECT_EQ(std::vector<float>(64, 3.0f), dense.Floats());
  });
}

}  // namespace
}  // namespace espalier::model

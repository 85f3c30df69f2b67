// Goal: every instruction set computes the same, and the thread pool runs each task once. Method:
// the sets that this processor has against the plain one over lengths around the vector widths;
// tasks that count themselves.
#include "kernels/cpu/loops.h"

#include <atomic>

#include "libs/base/thread_pool.h"
#include "tests/unit/kernels/kernel_test_util.h"

namespace espalier::kernels {
namespace {

using Floats = std::vector<float>;

class LoopSet : public testing::Test {
 protected:
  // Calls compare(set, plain, n) for every set beyond the plain one and every length.
  void ForSetsAndLengths(
      const std::function<void(const Loops<float>&, const Loops<float>&, int64_t)>& compare) {
    const Loops<float>* sets[3];
    const int count = LoopSets<float>(sets);
    for (int set = 1; set < count; ++set) {
      for (const int64_t n : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257})
        compare(*sets[set], *sets[0], n);
    }
  }
};

TEST_F(LoopSet, ExponentialsAgreeWithTheLibrary) {
  const Loops<float>* sets[3];
  const int count = LoopSets<float>(sets);
  for (int set = 0; set < count; ++set) {
    Floats logits = {0.0f}, weights(1);
    for (float x = -87.0f; x < 0.0f; x += 0.037f) logits.push_back(x);
    weights.resize(logits.size());
    sets[set]->sampling_weights(logits.data(), static_cast<int64_t>(logits.size()), 1.0f,
                                weights.data());
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(weights[i] / std::exp(double{logits[i]}), 1.0, 3e-7)
          << sets[set]->name << " at " << logits[i];
    }
  }
}

TEST_F(LoopSet, SoftmaxAgrees) {
  ForSetsAndLengths([](const Loops<float>& set, const Loops<float>& plain, int64_t n) {
    Floats a = RandomVector<float>(3 * n, 1), b = a, lse_a(3), lse_b(3);
    const int64_t rows = std::min<int64_t>(3, n);
    set.causal_softmax(a.data(), rows, n, n - rows, 0.5f, lse_a.data(), 1);
    plain.causal_softmax(b.data(), rows, n, n - rows, 0.5f, lse_b.data(), 1);
    ExpectCloseNorm(a, b, 1e-6, set.name);
    ExpectCloseNorm(lse_a, lse_b, 1e-6, set.name);
    for (int64_t i = n - rows + 1; i < n; ++i)
      EXPECT_EQ(a[i], 0.0f) << "keys after the query weigh nothing";
  });
}

TEST_F(LoopSet, RowLoopsAgree) {
  ForSetsAndLengths([](const Loops<float>& set, const Loops<float>& plain, int64_t n) {
    const Floats x = RandomVector<float>(2 * n, 1), w = RandomVector<float>(n, 2),
                 dy = RandomVector<float>(2 * n, 3);
    Floats y_a(2 * n), y_b(2 * n), r_a(2), r_b(2), dx_a(2 * n), dx_b(2 * n), dw_a(n), dw_b(n);
    set.rmsnorm_forward(x.data(), w.data(), y_a.data(), r_a.data(), 2, n, 1e-5f);
    plain.rmsnorm_forward(x.data(), w.data(), y_b.data(), r_b.data(), 2, n, 1e-5f);
    set.rmsnorm_backward(dy.data(), x.data(), w.data(), r_b.data(), dx_a.data(), dw_a.data(), 2, n);
    plain.rmsnorm_backward(dy.data(), x.data(), w.data(), r_b.data(), dx_b.data(), dw_b.data(), 2,
                           n);
    ExpectCloseNorm(y_a, y_b, 1e-6, set.name);
    // A single element is normalised to its sign: its gradient is zero but for rounding.
    if (n > 1) ExpectCloseNorm(dx_a, dx_b, 1e-5, set.name);
    ExpectCloseNorm(dw_a, dw_b, 1e-6, set.name);
    Floats logits_a = x, logits_b = x;
    float entropy_a = 0, entropy_b = 0;
    EXPECT_NEAR(set.log_sum_exp(x.data(), n, &entropy_a),
                plain.log_sum_exp(x.data(), n, &entropy_b), 1e-5);
    EXPECT_NEAR(entropy_a, entropy_b, 1e-5);
    set.head_backward(logits_a.data(), n, static_cast<int32_t>(n - 1), 1.0f, -0.5f);
    plain.head_backward(logits_b.data(), n, static_cast<int32_t>(n - 1), 1.0f, -0.5f);
    ExpectCloseNorm(logits_a, logits_b, 1e-6, set.name);
    EXPECT_NEAR(set.squared_norm(x.data(), n), plain.squared_norm(x.data(), n), 1e-12 * n);
  });
}

TEST(ThreadPool, EveryTaskRunsOnceWhateverTheThreads) {
  for (const int threads : {1, 2, 5}) {
    base::ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      const int64_t n = round % 37;
      std::vector<std::atomic<int>> runs(n);
      std::atomic<int> bad_thread{0};
      pool.ForTasks(n, [&](int64_t task, int thread) {
        runs[task].fetch_add(1);
        if (thread < 0 || thread >= threads) bad_thread.fetch_add(1);
      });
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(runs[i].load(), 1);
      ASSERT_EQ(bad_thread.load(), 0);
    }
  }
}

TEST(ThreadPool, RangesCoverEverythingAndRespectTheGrain) {
  for (const int threads : {1, 3}) {
    base::ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 9, 10, 29, 30, 1000}) {
      std::vector<int> covered(n);
      std::atomic<int64_t> smallest{1000};
      pool.ForRanges(n, 10, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++covered[i];
        int64_t seen = smallest.load();
        while (end - begin < seen && !smallest.compare_exchange_weak(seen, end - begin)) {
        }
      });
      EXPECT_EQ(covered, std::vector<int>(n, 1));
      EXPECT_TRUE(n < 10 || smallest.load() >= 10) << n;
    }
  }
}

}  // namespace
}  // namespace espalier::kernels

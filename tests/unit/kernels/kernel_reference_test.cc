// Goal: the float kernels compute what their headers say. Method: each against plain loops in
// double precision over odd sizes and one or three threads. Tolerances are norms: float has 6e-8,
// sums of some hundred terms lose a digit.
#include <array>
#include <numeric>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/head.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/sampling.h"
#include "kernels/swiglu.h"
#include "tests/unit/kernels/kernel_test_util.h"

namespace espalier::kernels {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
constexpr double kTolerance = 1e-6;

class Kernel : public testing::TestWithParam<int> {
 protected:
  base::ThreadPool pool_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Threads, Kernel, testing::Values(1, 3));

// C += op(A) op(B), plain.
Doubles PlainProduct(Product product, const float* a, const float* b, Doubles c, int64_t m,
                     int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t p = 0; p < k; ++p) {
        const double x = product == Product::kTN ? a[p * m + i] : a[i * k + p];
        const double y = product == Product::kNT ? b[j * k + p] : b[p * n + j];
        c[i * n + j] += x * y;
      }
    }
  }
  return c;
}

TEST_P(Kernel, MatmulEqualsPlainLoops) {
  for (const Product product : {Product::kNN, Product::kNT, Product::kTN}) {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{1, 1, 1}, {33, 130, 17}, {200, 65, 40}, {7, 3, 0}, {0, 5, 4}}) {
      for (const bool accumulate : {false, true}) {
        const Floats a = RandomVector<float>(m * k + 1, 1), b = RandomVector<float>(k * n + 1, 2);
        Floats c = RandomVector<float>(m * n, 3);
        Doubles start(c.begin(), c.end());
        if (!accumulate) start.assign(start.size(), 0.0);
        Matmul(MatmulArgs<float>{product, a.data(), b.data(), c.data(), m, n, k, accumulate},
               pool_);
        ExpectCloseNorm(c, PlainProduct(product, a.data(), b.data(), start, m, n, k), kTolerance,
                        "C");
      }
    }
  }
}

TEST_P(Kernel, GroupedProductsEqualOnesByGroup) {
  // Empty groups at both ends and in the middle, one long group.
  const std::vector<int64_t> offsets = {0, 0, 3, 3, 604, 620, 620};
  const int64_t groups = 6, n = 37, k = 70, rows = offsets.back();
  const Floats a = RandomVector<float>(rows * k, 1),
               weights = RandomVector<float>(groups * n * k, 2);
  std::vector<const float*> b;
  for (int64_t group = 0; group < groups; ++group) b.push_back(weights.data() + group * n * k);
  for (const Product product : {Product::kNT, Product::kNN}) {
    Floats c(rows * n, 5.0f), expected(rows * n);
    GroupedMatmul(GroupedMatmulArgs<float>{product, offsets, a.data(), b, c.data(), n, k, false},
                  pool_);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = offsets[group];
      Matmul(MatmulArgs<float>{product, a.data() + first * k, b[group], expected.data() + first * n,
                               offsets[group + 1] - first, n, k},
             pool_);
    }
    ExpectCloseNorm(c, expected, kTolerance, "C");
  }
  const Floats dy = RandomVector<float>(rows * n, 3);
  Floats gradients(groups * n * k, 2.0f), expected = gradients;
  std::vector<float*> c;
  for (int64_t group = 0; group < groups; ++group) c.push_back(gradients.data() + group * n * k);
  GroupedGradient(GroupedGradientArgs<float>{offsets, dy.data(), a.data(), c, n, k}, pool_);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = offsets[group];
    Matmul(
        MatmulArgs<float>{Product::kTN, dy.data() + first * n, a.data() + first * k,
                          expected.data() + group * n * k, n, k, offsets[group + 1] - first, true},
        pool_);
  }
  ExpectCloseNorm(gradients, expected, kTolerance, "gradient");
  EXPECT_EQ(gradients[0], 2.0f);
}

TEST_P(Kernel, RmsNormEqualsItsFormula) {
  const int64_t rows = 131, width = 37;
  const Floats x = RandomVector<float>(rows * width, 1), weight = RandomVector<float>(width, 2);
  Floats y(x.size()), rstd(rows);
  RmsNorm(RmsNormArgs<float>{x.data(), weight.data(), y.data(), rstd.data(), rows, width, 1e-5},
          pool_);
  Doubles expected(x.size());
  for (int64_t row = 0; row < rows; ++row) {
    double square = 0;
    for (int64_t i = 0; i < width; ++i) square += double{x[row * width + i]} * x[row * width + i];
    for (int64_t i = 0; i < width; ++i) {
      expected[row * width + i] = x[row * width + i] / std::sqrt(square / width + 1e-5) * weight[i];
    }
  }
  ExpectCloseNorm(y, expected, kTolerance, "y");
}

TEST_P(Kernel, RopeTurnsHalvesOfAHead) {
  const int64_t rows = 3, heads = 2, d = 4;
  RopeTable<float> table(d, 100.0);
  table.Reserve(8);
  const std::vector<int32_t> positions = {0, 1, 7};
  const Floats x = RandomVector<float>(rows * heads * d, 1);
  Floats y = x;
  Rope(y.data(), rows, heads, positions.data(), table, RopeDirection::kForward, pool_);
  Doubles expected(x.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < d / 2; ++i) {
        const double angle = positions[row] * std::pow(100.0, -2.0 * i / d);
        const int64_t low = (row * heads + head) * d + i, high = low + d / 2;
        expected[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
        expected[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
      }
    }
  }
  ExpectCloseNorm(y, expected, kTolerance, "rotated");
}

// One query against `length` keys, plain.
Doubles PlainAttend(const float* q, const float* k, const float* v, int64_t length, int64_t stride,
                    int64_t d) {
  Doubles scores(length), out(d);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t j = 0; j < d; ++j) scores[i] += double{q[j]} * k[i * stride + j];
    scores[i] = std::exp(scores[i] / std::sqrt(static_cast<double>(d)));
  }
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t j = 0; j < d; ++j) out[j] += scores[i] / sum * v[i * stride + j];
  }
  return out;
}

TEST_P(Kernel, AttentionAndItsDecodeEqualPlainLoops) {
  const std::vector<int64_t> starts = {0, 1, 1, 66, 230};
  const int64_t tokens = starts.back(), heads = 6, kv_heads = 2, d = 10, capacity = 200;
  const Floats q = RandomVector<float>(tokens * heads * d, 1),
               k = RandomVector<float>(tokens * kv_heads * d, 2),
               v = RandomVector<float>(tokens * kv_heads * d, 3);
  Floats out(q.size()), lse(tokens * heads);
  Buffer<float> scratch;
  Attention(AttentionArgs<float>{q.data(), k.data(), v.data(), out.data(), lse.data(), starts,
                                 heads, kv_heads, d},
            scratch, pool_);
  Doubles expected;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    for (int64_t token = starts[s]; token < starts[s + 1]; ++token) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t kv = (starts[s] * kv_heads + head / 3) * d;
        const Doubles row = PlainAttend(q.data() + (token * heads + head) * d, k.data() + kv,
                                        v.data() + kv, token - starts[s] + 1, kv_heads * d, d);
        expected.insert(expected.end(), row.begin(), row.end());
      }
    }
  }
  ExpectCloseNorm(out, expected, kTolerance, "attention");

  // Decoding the last token of each sequence from a cache gives its row again.
  Floats keys(4 * kv_heads * d * capacity), values(keys.size());
  const KvCache<float> cache{keys.data(), values.data(), capacity, kv_heads, d};
  std::vector<int32_t> sequences, lengths;
  Floats last_q, last_out;
  for (int32_t s = 0; s < 4; ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    if (length == 0) continue;
    // In two pieces, as a prompt and then one token.
    AppendToCache(cache, s, 0, k.data() + starts[s] * kv_heads * d,
                  v.data() + starts[s] * kv_heads * d, length - 1);
    const int64_t last = starts[s + 1] - 1;
    AppendToCache(cache, s, length - 1, k.data() + last * kv_heads * d,
                  v.data() + last * kv_heads * d, 1);
    sequences.push_back(s);
    lengths.push_back(static_cast<int32_t>(length));
    last_q.insert(last_q.end(), q.begin() + last * heads * d, q.begin() + (last + 1) * heads * d);
    last_out.insert(last_out.end(), out.begin() + last * heads * d,
                    out.begin() + (last + 1) * heads * d);
  }
  Floats decoded(last_q.size());
  AttentionDecode(cache, last_q.data(), sequences, lengths, heads, decoded.data(), scratch, pool_);
  ExpectCloseNorm(decoded, last_out, kTolerance, "decode");
}

TEST_P(Kernel, SwigluSurvivesExtremes) {
  const Floats gate = {-200.0f, -90.0f, -1.0f, 0.0f, 1.0f, 90.0f, 200.0f, 3.0f},
               up(gate.size(), 2.0f);
  Floats h(gate.size());
  Swiglu(gate.data(), up.data(), h.data(), gate.size(), pool_);
  for (size_t i = 0; i < gate.size(); ++i) {
    const double expected = 2.0 * gate[i] / (1.0 + std::exp(-double{gate[i]}));
    EXPECT_NEAR(h[i], expected, 1e-6 * std::abs(expected) + 1e-30) << gate[i];
  }
  const float nan = std::nanf("");
  Swiglu(&nan, up.data(), h.data(), 1, pool_);
  EXPECT_TRUE(std::isnan(h[0])) << "a NaN must not be hidden";
}

TEST_P(Kernel, RouterChoosesByBiasedScoreAndWeighsByScore) {
  const int64_t tokens = 300, experts = 33, top_k = 5;
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    const Floats logits = RandomVector<float>(tokens * experts, 1),
                 bias = RandomVector<float>(experts, 2, 0.05);
    std::vector<uint8_t> masked(experts);
    masked[0] = masked[17] = masked[32] = 1;
    Floats scores = logits, weight(tokens * top_k);
    std::vector<int32_t> choice(tokens * top_k);
    Router(RouterArgs<float>{score, true, 2.5, scores.data(), bias.data(), masked.data(),
                             choice.data(), weight.data(), tokens, experts, top_k},
           pool_);
    for (int64_t token = 0; token < tokens; ++token) {
      const float* s = scores.data() + token * experts;
      double exp_sum = 0;
      for (int64_t e = 0; e < experts; ++e)
        exp_sum += masked[e] ? 0 : std::exp(double{logits[token * experts + e]});
      std::vector<int32_t> order;
      for (int32_t e = 0; e < experts; ++e) {
        const double x = logits[token * experts + e];
        const double expected =
            score == RouterScore::kSigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x) / exp_sum;
        if (masked[e]) continue;
        EXPECT_NEAR(s[e], expected, 1e-6);
        order.push_back(e);
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return s[a] + bias[a] > s[b] + bias[b]; });
      double sum = 0;
      for (int64_t j = 0; j < top_k; ++j) sum += s[order[j]];
      for (int64_t j = 0; j < top_k; ++j) {
        EXPECT_EQ(choice[token * top_k + j], order[j]);
        EXPECT_NEAR(weight[token * top_k + j], 2.5 * s[order[j]] / sum, 1e-5);
      }
    }
  }
}

TEST_P(Kernel, RouterTiesGoToTheLowerIndex) {
  Floats scores(4, 0.0f), weight(2);
  const Floats bias(4, 0.0f);
  const std::vector<uint8_t> masked = {1, 0, 0, 0};
  std::vector<int32_t> choice(2);
  Router(RouterArgs<float>{RouterScore::kSigmoid, true, 1.0, scores.data(), bias.data(),
                           masked.data(), choice.data(), weight.data(), 1, 4, 2},
         pool_);
  EXPECT_EQ(choice, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(weight, (Floats{0.5f, 0.5f}));
}

TEST_P(Kernel, SlotsGroupTokensInOrder) {
  const std::vector<int32_t> choice = {2, 0, 1, 2, 0, 2}, group_of = {1, 3, 0, 2};
  std::vector<int64_t> offsets(5);
  std::vector<int32_t> slot(6), token_of(6);
  PlanSlots(choice.data(), 3, 2, group_of, offsets.data(), slot.data(), token_of.data());
  EXPECT_EQ(offsets, (std::vector<int64_t>{0, 3, 5, 5, 6}));
  EXPECT_EQ(token_of, (std::vector<int32_t>{0, 1, 2, 0, 2, 1}));
  EXPECT_EQ(slot, (std::vector<int32_t>{0, 3, 5, 1, 4, 2}));
}

TEST_P(Kernel, HeadEqualsPlainLoopsWhetherLogitsAreKeptOrNot) {
  // Large enough that the logits do not fit in kLogitsKept.
  const int64_t rows = 600, width = 3, vocabulary = 30011;
  static_assert(600 * 30011 > kLogitsKept);
  const Floats hidden = RandomVector<float>(rows * width, 1),
               weight = RandomVector<float>(vocabulary * width, 2);
  std::vector<int32_t> targets(rows);
  for (int64_t i = 0; i < rows; ++i)
    targets[i] = i % 5 == 0 ? -1 : static_cast<int32_t>(i * 49 % vocabulary);
  const Floats dlogp = RandomVector<float>(rows, 3);
  Buffer<float> logits;
  Floats logp(rows), entropy(rows), lse(rows), dhidden(hidden.size()), dweight(weight.size());
  HeadArgs<float> args{hidden.data(), weight.data(), targets.data(), logp.data(), entropy.data(),
                       lse.data(),    rows,          width,          vocabulary,  /*keep=*/true};
  Head(args, logits, pool_);
  HeadBackward(args, dlogp.data(), dhidden.data(), dweight.data(), logits, pool_);

  Doubles expected_logp(rows), expected_entropy(rows), expected_dhidden(hidden.size()),
      x(vocabulary);
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0, weighted = 0;
    for (int64_t token = 0; token < vocabulary; ++token) {
      x[token] = 0;
      for (int64_t i = 0; i < width; ++i)
        x[token] += double{hidden[row * width + i]} * weight[token * width + i];
      sum += std::exp(x[token]);
      weighted += std::exp(x[token]) * x[token];
    }
    expected_entropy[row] = std::log(sum) - weighted / sum;
    if (targets[row] < 0) continue;
    expected_logp[row] = x[targets[row]] - std::log(sum);
    for (int64_t token = 0; token < vocabulary; ++token) {
      const double dx = dlogp[row] * ((token == targets[row]) - std::exp(x[token]) / sum);
      for (int64_t i = 0; i < width; ++i)
        expected_dhidden[row * width + i] += dx * weight[token * width + i];
    }
  }
  ExpectCloseNorm(logp, expected_logp, 1e-5, "logp");
  ExpectCloseNorm(entropy, expected_entropy, 2e-5, "entropy");
  // Softmax sums 30011 terms; without vectors they are added one after the other.
  ExpectCloseNorm(dhidden, expected_dhidden, 2e-5, "dhidden");
}

TEST_P(Kernel, AdamWFollowsItsFormula) {
  const int64_t n = 70001;
  Floats value = RandomVector<float>(n, 1), m1 = RandomVector<float>(n, 2, 0.1),
         m2 = RandomVector<float>(n, 3, 0.1);
  const Floats grad = RandomVector<float>(n, 4);
  for (float& x : m2) x = x * x;
  Doubles expected(n), expected_m1(n), expected_m2(n);
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, c1 = 0.19,
               c2 = 0.0975, scale = 0.5;
  for (int64_t i = 0; i < n; ++i) {
    const double g = grad[i] * scale;
    expected_m1[i] = beta1 * m1[i] + (1 - beta1) * g;
    expected_m2[i] = beta2 * m2[i] + (1 - beta2) * g * g;
    expected[i] = value[i] - lr * (expected_m1[i] / c1 / (std::sqrt(expected_m2[i] / c2) + eps) +
                                   decay * value[i]);
  }
  AdamW(AdamWArgs<float>{value.data(), grad.data(), m1.data(), m2.data(), n, lr, beta1, beta2, eps,
                         decay, c1, c2, scale},
        pool_);
  ExpectCloseNorm(value, expected, kTolerance, "value");
  ExpectCloseNorm(m1, expected_m1, kTolerance, "moment1");
  ExpectCloseNorm(m2, expected_m2, kTolerance, "moment2");
}

TEST_P(Kernel, SquaredNormIsTheSameBitsForAnyThreadCount) {
  const Floats x = RandomVector<float>(300001, 1);
  base::ThreadPool one(1);
  EXPECT_EQ(SquaredNorm(x.data(), x.size(), pool_), SquaredNorm(x.data(), x.size(), one));
  EXPECT_NEAR(SquaredNorm(x.data(), x.size(), pool_), DotOf(x, x), 1e-9 * DotOf(x, x));
  EXPECT_EQ(SquaredNorm(x.data(), 0, pool_), 0.0);
}

TEST_P(Kernel, SamplingInvertsTheCumulativeDistribution) {
  // Probabilities 1/2, 1/4, 1/4 and practically never.
  const Floats logits = {std::log(2.0f), 0.0f, 0.0f, -200.0f};
  const auto draw = [&](double uniform, double temperature) {
    Buffer<float> scratch;
    int32_t token = -1;
    float logp = 0;
    SampleTokens(SampleArgs<float>{logits.data(), &uniform, &token, &logp, 1, 4, temperature},
                 scratch, pool_);
    EXPECT_NEAR(logp, token == 0 ? std::log(0.5) : std::log(0.25), 1e-6);
    return token;
  };
  EXPECT_EQ(draw(0.49, 1.0), 0);
  EXPECT_EQ(draw(0.51, 1.0), 1);
  EXPECT_EQ(draw(0.74, 1.0), 1);
  EXPECT_EQ(draw(0.76, 1.0), 2);
  EXPECT_EQ(draw(0.999999, 1.0), 2);
  EXPECT_EQ(draw(0.60, 0.5), 0);  // at temperature 1/2 the first has 2/3
  EXPECT_EQ(draw(0.999, 0.0), 0);
}

}  // namespace
}  // namespace espalier::kernels

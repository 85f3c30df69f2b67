// Goal: slots are planned exactly as on the CPU, rows land where the plan says, and sums over a
// token's slots are the CPU's.
#include "kernels/cuda/permute.h"

#include "kernels/cuda/swiglu.h"
#include "kernels/output_norm.h"
#include "kernels/permute.h"
#include "kernels/swiglu.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

enum class Routing { kRandom, kOneExpert, kFirstExperts };

// `top_k` different experts a token. kFirstExperts leaves all but top_k experts empty.
std::vector<int32_t> Choices(int64_t tokens, int top_k, int experts, Routing routing) {
  std::vector<int32_t> choice, order(experts);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t token = 0; token < tokens; ++token) {
    if (routing == Routing::kRandom) {
      for (int k = 0; k < top_k; ++k) {
        std::swap(order[k], order[std::uniform_int_distribution<int>(k, experts - 1)(Random())]);
      }
    }
    choice.insert(choice.end(), order.begin(), order.begin() + top_k);
  }
  return choice;
}

struct Plan {
  std::vector<int64_t> offsets;
  std::vector<int32_t> slot, token_of;
};
Plan TwinPlan(const std::vector<int32_t>& choice, int64_t tokens, int top_k,
              const std::vector<int32_t>& group_of) {
  Plan plan{std::vector<int64_t>(group_of.size() + 1), std::vector<int32_t>(choice.size()),
            std::vector<int32_t>(choice.size())};
  kernels::PlanSlots(choice.data(), tokens, top_k, group_of, plan.offsets.data(), plan.slot.data(),
                     plan.token_of.data());
  return plan;
}

TEST(PlanSlots, IsTheCpusExactly) {
  SKIP_WITHOUT_GPU();
  struct Case {
    int64_t tokens;
    int top_k, experts;
    Routing routing;
  };
  const Case cases[] = {{0, 8, 64, Routing::kRandom},           {1, 1, 1, Routing::kRandom},
                        {1, 8, 64, Routing::kRandom},           {33, 3, 5, Routing::kRandom},
                        {1000, 1, 7, Routing::kOneExpert},      {5000, 1, 64, Routing::kOneExpert},
                        {4097, 8, 512, Routing::kRandom},       {3000, 2, 1024, Routing::kRandom},
                        {16384, 8, 64, Routing::kRandom},       {32768, 4, 32, Routing::kRandom},
                        {16384, 8, 96, Routing::kFirstExperts}, {40000, 8, 300, Routing::kRandom},
                        {127, 8, 8, Routing::kRandom}};
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, " << c.top_k << " of " << c.experts);
    const auto choice = Choices(c.tokens, c.top_k, c.experts, c.routing);
    const auto group_of = RandomOrder(c.experts);
    const Plan want = TwinPlan(choice, c.tokens, c.top_k, group_of);
    std::vector<int32_t> counts(c.experts, 0);
    for (const int32_t expert : choice) ++counts[expert];
    const auto weight = RandomValues<float>(static_cast<int64_t>(choice.size()));
    std::vector<float> want_weight(choice.size());
    for (size_t i = 0; i < choice.size(); ++i) want_weight[want.slot[i]] = weight[i];
    const Device<float> device_weight(weight), row_weight(static_cast<int64_t>(choice.size()));
    const Device<int32_t> device_choice(choice), device_group(group_of), device_counts(c.experts),
        offsets(c.experts + 1), slot(choice.size()), token_of(choice.size()),
        scratch(PlanSlotsScratch(c.tokens, c.experts));
    ASSERT_EQ(cudaSuccess, PlanSlots({.choice = device_choice.get(),
                                      .group_of = device_group.get(),
                                      .counts = device_counts.get(),
                                      .offsets = offsets.get(),
                                      .slot = slot.get(),
                                      .token_of = token_of.get(),
                                      .scratch = scratch.get(),
                                      .tokens = c.tokens,
                                      .top_k = c.top_k,
                                      .experts = c.experts,
                                      .weight = device_weight.get(),
                                      .row_weight = row_weight.get()},
                                     nullptr));
    EXPECT_EQ(want_weight, row_weight.Floats());
    EXPECT_EQ(counts, device_counts.Raw());
    EXPECT_EQ(std::vector<int32_t>(want.offsets.begin(), want.offsets.end()), offsets.Raw());
    EXPECT_EQ(want.slot, slot.Raw());
    EXPECT_EQ(want.token_of, token_of.Raw());
  }
}

template <typename T>
class PermuteTest : public ::testing::Test {};
TYPED_TEST_SUITE(PermuteTest, Elements);

constexpr int64_t kWidths[] = {1, 3, 8, 40, 257, 768, 2048, 9001};

TYPED_TEST(PermuteTest, RowsAreGatheredAndScatteredExactly) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t width : kWidths) {
    for (const int64_t rows : {1, 130}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << width);
      const auto x = RandomValues<T>(rows * width);
      const Device<T> device(x), gathered(3 * rows * width);
      auto source = RandomInts(3 * rows, 0, static_cast<int32_t>(rows));
      for (size_t i = 2; i < source.size(); i += 5) source[i] = -1;
      std::vector<float> want(3 * rows * width, 0.0f);
      for (int64_t row = 0; row < 3 * rows; ++row) {
        if (source[row] >= 0)
          std::copy_n(x.begin() + source[row] * width, width, want.begin() + row * width);
      }
      ASSERT_EQ(cudaSuccess, GatherRows(device.get(), Device<int32_t>(source).get(), gathered.get(),
                                        3 * rows, width, nullptr));
      EXPECT_EQ(want, gathered.Floats());

      auto target = RandomOrder(rows);
      if (rows > 1) target[rows / 2] = -1;
      const auto old = RandomValues<T>(rows * width);
      const Device<T> scattered(old);
      want = old;
      for (int64_t row = 0; row < rows; ++row) {
        if (target[row] >= 0)
          std::copy_n(x.begin() + row * width, width, want.begin() + target[row] * width);
      }
      ASSERT_EQ(cudaSuccess, ScatterRows(device.get(), Device<int32_t>(target).get(),
                                         scattered.get(), rows, width, nullptr));
      EXPECT_EQ(want, scattered.Floats());
    }
  }
}

TYPED_TEST(PermuteTest, SpreadingIsGatheringBySlots) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t width : kWidths) {
    for (const int top_k : {1, 3, 8}) {
      constexpr int64_t kTokens = 67;
      SCOPED_TRACE(::testing::Message() << width << " top " << top_k);
      const auto x = RandomValues<T>(kTokens * width);
      const auto slot = RandomOrder(kTokens * top_k);
      const Device<T> device(x), spread(kTokens * top_k * width);
      ASSERT_EQ(cudaSuccess, SpreadRows(device.get(), Device<int32_t>(slot).get(), spread.get(),
                                        kTokens, top_k, width, nullptr));
      std::vector<float> want(kTokens * top_k * width);
      for (int64_t i = 0; i < kTokens * top_k; ++i) {
        std::copy_n(x.begin() + i / top_k * width, width, want.begin() + slot[i] * width);
      }
      EXPECT_EQ(want, spread.Floats());
    }
  }
}

TYPED_TEST(PermuteTest, SumsOverSlotsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t width : kWidths) {
    for (const int top_k : {1, 3, 4, 8, 11}) {
      for (const int64_t tokens : {1, 67}) {
        SCOPED_TRACE(::testing::Message() << tokens << " x " << width << " top " << top_k);
        const auto rows = RandomValues<T>(tokens * top_k * width),
                   residual = RandomValues<T>(tokens * width);
        const auto slot = RandomOrder(tokens * top_k);
        const auto rows_double = Doubles(rows);
        std::vector<double> sums(tokens * width, 0.0);
        kernels::Unpermute(kernels::CombineArgs<double>{.expert_rows = rows_double.data(),
                                                        .slot = slot.data(),
                                                        .tokens = tokens,
                                                        .top_k = top_k,
                                                        .width = width},
                           sums.data(), Pool());
        const Device<T> device_rows(rows), out(tokens * width), sum_in_place(residual);
        const Device<int32_t> device_slot(slot);
        SumSlotsArgs<T> args{.rows = device_rows.get(),
                             .slot = device_slot.get(),
                             .out = out.get(),
                             .tokens = tokens,
                             .width = width,
                             .top_k = top_k};
        ASSERT_EQ(cudaSuccess, SumSlots(args, nullptr));
        // Terms of about 1: a sum of few elements may cancel, and its rounding is relative to the
        // partial sums.
        const double scale = std::max(Norm(sums), std::sqrt(static_cast<double>(tokens * width)));
        EXPECT_LT(ErrorOver(out.Floats(), sums, scale), OneRounding<T>());
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += residual[i];
        args.residual = args.out = sum_in_place.get();
        ASSERT_EQ(cudaSuccess, SumSlots(args, nullptr));
        EXPECT_LT(ErrorOver(sum_in_place.Floats(), sums, std::max(scale, Norm(sums))),
                  OneRounding<T>());
      }
    }
  }
}

TYPED_TEST(PermuteTest, OutputNormsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  constexpr int kExperts = 9, kTopK = 3;
  for (const int64_t width : kWidths) {
    const int64_t tokens = 100, slots = tokens * kTopK;
    SCOPED_TRACE(width);
    auto rows = RandomValues<T>(slots * width);
    const auto slot = RandomOrder(slots);
    const auto choice = Choices(tokens, kTopK, kExperts, Routing::kRandom);
    rows[5 * width] = std::numeric_limits<float>::quiet_NaN();
    rows[7 * width] = std::numeric_limits<float>::infinity();
    rows[9 * width] = 1e9f;  // counts kOutputNormMax
    const auto rows_double = Doubles(rows);
    const std::vector<double> ones(slots, 1.0);
    std::vector<double> out(tokens * width, 0.0);
    std::vector<int64_t> want(kExperts, 1000000), counts(kExperts, 0);
    for (const int32_t expert : choice) ++counts[expert];
    kernels::CombineWithNorms(
        kernels::OutputNormArgs<double>{.combine = {.expert_rows = rows_double.data(),
                                                    .weight = ones.data(),
                                                    .slot = slot.data(),
                                                    .tokens = tokens,
                                                    .top_k = kTopK,
                                                    .width = width},
                                        .choice = choice.data(),
                                        .sums = want.data(),
                                        .experts = kExperts},
        out.data(), Pool());
    const Device<T> device(rows);
    const Device<int64_t> sums(std::vector<int64_t>(kExperts, 1000000));
    ASSERT_EQ(cudaSuccess,
              AddOutputNorms(device.get(), Device<int32_t>(slot).get(),
                             Device<int32_t>(choice).get(), slots, width, sums.get(), nullptr));
    const auto got = sums.Raw();
    for (int expert = 0; expert < kExperts; ++expert) {
      // An fp32 sum of squares a row (2e-6), and rounding to a millionth each.
      EXPECT_NEAR(want[expert], got[expert], 2e-6 * want[expert] + counts[expert]) << expert;
    }
  }
}

// The CPU weighs rows when it combines them; the device when it gates them. Without a product in
// between both are the same function, and so are their gradients.
TYPED_TEST(PermuteTest, WeightInTheGateIsWeightInTheCombination) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  constexpr int64_t kTokens = 53, kTopK = 4, kInner = 96, kSlots = kTokens * kTopK;
  const auto gate_up = RandomValues<T>(kSlots * 2 * kInner),
             dout = RandomValues<T>(kTokens * kInner);
  const auto weight = RandomValues<float>(kSlots);
  const Plan plan =
      TwinPlan(Choices(kTokens, kTopK, 16, Routing::kRandom), kTokens, kTopK, RandomOrder(16));

  std::vector<double> gate, up;
  for (int64_t row = 0; row < kSlots; ++row) {
    const auto at = gate_up.begin() + row * 2 * kInner;
    gate.insert(gate.end(), at, at + kInner);
    up.insert(up.end(), at + kInner, at + 2 * kInner);
  }
  const auto weight_double = Doubles(weight), dout_double = Doubles(dout);
  std::vector<double> h(kSlots * kInner), out(kTokens * kInner, 0.0), dh(h.size()), dweight(kSlots),
      dgate_up;
  kernels::Swiglu(gate.data(), up.data(), h.data(), kSlots * kInner, Pool());
  const kernels::CombineArgs<double> combine{.expert_rows = h.data(),
                                             .weight = weight_double.data(),
                                             .slot = plan.slot.data(),
                                             .tokens = kTokens,
                                             .top_k = kTopK,
                                             .width = kInner};
  kernels::Combine(combine, out.data(), Pool());
  kernels::CombineBackward(combine, dout_double.data(), dh.data(), dweight.data(), Pool());
  kernels::SwigluBackward(gate.data(), up.data(), dh.data(), kSlots * kInner, Pool());
  for (int64_t row = 0; row < kSlots; ++row) {
    dgate_up.insert(dgate_up.end(), gate.begin() + row * kInner, gate.begin() + (row + 1) * kInner);
    dgate_up.insert(dgate_up.end(), up.begin() + row * kInner, up.begin() + (row + 1) * kInner);
  }

  const Device<T> d_gate_up(gate_up), d_dout(dout), d_h(kSlots * kInner), d_out(kTokens * kInner),
      d_dh(kSlots * kInner);
  const Device<float> d_weight(weight), row_weight(kSlots), drow_weight(kSlots), d_dweight(kSlots);
  const Device<int32_t> slot(plan.slot), token_of(plan.token_of);
  ASSERT_EQ(cudaSuccess,
            ScatterRows(d_weight.get(), slot.get(), row_weight.get(), kSlots, 1, nullptr));
  ASSERT_EQ(cudaSuccess,
            Swiglu(d_gate_up.get(), row_weight.get(), d_h.get(), kSlots, kInner, nullptr));
  ASSERT_EQ(cudaSuccess, SumSlots(SumSlotsArgs<T>{.rows = d_h.get(),
                                                  .slot = slot.get(),
                                                  .out = d_out.get(),
                                                  .tokens = kTokens,
                                                  .width = kInner,
                                                  .top_k = kTopK},
                                  nullptr));
  EXPECT_LT(RelativeError(d_out.Floats(), out), 2 * OneRounding<T>());  // rows and sums are rounded
  ASSERT_EQ(cudaSuccess,
            GatherRows(d_dout.get(), token_of.get(), d_dh.get(), kSlots, kInner, nullptr));
  ASSERT_EQ(cudaSuccess, SwigluBackward(SwigluBackwardArgs<T>{.gate_up = d_gate_up.get(),
                                                              .row_weight = row_weight.get(),
                                                              .dh = d_dh.get(),
                                                              .dgate_up = d_gate_up.get(),
                                                              .drow_weight = drow_weight.get(),
                                                              .rows = kSlots,
                                                              .inner = kInner},
                                        nullptr));
  EXPECT_LT(RelativeError(d_gate_up.Floats(), dgate_up), OneRounding<T>());
  ASSERT_EQ(cudaSuccess,
            GatherRows(drow_weight.get(), slot.get(), d_dweight.get(), kSlots, 1, nullptr));
  EXPECT_LT(RelativeError(d_dweight.Floats(), dweight), 1e-5);  // fp32 whatever T is
}

}  // namespace
}  // namespace espalier::kernels::cuda

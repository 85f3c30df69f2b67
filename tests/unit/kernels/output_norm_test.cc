// Goal: the combination is the same bits with the norms as without, and the norms are those of the
// plain definition whatever the threads. Method: a reference in double; each instruction set
// against the plain one.
#include "kernels/output_norm.h"

#include <limits>

#include "kernels/cpu/loops.h"
#include "tests/unit/kernels/kernel_test_util.h"

namespace espalier::kernels {
namespace {

// A routing of `tokens` over `experts`, and rows to combine.
template <typename T>
struct Routed {
  Routed(int64_t tokens, int64_t experts, int64_t top_k, int64_t width) : tokens(tokens) {
    std::mt19937 random(static_cast<uint32_t>(tokens * 31 + width));
    std::vector<int32_t> group_of(experts);
    for (int64_t e = 0; e < experts; ++e) group_of[e] = static_cast<int32_t>(e);
    for (int64_t token = 0; token < tokens; ++token) {
      // The last expert never gets a token.
      const auto first = static_cast<int32_t>(random() % (experts - 1));
      for (int64_t k = 0; k < top_k; ++k) {
        choice.push_back(static_cast<int32_t>((first + k) % (experts - 1)));
      }
    }
    std::vector<int64_t> offsets(experts + 1);
    std::vector<int32_t> token_of(tokens * top_k);
    slot.resize(tokens * top_k);
    PlanSlots(choice.data(), tokens, top_k, group_of, offsets.data(), slot.data(), token_of.data());
    rows = RandomVector<T>(tokens * top_k * width, 5);
    weight = RandomVector<T>(tokens * top_k, 6);
    for (T& w : weight) w = std::abs(w);
    args = {.combine = {.expert_rows = rows.data(),
                        .weight = weight.data(),
                        .slot = slot.data(),
                        .tokens = tokens,
                        .top_k = top_k,
                        .width = width},
            .choice = choice.data(),
            .experts = experts};
  }

  // The sums as the header says them, in millionths.
  std::vector<double> Reference() const {
    const CombineArgs<T>& combine = args.combine;
    std::vector<double> sums(args.experts, 0.0);
    for (int64_t i = 0; i < tokens * combine.top_k; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < combine.width; ++j) {
        const double y = rows[slot[i] * combine.width + j];
        squares += y * y;
      }
      sums[choice[i]] += static_cast<double>(weight[i]) * std::sqrt(squares) * kOutputNormUnits;
    }
    return sums;
  }

  int64_t tokens;
  std::vector<int32_t> choice, slot;
  std::vector<T> rows, weight;
  OutputNormArgs<T> args;
};

template <typename T>
void ExpectNormsAndBits(int64_t tokens, int64_t experts, int64_t top_k, int64_t width) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, width " << width);
  Routed<T> routed(tokens, experts, top_k, width);
  std::vector<int64_t> first;
  for (const int threads : {1, 2, 5}) {
    base::ThreadPool pool(threads);
    std::vector<T> plain = RandomVector<T>(tokens * width, 7), with_norms = plain;
    Combine(routed.args.combine, plain.data(), pool);
    std::vector<int64_t> sums(experts, 100);  // added to, not replaced
    routed.args.sums = sums.data();
    CombineWithNorms(routed.args, with_norms.data(), pool);
    EXPECT_EQ(with_norms, plain) << threads << " threads";
    if (first.empty()) first = sums;
    EXPECT_EQ(sums, first) << threads << " threads";
  }
  // Half a unit a term for rounding, and float's own error in each norm.
  const std::vector<double> reference = routed.Reference();
  for (int64_t e = 0; e < experts; ++e) {
    EXPECT_NEAR(static_cast<double>(first[e] - 100), reference[e],
                0.5 * static_cast<double>(tokens) + 2e-6 * reference[e])
        << "expert " << e;
  }
  EXPECT_EQ(first[experts - 1], 100);
}

TEST(CombineWithNorms, EqualsCombineAndThePlainSums) {
  for (const int64_t tokens : {0, 1, 63, 64, 65, 700}) {
    for (const int64_t width : {1, 7, 16, 33, 128}) {
      ExpectNormsAndBits<float>(tokens, 9, 2, width);
      ExpectNormsAndBits<double>(tokens, 9, 3, width);
    }
  }
}

TEST(CombineWithNorms, WhatIsNotFiniteCountsNothingAndWhatIsHugeIsCapped) {
  Routed<float> routed(4, 5, 1, 3);
  routed.choice = {0, 1, 2, 3};
  routed.slot = {0, 1, 2, 3};
  routed.args.choice = routed.choice.data();
  routed.args.combine.slot = routed.slot.data();
  routed.rows[0] = std::numeric_limits<float>::quiet_NaN();
  routed.rows[3] = std::numeric_limits<float>::infinity();
  routed.rows[6] = 1e18f;
  routed.weight = {1, 1, 1, 1};
  routed.args.combine.weight = routed.weight.data();
  std::vector<int64_t> sums(5, 0);
  routed.args.sums = sums.data();
  std::vector<float> out(12);
  base::ThreadPool pool(1);
  CombineWithNorms(routed.args, out.data(), pool);
  EXPECT_EQ(sums[0], 0);
  EXPECT_EQ(sums[1], 0);
  EXPECT_EQ(sums[2], static_cast<int64_t>(kOutputNormMax * kOutputNormUnits));
  EXPECT_GT(sums[3], 0);
}

TEST(CombineWithNorms, EveryInstructionSetAgrees) {
  const Loops<float>* sets[3];
  const int count = LoopSets<float>(sets);
  for (const int64_t width : {1, 8, 15, 16, 17, 33, 100, 257}) {
    const Routed<float> routed(10, 5, 2, width);
    const CombineArgs<float>& c = routed.args.combine;
    for (int set = 0; set < count; ++set) {
      std::vector<float> combined(10 * width, 0.5f), out = combined, norms(20), plain(20);
      sets[set]->combine(c.expert_rows, c.weight, c.slot, combined.data(), 10, 2, width);
      sets[set]->combine_norms(c.expert_rows, c.weight, c.slot, out.data(), norms.data(), 10, 2,
                               width);
      EXPECT_EQ(out, combined) << sets[set]->name << " width " << width;
      sets[0]->combine_norms(c.expert_rows, c.weight, c.slot, out.data(), plain.data(), 10, 2,
                             width);
      ExpectCloseNorm(norms, plain, 1e-6, sets[set]->name);
    }
  }
}

}  // namespace
}  // namespace espalier::kernels

// Goal: each kernel's backward pass is the gradient of its forward pass. Method: double precision;
// the loss is the dot product of the output with random weights, so those weights are the output's
// gradient; central differences.
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/head.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"
#include "tests/unit/kernels/kernel_test_util.h"

namespace espalier::kernels {
namespace {

using Doubles = std::vector<double>;

// With two threads, so that shares and their borders are part of what is checked.
class KernelGradient : public testing::TestWithParam<int> {
 protected:
  base::ThreadPool pool_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Threads, KernelGradient, testing::Values(1, 2));

TEST_P(KernelGradient, RmsNorm) {
  const int64_t rows = 150, width = 10;
  Doubles x = RandomVector<double>(rows * width, 1), weight = RandomVector<double>(width, 2);
  const Doubles dy = RandomVector<double>(rows * width, 3);
  Doubles y(rows * width), rstd(rows), dx(rows * width), dweight(width);
  const auto loss = [&] {
    RmsNorm(RmsNormArgs<double>{x.data(), weight.data(), y.data(), rstd.data(), rows, width, 1e-5},
            pool_);
    return DotOf(y, dy);
  };
  loss();
  Buffer<double> scratch;
  RmsNormBackward(RmsNormBackwardArgs<double>{dy.data(), x.data(), weight.data(), rstd.data(),
                                              dx.data(), dweight.data(), rows, width},
                  scratch, pool_);
  ExpectGradient(x, dx, loss, "x");
  ExpectGradient(weight, dweight, loss, "weight");
}

TEST_P(KernelGradient, RopeIsUndoneByItsBackward) {
  const int64_t rows = 140, heads = 3, head_dim = 6;
  RopeTable<double> table(head_dim, 10000.0);
  table.Reserve(rows);
  std::vector<int32_t> positions(rows);
  for (int64_t i = 0; i < rows; ++i) positions[i] = static_cast<int32_t>(i * 7 % rows);
  Doubles x = RandomVector<double>(rows * heads * head_dim, 1);
  const Doubles dy = RandomVector<double>(x.size(), 2);
  const auto loss = [&] {
    Doubles y = x;
    Rope(y.data(), rows, heads, positions.data(), table, RopeDirection::kForward, pool_);
    return DotOf(y, dy);
  };
  Doubles dx = dy;
  Rope(dx.data(), rows, heads, positions.data(), table, RopeDirection::kBackward, pool_);
  ExpectGradient(x, dx, loss, "x");
}

TEST_P(KernelGradient, Attention) {
  // Lengths around the block of queries, one token, none; two query heads a key head.
  const std::vector<int64_t> starts = {0, 5, 6, 6, 70, 135};
  const int64_t tokens = starts.back(), heads = 4, kv_heads = 2, d = 6;
  Doubles q = RandomVector<double>(tokens * heads * d, 1),
          k = RandomVector<double>(tokens * kv_heads * d, 2),
          v = RandomVector<double>(tokens * kv_heads * d, 3);
  const Doubles dout = RandomVector<double>(tokens * heads * d, 4);
  Doubles out(dout.size()), lse(tokens * heads), delta(tokens * heads);
  Doubles dq(q.size(), 9.0), dk(k.size(), 9.0), dv(v.size(), 9.0);  // overwritten
  Buffer<double> scratch;
  const AttentionArgs<double> args{q.data(), k.data(), v.data(), out.data(), lse.data(),
                                   starts,   heads,    kv_heads, d};
  const auto loss = [&] {
    Attention(args, scratch, pool_);
    return DotOf(out, dout);
  };
  loss();
  AttentionBackward(AttentionBackwardArgs<double>{args, dout.data(), dq.data(), dk.data(),
                                                  dv.data(), delta.data()},
                    scratch, pool_);
  ExpectGradient(q, dq, loss, "q");
  ExpectGradient(k, dk, loss, "k");
  ExpectGradient(v, dv, loss, "v");
}

TEST_P(KernelGradient, Swiglu) {
  const int64_t n = 40000;
  Doubles gate = RandomVector<double>(n, 1, 3.0), up = RandomVector<double>(n, 2), h(n);
  const Doubles dh = RandomVector<double>(n, 3);
  const auto loss = [&] {
    Swiglu(gate.data(), up.data(), h.data(), n, pool_);
    return DotOf(h, dh);
  };
  loss();
  Doubles dgate = gate, dup = up, reverse = dh;
  SwigluBackward(dgate.data(), dup.data(), reverse.data(), n, pool_);
  ExpectCloseNorm(reverse, h, 1e-14, "h comes back");
  ExpectGradient(gate, dgate, loss, "gate");
  ExpectGradient(up, dup, loss, "up");
}

TEST_P(KernelGradient, EmbeddingAddsRepeatedTokens) {
  const std::vector<int32_t> tokens = {3, 0, 3, 3, 1};
  const int64_t width = 130;
  Doubles table = RandomVector<double>(5 * width, 1), out(tokens.size() * width),
          dtable(table.size());
  const Doubles dout = RandomVector<double>(out.size(), 2);
  const auto loss = [&] {
    Embed(table.data(), tokens.data(), out.data(), tokens.size(), width, pool_);
    return DotOf(out, dout);
  };
  EmbedBackward(dout.data(), tokens.data(), dtable.data(), tokens.size(), width, pool_);
  ExpectGradient(table, dtable, loss, "table");
  EXPECT_EQ(dtable[2 * width], 0.0);
}

struct RouterCase {
  RouterScore score;
  bool normalize;
  double aux_scale;
};

TEST_P(KernelGradient, Router) {
  for (const RouterCase& one : {RouterCase{RouterScore::kSigmoid, true, 0},
                                {RouterScore::kSigmoid, false, 0.4},
                                {RouterScore::kSoftmax, true, 0.4},
                                {RouterScore::kSoftmax, false, 0}}) {
    const int64_t tokens = 130, experts = 6, top_k = 2;
    Doubles logits = RandomVector<double>(tokens * experts, 5), scores, weight(tokens * top_k);
    const Doubles bias = {0, 0.1, 0, -0.2, 0, 0}, dweight = RandomVector<double>(tokens * top_k, 6);
    const std::vector<uint8_t> masked = {0, 0, 1, 0, 0, 0};
    std::vector<int32_t> choice(tokens * top_k);
    std::vector<int64_t> counts(experts);
    RouterArgs<double> args{one.score,   one.normalize, 1.7,           nullptr,
                            bias.data(), masked.data(), choice.data(), weight.data(),
                            tokens,      experts,       top_k};
    const auto loss = [&] {
      scores = logits;
      args.scores = scores.data();
      Router(args, pool_);
      counts.assign(experts, 0);
      for (const int32_t expert : choice) ++counts[expert];
      return DotOf(weight, dweight) + one.aux_scale * AuxiliaryLoss(args, counts.data());
    };
    loss();
    EXPECT_EQ(counts[2], 0);
    Doubles dlogits(logits.size());
    RouterBackward(RouterBackwardArgs<double>{args, dweight.data(), dlogits.data(), one.aux_scale,
                                              counts.data()},
                   pool_);
    ExpectGradient(logits, dlogits, loss, "logits");
  }
}

TEST_P(KernelGradient, PermuteAndCombine) {
  const int64_t tokens = 140, top_k = 2, width = 5, slots = tokens * top_k;
  const std::vector<int32_t> group_of = {2, 0, 3, 1};
  std::vector<int32_t> choice(slots), slot(slots), token_of(slots);
  for (int64_t token = 0; token < tokens; ++token) {
    choice[token * 2] = static_cast<int32_t>(token % 3);
    choice[token * 2 + 1] = static_cast<int32_t>(token % 3 + 1);
  }
  std::vector<int64_t> offsets(5);
  PlanSlots(choice.data(), tokens, top_k, group_of, offsets.data(), slot.data(), token_of.data());
  Doubles x = RandomVector<double>(tokens * width, 1), weight = RandomVector<double>(slots, 2);
  const Doubles dout = RandomVector<double>(tokens * width, 3);
  // Experts that square their input, so that the rows' gradient is not constant.
  Doubles rows(slots * width), expert_out(slots * width), out;
  const CombineArgs<double> args{
      expert_out.data(), weight.data(), slot.data(), tokens, top_k, width};
  const auto loss = [&] {
    GatherRows(x.data(), token_of.data(), rows.data(), slots, width, pool_);
    for (size_t i = 0; i < rows.size(); ++i) expert_out[i] = rows[i] * rows[i];
    out.assign(tokens * width, 0.0);
    Combine(args, out.data(), pool_);
    return DotOf(out, dout);
  };
  loss();
  Doubles dexpert(slots * width), dweight(slots), dx(x.size());
  CombineBackward(args, dout.data(), dexpert.data(), dweight.data(), pool_);
  for (size_t i = 0; i < rows.size(); ++i) dexpert[i] *= 2 * rows[i];
  CombineArgs<double> back = args;
  back.expert_rows = dexpert.data();
  Unpermute(back, dx.data(), pool_);
  ExpectGradient(x, dx, loss, "x");
  ExpectGradient(weight, dweight, loss, "weight");
}

TEST_P(KernelGradient, Head) {
  const int64_t rows = 40, width = 6, vocabulary = 11;
  Doubles hidden = RandomVector<double>(rows * width, 1),
          weight = RandomVector<double>(vocabulary * width, 2);
  std::vector<int32_t> targets(rows);
  for (int64_t i = 0; i < rows; ++i)
    targets[i] = static_cast<int32_t>(i % 12) - 1;  // -1 now and then
  const Doubles dlogp = RandomVector<double>(rows, 3);
  Doubles logp(rows), lse(rows), dhidden(hidden.size()), dweight(weight.size());
  Buffer<double> logits;
  const HeadArgs<double> args{hidden.data(), weight.data(), targets.data(), logp.data(),
                              nullptr,       lse.data(),    rows,           width,
                              vocabulary,    /*keep=*/true};
  const auto loss = [&] {
    Head(args, logits, pool_);
    return DotOf(logp, dlogp);
  };
  loss();
  HeadBackward(args, dlogp.data(), dhidden.data(), dweight.data(), logits, pool_);
  ExpectGradient(hidden, dhidden, loss, "hidden");
  ExpectGradient(weight, dweight, loss, "weight");
}

}  // namespace
}  // namespace espalier::kernels

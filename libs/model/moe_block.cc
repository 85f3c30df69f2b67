// Routing, exchange, experts and combination of a MoE layer; the dense SwiGLU of dense layers and
// shared experts.
#include "libs/model/moe_block.h"

#include <cstring>

#include "kernels/norm.h"
#include "kernels/output_norm.h"
#include "kernels/permute.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"
#include "libs/base/status_macros.h"
#include "libs/model/linear.h"

namespace espalier::model {
namespace {

template <typename T>
void DenseForward(const Context<T>& context, const FeedForward<T>& layer, int64_t tokens,
                  T* x_out) {
  const PhaseTimer timer(context.clock, Phase::kExperts);
  const FfnWeights<T>& ffn = layer.weights.dense;
  const int64_t inner = ffn.gate.shape[0];
  T* gate = layer.act.dense_gate.Get(tokens * inner);
  T* up = layer.act.dense_up.Get(tokens * inner);
  T* h = context.scratch.wide.Get(tokens * inner);
  Linear(layer.act.h2.data(), ffn.gate, gate, tokens, Write::kReplace, context.pool);
  Linear(layer.act.h2.data(), ffn.up, up, tokens, Write::kReplace, context.pool);
  kernels::Swiglu(gate, up, h, tokens * inner, context.pool);
  Linear(h, ffn.down, x_out, tokens, Write::kAdd, context.pool);
}

template <typename T>
void DenseBackward(const Context<T>& context, const FeedForward<T>& layer, int64_t tokens,
                   const T* dx, T* dh2, Write write) {
  const PhaseTimer timer(context.clock, Phase::kExperts);
  FfnWeights<T>& ffn = layer.weights.dense;
  const int64_t inner = ffn.gate.shape[0], width = context.config.width;
  T* dgate = layer.act.dense_gate.data();
  T* dup = layer.act.dense_up.data();
  T* h = context.scratch.wide.Get(tokens * inner);
  kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kNN,
                                         .a = dx,
                                         .b = ffn.down.value.data(),
                                         .c = h,
                                         .m = tokens,
                                         .n = inner,
                                         .k = width},
                  context.pool);
  kernels::SwigluBackward(dgate, dup, h, tokens * inner, context.pool);
  kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kTN,
                                         .a = dx,
                                         .b = h,
                                         .c = ffn.down.grad.data(),
                                         .m = width,
                                         .n = inner,
                                         .k = tokens,
                                         .accumulate = true},
                  context.pool);
  LinearBackward(dgate, layer.act.h2.data(), ffn.gate, dh2, tokens, write, context.pool);
  LinearBackward(dup, layer.act.h2.data(), ffn.up, dh2, tokens, Write::kAdd, context.pool);
}

template <typename T>
kernels::RouterArgs<T> RouterArgsOf(const ModelConfig& config, const FeedForward<T>& layer,
                                    int64_t tokens) {
  return {.score = config.router == RouterKind::kSoftmax ? kernels::RouterScore::kSoftmax
                                                         : kernels::RouterScore::kSigmoid,
          .normalize = config.normalize_top_k,
          .scaling = config.routed_scaling,
          .scores = layer.act.scores.data(),
          .bias = layer.weights.selection_bias.data(),
          .masked = layer.layout.masked.data(),
          .choice = layer.act.choice.data(),
          .weight = layer.act.weight.data(),
          .tokens = tokens,
          .experts = static_cast<int64_t>(layer.layout.ids.size()),
          .top_k = config.top_k,
          .choice_given = layer.act.choice_given};
}

// Scores, choices, weights and slots of this rank's tokens.
template <typename T>
void Route(const Context<T>& context, const FeedForward<T>& layer, int64_t tokens,
           std::vector<int64_t>& route_counts) {
  PhaseTimer timer(context.clock, Phase::kRouter);
  timer.set_tokens(tokens);
  const int64_t experts = static_cast<int64_t>(layer.layout.ids.size()),
                top_k = context.config.top_k;
  LayerActivations<T>& act = layer.act;
  Linear(act.h2.data(), layer.weights.router, act.scores.Get(tokens * experts), tokens,
         Write::kReplace, context.pool);
  act.choice.Get(tokens * top_k);
  act.weight.Get(tokens * top_k);
  kernels::Router(RouterArgsOf(context.config, layer, tokens), context.pool);
  act.slot_offsets.resize(experts + 1);
  kernels::PlanSlots(act.choice.data(), tokens, top_k, layer.exchange.group_of(),
                     act.slot_offsets.data(), act.slot.Get(tokens * top_k),
                     act.token_of.Get(tokens * top_k));
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int32_t group = layer.exchange.group_of()[expert];
    route_counts[expert] += act.slot_offsets[group + 1] - act.slot_offsets[group];
  }
}

// Fills act.expert_in with the rows of this rank's experts.
template <typename T>
absl::Status Dispatch(const Context<T>& context, const FeedForward<T>& layer) {
  PhaseTimer timer(context.clock, Phase::kDispatch);
  const int64_t width = context.config.width;
  LayerActivations<T>& act = layer.act;
  {
    const PhaseTimer exchange(context.clock, Phase::kExchange);
    RETURN_IF_ERROR(layer.exchange.Plan(act.slot_offsets));
  }
  T* expert_in = act.expert_in.Get(layer.exchange.group_rows() * width);
  const int64_t slots = layer.exchange.slot_rows();
  timer.set_tokens(slots);
  if (layer.exchange.single()) {
    kernels::GatherRows(act.h2.data(), act.token_of.data(), expert_in, slots, width, context.pool);
    return absl::OkStatus();
  }
  T* send = context.scratch.slots.Get(slots * width);
  kernels::GatherRows(act.h2.data(), act.token_of.data(), send, slots, width, context.pool);
  const PhaseTimer exchange(context.clock, Phase::kExchange);
  return layer.exchange.ToExperts(send, expert_in, width, context.scratch.wire);
}

// Value or gradient pointers of one projection over this rank's experts, for the grouped products.
template <typename T>
std::vector<const T*> Values(const LayerWeights<T>& weights,
                             Parameter<T> FfnWeights<T>::*projection) {
  std::vector<const T*> pointers;
  for (const auto& expert : weights.experts)
    pointers.push_back((expert->ffn.*projection).value.data());
  return pointers;
}
template <typename T>
std::vector<T*> Gradients(const LayerWeights<T>& weights, Parameter<T> FfnWeights<T>::*projection) {
  std::vector<T*> pointers;
  for (const auto& expert : weights.experts)
    pointers.push_back((expert->ffn.*projection).grad.data());
  return pointers;
}

// y = x W_g^T (kNT) or x W_g (kNN) for the rows of each expert g.
template <typename T>
void ExpertProduct(const Context<T>& context, const FeedForward<T>& layer, kernels::Product product,
                   const T* x, Parameter<T> FfnWeights<T>::*projection, T* y, int64_t n, int64_t k,
                   Write write) {
  const std::vector<const T*> values = Values(layer.weights, projection);
  kernels::GroupedMatmul(kernels::GroupedMatmulArgs<T>{.product = product,
                                                       .offsets = layer.exchange.group_offsets(),
                                                       .a = x,
                                                       .b = values,
                                                       .c = y,
                                                       .n = n,
                                                       .k = k,
                                                       .accumulate = write == Write::kAdd},
                         context.pool);
}

// dW_g += dy^T x for the rows of each expert g.
template <typename T>
void ExpertGradient(const Context<T>& context, const FeedForward<T>& layer, const T* dy, const T* x,
                    Parameter<T> FfnWeights<T>::*projection, int64_t m, int64_t n) {
  const std::vector<T*> gradients = Gradients(layer.weights, projection);
  kernels::GroupedGradient(
      kernels::GroupedGradientArgs<T>{.offsets = layer.exchange.group_offsets(),
                                      .a = dy,
                                      .b = x,
                                      .c = gradients,
                                      .m = m,
                                      .n = n},
      context.pool);
}

// From act.expert_in to `out` [R, D].
template <typename T>
void RunExperts(const Context<T>& context, const FeedForward<T>& layer, T* out) {
  PhaseTimer timer(context.clock, Phase::kExperts);
  const int64_t rows = layer.exchange.group_rows(), width = context.config.width,
                inner = context.config.expert_width;
  timer.set_tokens(rows);
  LayerActivations<T>& act = layer.act;
  T* gate = act.gate.Get(rows * inner);
  T* up = act.up.Get(rows * inner);
  T* h = context.scratch.wide.Get(rows * inner);
  using kernels::Product;
  ExpertProduct<T>(context, layer, Product::kNT, act.expert_in.data(), &FfnWeights<T>::gate, gate,
                   inner, width, Write::kReplace);
  ExpertProduct<T>(context, layer, Product::kNT, act.expert_in.data(), &FfnWeights<T>::up, up,
                   inner, width, Write::kReplace);
  kernels::Swiglu(gate, up, h, rows * inner, context.pool);
  ExpertProduct<T>(context, layer, Product::kNT, h, &FfnWeights<T>::down, out, width, inner,
                   Write::kReplace);
}

// From dout [R, D] to din [R, D], which may not overlap. act.gate and act.up are used up.
template <typename T>
void RunExpertsBackward(const Context<T>& context, const FeedForward<T>& layer, const T* dout,
                        T* din) {
  PhaseTimer timer(context.clock, Phase::kExperts);
  const int64_t rows = layer.exchange.group_rows(), width = context.config.width,
                inner = context.config.expert_width;
  timer.set_tokens(rows);
  LayerActivations<T>& act = layer.act;
  T* dgate = act.gate.data();
  T* dup = act.up.data();
  T* h = context.scratch.wide.Get(rows * inner);
  using kernels::Product;
  ExpertProduct<T>(context, layer, Product::kNN, dout, &FfnWeights<T>::down, h, inner, width,
                   Write::kReplace);
  kernels::SwigluBackward(dgate, dup, h, rows * inner, context.pool);
  ExpertGradient<T>(context, layer, dout, h, &FfnWeights<T>::down, width, inner);
  ExpertGradient<T>(context, layer, dgate, act.expert_in.data(), &FfnWeights<T>::gate, inner,
                    width);
  ExpertGradient<T>(context, layer, dup, act.expert_in.data(), &FfnWeights<T>::up, inner, width);
  ExpertProduct<T>(context, layer, Product::kNN, dgate, &FfnWeights<T>::gate, din, width, inner,
                   Write::kReplace);
  ExpertProduct<T>(context, layer, Product::kNN, dup, &FfnWeights<T>::up, din, width, inner,
                   Write::kAdd);
}

template <typename T>
kernels::CombineArgs<T> CombineArgsOf(const Context<T>& context, const LayerActivations<T>& act,
                                      const T* rows, int64_t tokens) {
  return {.expert_rows = rows,
          .weight = act.weight.data(),
          .slot = act.slot.data(),
          .tokens = tokens,
          .top_k = context.config.top_k,
          .width = context.config.width};
}

// Brings the experts' rows back and adds their weighted sum to x_out.
template <typename T>
absl::Status ReturnAndCombine(const Context<T>& context, const FeedForward<T>& layer,
                              int64_t tokens, T* x_out) {
  const PhaseTimer timer(context.clock, Phase::kCombine);
  LayerActivations<T>& act = layer.act;
  if (!layer.exchange.single()) {
    const PhaseTimer exchange(context.clock, Phase::kExchange);
    RETURN_IF_ERROR(layer.exchange.FromExperts(context.scratch.groups.data(), act.expert_out.data(),
                                               context.config.width, context.scratch.wire));
  }
  const kernels::CombineArgs<T> args = CombineArgsOf(context, act, act.expert_out.data(), tokens);
  if (layer.output_norms == nullptr) {
    kernels::Combine(args, x_out, context.pool);
    return absl::OkStatus();
  }
  // Here each row is read anyway, and every token's gates and rows are on its own rank.
  kernels::CombineWithNorms(
      kernels::OutputNormArgs<T>{.combine = args,
                                 .choice = act.choice.data(),
                                 .sums = layer.output_norms->data(),
                                 .experts = static_cast<int64_t>(layer.layout.ids.size())},
      x_out, context.pool);
  return absl::OkStatus();
}

template <typename T>
absl::Status MoeForward(const Context<T>& context, const FeedForward<T>& layer, int64_t tokens,
                        T* x_out, std::vector<int64_t>& route_counts) {
  const int64_t width = context.config.width;
  Route(context, layer, tokens, route_counts);
  RETURN_IF_ERROR(Dispatch(context, layer));
  T* returned = layer.act.expert_out.Get(layer.exchange.slot_rows() * width);
  T* out = layer.exchange.single()
               ? returned
               : context.scratch.groups.Get(layer.exchange.group_rows() * width);
  RunExperts(context, layer, out);
  return ReturnAndCombine(context, layer, tokens, x_out);
}

// Adds the gradient through experts and router to dh2; dh2 is written first by the router's
// product.
template <typename T>
absl::Status MoeBackward(const Context<T>& context, const FeedForward<T>& layer, int64_t tokens,
                         const T* dx, T* dh2, const std::vector<int64_t>& route_counts,
                         double aux_scale) {
  const int64_t width = context.config.width, slots = layer.exchange.slot_rows(),
                rows = layer.exchange.group_rows();
  Scratch<T>& scratch = context.scratch;
  LayerActivations<T>& act = layer.act;
  T* dweight = scratch.dweight.Get(tokens * context.config.top_k);
  T* dslots = act.expert_out.data();  // the gradient takes the place of the rows themselves
  {
    const PhaseTimer timer(context.clock, Phase::kCombine);
    kernels::CombineBackward(CombineArgsOf(context, act, act.expert_out.data(), tokens), dx, dslots,
                             dweight, context.pool);
  }
  {
    const PhaseTimer timer(context.clock, Phase::kRouter);
    const int64_t experts = static_cast<int64_t>(layer.layout.ids.size());
    T* dlogits = scratch.dlogits.Get(tokens * experts);
    kernels::RouterBackward(
        kernels::RouterBackwardArgs<T>{.forward = RouterArgsOf(context.config, layer, tokens),
                                       .dweight = dweight,
                                       .dlogits = dlogits,
                                       .aux_scale = aux_scale,
                                       .route_counts = route_counts.data()},
        context.pool);
    LinearBackward(dlogits, act.h2.data(), layer.weights.router, dh2, tokens, Write::kReplace,
                   context.pool);
  }
  T* dout = dslots;
  if (!layer.exchange.single()) {
    const PhaseTimer timer(context.clock, Phase::kDispatch);
    dout = scratch.groups.Get(rows * width);
    const PhaseTimer exchange(context.clock, Phase::kExchange);
    RETURN_IF_ERROR(layer.exchange.ToExperts(dslots, dout, width, scratch.wire));
  }
  T* din = scratch.slots.Get(std::max(rows, slots) * width);
  RunExpertsBackward(context, layer, dout, din);
  const PhaseTimer timer(context.clock, Phase::kCombine);
  T* dpermuted = din;
  if (!layer.exchange.single()) {
    dpermuted = dslots;
    const PhaseTimer exchange(context.clock, Phase::kExchange);
    RETURN_IF_ERROR(layer.exchange.FromExperts(din, dpermuted, width, scratch.wire));
  }
  kernels::Unpermute(CombineArgsOf(context, act, dpermuted, tokens), dh2, context.pool);
  return absl::OkStatus();
}

}  // namespace

template <typename T>
absl::Status FeedForwardForward(const Context<T>& context, const FeedForward<T>& layer,
                                int64_t tokens, T* x_out, std::vector<int64_t>& route_counts) {
  const int64_t width = context.config.width;
  LayerActivations<T>& act = layer.act;
  {
    const PhaseTimer timer(context.clock, Phase::kCombine);
    kernels::RmsNorm(kernels::RmsNormArgs<T>{.x = act.x_mid.data(),
                                             .weight = layer.weights.post_norm.value.data(),
                                             .y = act.h2.Get(tokens * width),
                                             .rstd = act.rstd2.Get(tokens),
                                             .rows = tokens,
                                             .width = width,
                                             .eps = context.config.rms_eps},
                     context.pool);
    std::memcpy(x_out, act.x_mid.data(), tokens * width * sizeof(T));
  }
  if (layer.weights.dense.present()) DenseForward(context, layer, tokens, x_out);
  if (layer.layout.ids.empty()) return absl::OkStatus();
  return MoeForward(context, layer, tokens, x_out, route_counts);
}

template <typename T>
absl::Status FeedForwardBackward(const Context<T>& context, const FeedForward<T>& layer,
                                 int64_t tokens, T* dx, const std::vector<int64_t>& route_counts,
                                 double aux_scale, double* aux_loss) {
  const int64_t width = context.config.width;
  LayerActivations<T>& act = layer.act;
  T* dh2 = context.scratch.dh.Get(tokens * width);
  const bool moe = !layer.layout.ids.empty();
  if (moe) {
    if (aux_scale != 0) {
      *aux_loss +=
          context.config.aux_loss *
          kernels::AuxiliaryLoss(RouterArgsOf(context.config, layer, tokens), route_counts.data());
    }
    RETURN_IF_ERROR(MoeBackward(context, layer, tokens, dx, dh2, route_counts,
                                aux_scale * context.config.aux_loss));
  }
  if (layer.weights.dense.present()) {
    DenseBackward(context, layer, tokens, dx, dh2, moe ? Write::kAdd : Write::kReplace);
  }
  const PhaseTimer timer(context.clock, Phase::kCombine);
  kernels::RmsNormBackward(
      kernels::RmsNormBackwardArgs<T>{.dy = dh2,
                                      .x = act.x_mid.data(),
                                      .weight = layer.weights.post_norm.value.data(),
                                      .rstd = act.rstd2.data(),
                                      .dx = dx,
                                      .dweight = layer.weights.post_norm.grad.data(),
                                      .rows = tokens,
                                      .width = width},
      context.scratch.norm, context.pool);
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                   \
  template absl::Status FeedForwardForward<T>(const Context<T>&, const FeedForward<T>&, int64_t,  \
                                              T*, std::vector<int64_t>&);                         \
  template absl::Status FeedForwardBackward<T>(const Context<T>&, const FeedForward<T>&, int64_t, \
                                               T*, const std::vector<int64_t>&, double, double*);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

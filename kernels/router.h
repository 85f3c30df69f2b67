// The router's choice: scores of all experts become k experts and their weights a token; with its
// gradient.
#pragma once

#include <cstdint>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

enum class RouterScore { kSoftmax, kSigmoid };

// N tokens, E experts alive, K chosen a token.
//   scores    [N, E]  logits on entry; on return sigmoid(logits), or their softmax over the experts
//   that are not masked bias      [E]     added to the scores for the choice alone masked    [E] !=
//   0: never chosen choice    [N, K]  written: experts by falling score + bias, ties to the lower
//   index weight    [N, K]  written: score of the choice, over their sum (+ 1e-20) if `normalize`,
//   times `scaling`
// At least K experts must be unmasked. With `choice_given`, `choice` is read instead of written: the
// weights are those of experts that someone else chose.
template <typename T>
struct RouterArgs {
  RouterScore score = RouterScore::kSigmoid;
  bool normalize = true;
  double scaling = 1.0;
  T* scores = nullptr;
  const T* bias = nullptr;
  const uint8_t* masked = nullptr;
  int32_t* choice = nullptr;
  T* weight = nullptr;
  int64_t tokens = 0, experts = 0, top_k = 0;
  bool choice_given = false;
};
template <typename T>
void Router(const RouterArgs<T>& args, base::ThreadPool& pool);

// dlogits [N, E] = gradient through the weights of the choice (dweight [N, K]) and, with aux_scale
// != 0, of aux_scale * AuxiliaryLoss. `route_counts` [E] is how often each expert was chosen by
// these N tokens.
template <typename T>
struct RouterBackwardArgs {
  RouterArgs<T> forward;  // as it was; scores, choice and weight filled
  const T* dweight = nullptr;
  T* dlogits = nullptr;
  double aux_scale = 0;
  const int64_t* route_counts = nullptr;
};
template <typename T>
void RouterBackward(const RouterBackwardArgs<T>& args, base::ThreadPool& pool);

// The load-balancing loss of Switch over the experts that are not masked: E * sum over e of f_e *
// P_e, where f_e is the share of the choices that fell on e and P_e the mean over tokens of score_e
// / sum of scores. 1 when balanced; 0 for N == 0.
template <typename T>
double AuxiliaryLoss(const RouterArgs<T>& args, const int64_t* route_counts);

}  // namespace espalier::kernels

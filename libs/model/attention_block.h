// The attention half of a layer: x_mid = x + o_proj(attention(input_layernorm(x))).
#pragma once

#include "libs/model/activations.h"

namespace espalier::model {

// Fills the first half of `act`, from act.x to act.x_mid.
template <typename T>
void AttentionForward(const Context<T>& context, const Pass<T>& pass, int layer,
                      const LayerWeights<T>& weights, LayerActivations<T>& act);

// dx [N, D]: gradient of x_mid on entry, of x on return. Adds to the weights' gradients.
template <typename T>
void AttentionBackward(const Context<T>& context, const Pass<T>& pass, LayerWeights<T>& weights,
                       LayerActivations<T>& act, T* dx);

}  // namespace espalier::model

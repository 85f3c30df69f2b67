// Routing by rows: scores are vectorised, the choice of k among a few dozen is a scalar insertion.
#include "kernels/router.h"

#include <vector>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {

constexpr int64_t kTokensMin = 64;  // fewer are not worth another thread
constexpr double kWeightEpsilon = 1e-20;

// The k best of score + bias in falling order; a later expert must be strictly better to overtake.
template <typename T>
void ChooseTop(const RouterArgs<T>& args, const T* scores, int32_t* choice, T* best) {
  int64_t have = 0;
  for (int64_t expert = 0; expert < args.experts; ++expert) {
    if (args.masked[expert]) continue;
    const T value = scores[expert] + args.bias[expert];
    if (have == args.top_k && !(value > best[have - 1])) continue;
    int64_t at = have < args.top_k ? have++ : have - 1;
    for (; at > 0 && value > best[at - 1]; --at) {
      best[at] = best[at - 1];
      choice[at] = choice[at - 1];
    }
    best[at] = value;
    choice[at] = static_cast<int32_t>(expert);
  }
}

template <typename T>
void RouteRow(const RouterArgs<T>& args, int64_t token, T* best) {
  const T* scores = args.scores + token * args.experts;
  int32_t* choice = args.choice + token * args.top_k;
  T* weight = args.weight + token * args.top_k;
  if (!args.choice_given) ChooseTop(args, scores, choice, best);
  T factor = static_cast<T>(args.scaling);
  if (args.normalize) {
    T sum = 0;
    for (int64_t k = 0; k < args.top_k; ++k) sum += scores[choice[k]];
    factor /= sum + static_cast<T>(kWeightEpsilon);
  }
  for (int64_t k = 0; k < args.top_k; ++k) weight[k] = scores[choice[k]] * factor;
}

// dscore of the choice, added to a row that is zero elsewhere.
template <typename T>
void ChoiceBackward(const RouterArgs<T>& args, const int32_t* choice, const T* scores,
                    const T* dweight, T* dscore) {
  const T scaling = static_cast<T>(args.scaling);
  if (!args.normalize) {
    for (int64_t k = 0; k < args.top_k; ++k) dscore[choice[k]] += scaling * dweight[k];
    return;
  }
  T sum = static_cast<T>(kWeightEpsilon), dot = 0;
  for (int64_t k = 0; k < args.top_k; ++k) {
    sum += scores[choice[k]];
    dot += dweight[k] * scores[choice[k]];
  }
  for (int64_t k = 0; k < args.top_k; ++k)
    dscore[choice[k]] += scaling * (dweight[k] - dot / sum) / sum;
}

// dscore of aux_scale * AuxiliaryLoss: share[e] = aux_scale * E * f_e / N, of which P_e's gradient
// is the normalised score's.
template <typename T>
void AuxiliaryBackward(const RouterArgs<T>& args, const std::vector<double>& share, const T* scores,
                       T* dscore) {
  double sum = 0, dot = 0;
  for (int64_t e = 0; e < args.experts; ++e) {
    if (args.masked[e]) continue;
    sum += scores[e];
    dot += share[e] * scores[e];
  }
  for (int64_t e = 0; e < args.experts; ++e) {
    if (!args.masked[e]) dscore[e] += static_cast<T>((share[e] - dot / sum) / sum);
  }
}

// Through the softmax or the sigmoid, in place.
template <typename T>
void ScoreBackward(const RouterArgs<T>& args, const T* scores, T* dscore) {
  if (args.score == RouterScore::kSigmoid) {
    for (int64_t e = 0; e < args.experts; ++e) dscore[e] *= scores[e] * (T(1) - scores[e]);
    return;
  }
  T dot = 0;
  for (int64_t e = 0; e < args.experts; ++e) dot += dscore[e] * scores[e];
  for (int64_t e = 0; e < args.experts; ++e) dscore[e] = scores[e] * (dscore[e] - dot);
}

template <typename T>
std::vector<double> AuxiliaryShares(const RouterArgs<T>& args, const int64_t* route_counts,
                                    double scale) {
  int64_t alive = 0;
  for (int64_t e = 0; e < args.experts; ++e) alive += args.masked[e] == 0;
  const double per_count =
      scale * alive / (static_cast<double>(args.tokens) * args.top_k * args.tokens);
  std::vector<double> share(args.experts);
  for (int64_t e = 0; e < args.experts; ++e) share[e] = per_count * route_counts[e];
  return share;
}

}  // namespace

template <typename T>
void Router(const RouterArgs<T>& args, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  pool.ForRanges(args.tokens, kTokensMin, [&](int64_t begin, int64_t end) {
    T* scores = args.scores + begin * args.experts;
    if (args.score == RouterScore::kSigmoid) {
      loops.router_sigmoid(scores, (end - begin) * args.experts);
    } else {
      loops.router_softmax(scores, args.masked, end - begin, args.experts);
    }
    std::vector<T> best(args.top_k);
    for (int64_t token = begin; token < end; ++token) RouteRow(args, token, best.data());
  });
}

template <typename T>
void RouterBackward(const RouterBackwardArgs<T>& args, base::ThreadPool& pool) {
  const RouterArgs<T>& f = args.forward;
  if (f.tokens == 0) return;
  std::vector<double> share;
  if (args.aux_scale != 0) share = AuxiliaryShares(f, args.route_counts, args.aux_scale);
  pool.ForRanges(f.tokens, kTokensMin, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const T* scores = f.scores + token * f.experts;
      T* dscore = args.dlogits + token * f.experts;
      for (int64_t e = 0; e < f.experts; ++e) dscore[e] = 0;
      ChoiceBackward(f, f.choice + token * f.top_k, scores, args.dweight + token * f.top_k, dscore);
      if (!share.empty()) AuxiliaryBackward(f, share, scores, dscore);
      ScoreBackward(f, scores, dscore);
    }
  });
}

template <typename T>
double AuxiliaryLoss(const RouterArgs<T>& args, const int64_t* route_counts) {
  if (args.tokens == 0) return 0;
  const std::vector<double> share = AuxiliaryShares(args, route_counts, 1.0);
  double loss = 0;
  for (int64_t token = 0; token < args.tokens; ++token) {
    const T* scores = args.scores + token * args.experts;
    double sum = 0, dot = 0;
    for (int64_t e = 0; e < args.experts; ++e) {
      if (args.masked[e]) continue;
      sum += scores[e];
      dot += share[e] * scores[e];
    }
    loss += dot / sum;
  }
  return loss;
}

#define ESPALIER_INSTANTIATE(T)                                                     \
  template void Router<T>(const RouterArgs<T>&, base::ThreadPool&);                 \
  template void RouterBackward<T>(const RouterBackwardArgs<T>&, base::ThreadPool&); \
  template double AuxiliaryLoss<T>(const RouterArgs<T>&, const int64_t*);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels

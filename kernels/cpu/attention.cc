// Attention as matrix products over blocks of queries: scores of one block against all keys before
// its end, softmax by row, product with the values. Sequences are short (hundreds of tokens), so
// one block's scores stay in the cache.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {

constexpr int64_t kQueryBlock = 64;

int64_t LongestSequence(std::span<const int64_t> starts) {
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < starts.size(); ++i)
    longest = std::max(longest, starts[i + 1] - starts[i]);
  return longest;
}

// Calls block(first, rows, keys) for each block of queries of a sequence of `length` tokens.
template <typename Block>
void ForQueryBlocks(int64_t length, Block&& block) {
  for (int64_t first = 0; first < length; first += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, length - first);
    block(first, rows, first + rows);
  }
}

// One query head over one sequence starting at token `start`.
template <typename T>
void AttendHead(const AttentionArgs<T>& args, int64_t start, int64_t length, int64_t head,
                T* scores) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t d = args.head_dim, q_stride = args.heads * d, kv_stride = args.kv_heads * d;
  const int64_t kv_head = head / (args.heads / args.kv_heads);
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  const T* k = args.k + start * kv_stride + kv_head * d;
  const T* v = args.v + start * kv_stride + kv_head * d;
  ForQueryBlocks(length, [&](int64_t first, int64_t rows, int64_t keys) {
    const int64_t offset = (start + first) * q_stride + head * d;
    Gemm(Product::kNT, rows, keys, d, args.q + offset, q_stride, k, kv_stride, scores, keys, false);
    loops.causal_softmax(scores, rows, keys, first, scale,
                         args.lse + (start + first) * args.heads + head, args.heads);
    Gemm(Product::kNN, rows, d, keys, scores, keys, v, kv_stride, args.out + offset, q_stride,
         false);
  });
}

// Adds this head's part to dk and dv, writes its dq.
template <typename T>
void AttendHeadBackward(const AttentionBackwardArgs<T>& args, int64_t start, int64_t length,
                        int64_t head, T* scores, T* dprob) {
  const Loops<T>& loops = BestLoops<T>();
  const AttentionArgs<T>& f = args.forward;
  const int64_t d = f.head_dim, q_stride = f.heads * d, kv_stride = f.kv_heads * d;
  const int64_t group = f.heads / f.kv_heads;
  const int64_t kv_offset = start * kv_stride + head / group * d;
  const bool first_of_group = head % group == 0;
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  if (first_of_group) {
    for (int64_t row = 0; row < length; ++row) {
      std::fill_n(args.dk + kv_offset + row * kv_stride, d, T(0));
      std::fill_n(args.dv + kv_offset + row * kv_stride, d, T(0));
    }
  }
  ForQueryBlocks(length, [&](int64_t first, int64_t rows, int64_t keys) {
    const int64_t offset = (start + first) * q_stride + head * d;
    const int64_t row_offset = (start + first) * f.heads + head;
    const T* q = f.q + offset;
    const T* dout = args.dout + offset;
    Gemm(Product::kNT, rows, keys, d, q, q_stride, f.k + kv_offset, kv_stride, scores, keys, false);
    Gemm(Product::kNT, rows, keys, d, dout, q_stride, f.v + kv_offset, kv_stride, dprob, keys,
         false);
    loops.causal_softmax_backward(scores, dprob, rows, keys, first, scale, f.lse + row_offset,
                                  f.heads, args.delta + row_offset, f.heads);
    Gemm(Product::kTN, keys, d, rows, scores, keys, dout, q_stride, args.dv + kv_offset, kv_stride,
         true);
    Gemm(Product::kTN, keys, d, rows, dprob, keys, q, q_stride, args.dk + kv_offset, kv_stride,
         true);
    Gemm(Product::kNN, rows, d, keys, dprob, keys, f.k + kv_offset, kv_stride, args.dq + offset,
         q_stride, false);
  });
}

// Calls body(start, length, head, thread) for all heads of all sequences; the heads that share a
// key head follow each other on one thread.
template <typename T, typename Body>
void ForHeads(const AttentionArgs<T>& args, base::ThreadPool& pool, Body&& body) {
  const int64_t sequences = static_cast<int64_t>(args.starts.size()) - 1;
  const int64_t group = args.heads / args.kv_heads;
  pool.ForTasks(sequences * args.kv_heads, [&](int64_t task, int thread) {
    const int64_t sequence = task / args.kv_heads, kv_head = task % args.kv_heads;
    const int64_t start = args.starts[sequence], length = args.starts[sequence + 1] - start;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      body(start, length, head, thread);
  });
}

}  // namespace

template <typename T>
void Attention(const AttentionArgs<T>& args, Buffer<T>& scratch, base::ThreadPool& pool) {
  const int64_t block = kQueryBlock * LongestSequence(args.starts);
  T* scores = scratch.Get(block * pool.threads());
  ForHeads(args, pool, [&](int64_t start, int64_t length, int64_t head, int thread) {
    AttendHead(args, start, length, head, scores + thread * block);
  });
}

template <typename T>
void AttentionBackward(const AttentionBackwardArgs<T>& args, Buffer<T>& scratch,
                       base::ThreadPool& pool) {
  const AttentionArgs<T>& f = args.forward;
  const int64_t tokens = f.starts.back();
  pool.ForRanges(tokens, 64, [&](int64_t begin, int64_t end) {
    const int64_t offset = begin * f.heads * f.head_dim;
    BestLoops<T>().head_dots(args.dout + offset, f.out + offset, args.delta + begin * f.heads,
                             end - begin, f.heads, f.head_dim);
  });
  const int64_t block = kQueryBlock * LongestSequence(f.starts);
  T* scores = scratch.Get(2 * block * pool.threads());
  ForHeads(f, pool, [&](int64_t start, int64_t length, int64_t head, int thread) {
    T* mine = scores + 2 * thread * block;
    AttendHeadBackward(args, start, length, head, mine, mine + block);
  });
}

#define ESPALIER_INSTANTIATE(T)                                                       \
  template void Attention<T>(const AttentionArgs<T>&, Buffer<T>&, base::ThreadPool&); \
  template void AttentionBackward<T>(const AttentionBackwardArgs<T>&, Buffer<T>&,     \
                                     base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels

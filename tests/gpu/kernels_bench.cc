// The memory-bound operations at the sizes of two models (M and S): time, bytes that must move, and
// their rate as a share of a copy's. `gpu_kernels_bench [--json]`; a result is only worth reading
// once gpu_kernels_test passes.
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "kernels/cuda/adamw.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/permute.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/swiglu.h"
#include "tests/gpu/bench_device.h"

namespace espalier::kernels::cuda {
namespace {

using T = __nv_bfloat16;
constexpr int64_t kElement = sizeof(T);

struct Geometry {
  const char* name;
  int64_t tokens, width, inner, vocabulary;
  int experts, top_k, heads, head_dim;
  int64_t slots() const { return tokens * top_k; }
};
constexpr Geometry kGeometries[] = {{"M", 16384, 2048, 1024, 50304, 64, 8, 16, 128},
                                    {"S", 32768, 768, 512, 32000, 32, 4, 12, 64}};
constexpr int64_t kLogitRows = 4096, kDecodeRows = 256, kDecodeLength = 1024;
constexpr int64_t kParameters = int64_t{1} << 28;

class Bench {
 public:
  explicit Bench(cudaStream_t stream) : stream_(stream) { rows_.push_back(MeasureCopy(stream)); }
  void Use(const Geometry& geometry) { geometry_ = &geometry; }
  // `make` allocates one set of inputs and returns its launch.
  void Add(const char* name, int64_t bytes,
           const std::function<std::function<cudaError_t(cudaStream_t)>(Arena&)>& make) {
    Arena arena;
    std::vector<std::function<cudaError_t(cudaStream_t)>> launches;
    for (int set = SetsFor(bytes); set > 0; --set) launches.push_back(make(arena));
    Row row{geometry_->name, name, 0, bytes};
    row.microseconds = MedianMicroseconds([&](int set, cudaStream_t s) { return launches[set](s); },
                                          static_cast<int>(launches.size()), stream_);
    rows_.push_back(row);
  }
  const std::vector<Row>& rows() const { return rows_; }

 private:
  cudaStream_t stream_;
  const Geometry* geometry_ = nullptr;
  std::vector<Row> rows_;
};

// ---- routing of random tokens, planned by the device

struct Routing {
  int32_t *choice, *slot, *token_of, *counts, *group_of;
  PlanSlotsArgs plan;
};
Routing Route(const Geometry& g, Arena& arena) {
  static std::mt19937_64 engine(11);
  std::vector<int32_t> choice, order(g.experts), groups(g.experts);
  std::iota(order.begin(), order.end(), 0);
  groups = order;
  std::shuffle(groups.begin(), groups.end(), engine);
  for (int64_t token = 0; token < g.tokens; ++token) {
    for (int k = 0; k < g.top_k; ++k) std::swap(order[k], order[k + engine() % (g.experts - k)]);
    choice.insert(choice.end(), order.begin(), order.begin() + g.top_k);
  }
  Routing r{arena.From(choice),
            arena.Allocate<int32_t>(g.slots()),
            arena.Allocate<int32_t>(g.slots()),
            arena.Allocate<int32_t>(g.experts),
            arena.From(groups),
            {}};
  r.plan = {.choice = r.choice,
            .group_of = r.group_of,
            .counts = r.counts,
            .offsets = arena.Allocate<int32_t>(g.experts + 1),
            .slot = r.slot,
            .token_of = r.token_of,
            .scratch = arena.Allocate<int32_t>(PlanSlotsScratch(g.tokens, g.experts)),
            .tokens = g.tokens,
            .top_k = g.top_k,
            .experts = g.experts};
  CheckCuda(PlanSlots(r.plan, nullptr), "plan");
  CheckCuda(cudaDeviceSynchronize(), "plan");
  return r;
}

RouterArgs MakeRouter(const Geometry& g, Arena& arena) {
  RouterArgs args{.scaling = 1.0f,
                  .scores = arena.Random<float>(g.tokens * g.experts),
                  .bias = arena.Constant<float>(g.experts, 0),
                  .masked = arena.Constant<uint8_t>(g.experts, 0),
                  .choice = arena.Allocate<int32_t>(g.slots()),
                  .weight = arena.Allocate<float>(g.slots()),
                  .tokens = g.tokens,
                  .experts = g.experts,
                  .top_k = g.top_k};
  CheckCuda(Router(args, nullptr), "router");
  return args;
}

void RunNormAndRope(const Geometry& g, Bench& bench) {
  const int64_t n = g.tokens * g.width;
  bench.Add("RmsNorm", 2 * n * kElement, [&](Arena& arena) {
    const RmsNormArgs<T> args{.x = arena.Random<T>(n),
                              .weight = arena.Random<T>(g.width),
                              .y = arena.Allocate<T>(n),
                              .rstd = arena.Allocate<float>(g.tokens),
                              .rows = g.tokens,
                              .width = g.width};
    return [args](cudaStream_t s) { return RmsNorm(args, s); };
  });
  bench.Add("RmsNormBackward", 4 * n * kElement, [&](Arena& arena) {
    const RmsNormBackwardArgs<T> args{.dy = arena.Random<T>(n),
                                      .x = arena.Random<T>(n),
                                      .weight = arena.Random<T>(g.width),
                                      .rstd = arena.Constant<float>(g.tokens, 1),
                                      .residual = arena.Random<T>(n),
                                      .dx = arena.Allocate<T>(n),
                                      .dweight = arena.Allocate<T>(g.width),
                                      .partials = arena.Allocate<float>(kNormPartials * g.width),
                                      .rows = g.tokens,
                                      .width = g.width};
    return [args](cudaStream_t s) { return RmsNormBackward(args, s); };
  });
  const int64_t head_width = static_cast<int64_t>(g.heads) * g.head_dim;
  bench.Add("Rope", 2 * 2 * g.tokens * head_width * kElement, [&](Arena& arena) {
    std::vector<int32_t> positions(g.tokens);
    for (int64_t i = 0; i < g.tokens; ++i) positions[i] = static_cast<int32_t>(i % 2048);
    float* const cos = arena.Allocate<float>(2048 * g.head_dim / 2);
    float* const sin = arena.Allocate<float>(2048 * g.head_dim / 2);
    CheckCuda(FillRopeTable(cos, sin, 2048, g.head_dim, 10000, nullptr), "table");
    const RopeArgs<T> args{.x = arena.Random<T>(3 * g.tokens * head_width),
                           .rows = g.tokens,
                           .row_stride = 3 * head_width,
                           .heads = 2 * g.heads,
                           .head_dim = g.head_dim,
                           .positions = arena.From(positions),
                           .cos = cos,
                           .sin = sin};
    return [args](cudaStream_t s) { return Rope(args, s); };
  });
}

void RunExperts(const Geometry& g, Bench& bench) {
  const int64_t n = g.slots() * g.inner;
  bench.Add("Swiglu", 3 * n * kElement, [&](Arena& arena) {
    const T* gate_up = arena.Random<T>(2 * n);
    const float* weight = arena.Random<float>(g.slots());
    T* h = arena.Allocate<T>(n);
    return [=](cudaStream_t s) { return Swiglu(gate_up, weight, h, g.slots(), g.inner, s); };
  });
  bench.Add("SwigluBackward", 5 * n * kElement, [&](Arena& arena) {
    const SwigluBackwardArgs<T> args{.gate_up = arena.Random<T>(2 * n),
                                     .row_weight = arena.Random<float>(g.slots()),
                                     .dh = arena.Random<T>(n),
                                     .dgate_up = arena.Allocate<T>(2 * n),
                                     .drow_weight = arena.Allocate<float>(g.slots()),
                                     .rows = g.slots(),
                                     .inner = g.inner};
    return [args](cudaStream_t s) { return SwigluBackward(args, s); };
  });
}

void RunPermutation(const Geometry& g, Bench& bench) {
  const int64_t token_bytes = g.tokens * g.width * kElement,
                slot_bytes = g.slots() * g.width * kElement;
  bench.Add("PlanSlots", 3 * g.slots() * 4, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    return [r](cudaStream_t s) { return PlanSlots(r.plan, s); };
  });
  bench.Add("GatherRows", token_bytes + slot_bytes, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    const T* x = arena.Random<T>(g.tokens * g.width);
    T* out = arena.Allocate<T>(g.slots() * g.width);
    return [=](cudaStream_t s) { return GatherRows(x, r.token_of, out, g.slots(), g.width, s); };
  });
  bench.Add("ScatterRows", 2 * slot_bytes, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    const T* x = arena.Random<T>(g.slots() * g.width);
    T* out = arena.Allocate<T>(g.slots() * g.width);
    return [=](cudaStream_t s) { return ScatterRows(x, r.slot, out, g.slots(), g.width, s); };
  });
  bench.Add("SumSlots", slot_bytes + 2 * token_bytes, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    const SumSlotsArgs<T> args{.rows = arena.Random<T>(g.slots() * g.width),
                               .slot = r.slot,
                               .residual = arena.Random<T>(g.tokens * g.width),
                               .out = arena.Allocate<T>(g.tokens * g.width),
                               .tokens = g.tokens,
                               .width = g.width,
                               .top_k = g.top_k};
    return [args](cudaStream_t s) { return SumSlots(args, s); };
  });
  bench.Add("AddOutputNorms", slot_bytes, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    const T* rows = arena.Random<T>(g.slots() * g.width);
    int64_t* sums = arena.Constant<int64_t>(g.experts, 0);
    return [=](cudaStream_t s) {
      return AddOutputNorms(rows, r.slot, r.choice, g.slots(), g.width, sums, s);
    };
  });
  bench.Add("SpreadRows", slot_bytes + g.tokens * g.width * kElement, [&](Arena& arena) {
    const Routing r = Route(g, arena);
    const T* x = arena.Random<T>(g.tokens * g.width);
    T* rows = arena.Allocate<T>(g.slots() * g.width);
    return [=](cudaStream_t s) {
      return SpreadRows(x, r.slot, rows, g.tokens, g.top_k, g.width, s);
    };
  });
}

void RunRouter(const Geometry& g, Bench& bench) {
  const int64_t n = g.tokens * g.experts;
  bench.Add("Router", 2 * n * 4 + 2 * g.slots() * 4, [&](Arena& arena) {
    const RouterArgs args = MakeRouter(g, arena);
    return [args](cudaStream_t s) { return Router(args, s); };
  });
  bench.Add("RouterBackward", n * (4 + kElement) + 2 * g.slots() * 4, [&](Arena& arena) {
    const RouterBackwardArgs<T> args{.forward = MakeRouter(g, arena),
                                     .dweight = arena.Random<float>(g.slots()),
                                     .dlogits = arena.Allocate<T>(n),
                                     .aux_scale = 0.01f,
                                     .route_counts = Route(g, arena).counts};
    return [args](cudaStream_t s) { return RouterBackward(args, s); };
  });
  bench.Add("AddAuxiliaryLoss", n * 4, [&](Arena& arena) {
    const RouterArgs args = MakeRouter(g, arena);
    const int32_t* counts = Route(g, arena).counts;
    float* partials = arena.Allocate<float>(static_cast<int64_t>(kAuxPartials) * g.experts);
    float* loss = arena.Constant<float>(1, 0);
    return [=](cudaStream_t s) { return AddAuxiliaryLoss(args, counts, partials, loss, s); };
  });
}

// Tokens as text has them: the r-th of the vocabulary falls in proportion to 1 / r.
std::vector<int32_t> ZipfTokens(const Geometry& g) {
  static std::mt19937_64 engine(13);
  std::uniform_real_distribution<double> uniform;
  std::vector<int32_t> tokens(g.tokens);
  for (int32_t& token : tokens)
    token = static_cast<int32_t>(std::exp(uniform(engine) * std::log(g.vocabulary - 1.0)));
  return tokens;
}

void RunEmbedding(const Geometry& g, Bench& bench) {
  const int64_t n = g.tokens * g.width;
  bench.Add("Embed", 2 * n * kElement, [&](Arena& arena) {
    const T* table = arena.Random<T>(g.vocabulary * g.width);
    const int32_t* tokens = arena.From(ZipfTokens(g));
    T* out = arena.Allocate<T>(n);
    return [=](cudaStream_t s) { return Embed(table, tokens, out, g.tokens, g.width, s); };
  });
  const auto tokens = ZipfTokens(g);
  std::vector<int32_t> order(g.tokens), distinct, starts;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
  for (int64_t i = 0; i < g.tokens; ++i) {
    if (i > 0 && tokens[order[i]] == tokens[order[i - 1]]) continue;
    distinct.push_back(tokens[order[i]]);
    starts.push_back(static_cast<int32_t>(i));
  }
  starts.push_back(static_cast<int32_t>(g.tokens));
  const int64_t distinct_count = static_cast<int64_t>(distinct.size());
  bench.Add("EmbedBackward", (n + 2 * distinct_count * g.width) * kElement, [&](Arena& arena) {
    const EmbedBackwardArgs<T> args{.dout = arena.Random<T>(n),
                                    .distinct = arena.From(distinct),
                                    .starts = arena.From(starts),
                                    .order = arena.From(order),
                                    .dtable = arena.Random<T>(g.vocabulary * g.width),
                                    .distinct_count = distinct_count,
                                    .width = g.width};
    return [args](cudaStream_t s) { return EmbedBackward(args, s); };
  });
}

void RunHead(const Geometry& g, Bench& bench) {
  const int64_t n = kLogitRows * g.vocabulary;
  const std::vector<int32_t> targets(kLogitRows, 17);
  for (const bool entropy : {false, true}) {
    bench.Add(entropy ? "LogProb with entropy" : "LogProb", n * kElement, [&](Arena& arena) {
      const LogProbArgs<T> args{.logits = arena.Random<T>(n),
                                .targets = arena.From(targets),
                                .logp = arena.Allocate<float>(kLogitRows),
                                .lse = arena.Allocate<float>(kLogitRows),
                                .entropy = entropy ? arena.Allocate<float>(kLogitRows) : nullptr,
                                .rows = kLogitRows,
                                .vocabulary = g.vocabulary};
      return [args](cudaStream_t s) { return LogProb(args, s); };
    });
  }
  bench.Add("LogitsGradient", 2 * n * kElement, [&](Arena& arena) {
    T* logits = arena.Random<T>(n);
    const int32_t* target = arena.From(targets);
    const float* lse = arena.Constant<float>(kLogitRows, 11);
    const float* dlogp = arena.Constant<float>(kLogitRows, 1);
    return [=](cudaStream_t s) {
      return LogitsGradient(logits, target, lse, dlogp, kLogitRows, g.vocabulary, s);
    };
  });
  bench.Add("LogProbAndGradient", 2 * n * kElement, [&](Arena& arena) {
    T* logits = arena.Random<T>(n);
    const int32_t* target = arena.From(targets);
    const float* dlogp = arena.Constant<float>(kLogitRows, 1);
    float* logp = arena.Allocate<float>(kLogitRows);
    return [=](cudaStream_t s) {
      return LogProbAndGradient(logits, target, dlogp, logp, kLogitRows, g.vocabulary, s);
    };
  });
}

void RunGeneration(const Geometry& g, Bench& bench) {
  bench.Add("SampleTokens 256", kDecodeRows * g.vocabulary * kElement, [&](Arena& arena) {
    const SampleArgs<T> args{.logits = arena.Random<T>(kDecodeRows * g.vocabulary),
                             .uniform = arena.Constant<double>(kDecodeRows, 0.6),
                             .token = arena.Allocate<int32_t>(kDecodeRows),
                             .logp = arena.Allocate<float>(kDecodeRows),
                             .rows = kDecodeRows,
                             .vocabulary = g.vocabulary};
    return [args](cudaStream_t s) { return SampleTokens(args, s); };
  });
  const int64_t width = static_cast<int64_t>(g.heads) * g.head_dim,
                cached = kDecodeRows * kDecodeLength * width;
  bench.Add("AttentionDecode 256x1024", 2 * cached * kElement, [&](Arena& arena) {
    std::vector<int32_t> sequences(kDecodeRows);
    std::iota(sequences.begin(), sequences.end(), 0);
    const KvCache<T> cache{.keys = arena.Random<T>(cached),
                           .values = arena.Random<T>(cached),
                           .capacity = kDecodeLength,
                           .kv_heads = g.heads,
                           .head_dim = g.head_dim};
    const T* q = arena.Random<T>(kDecodeRows * width);
    const int32_t* sequence = arena.From(sequences);
    const int32_t* lengths = arena.Constant<int32_t>(kDecodeRows, kDecodeLength);
    T* out = arena.Allocate<T>(kDecodeRows * width);
    return [=](cudaStream_t s) {
      return AttentionDecode(cache, q, width, sequence, lengths, kDecodeRows, g.heads, out, s);
    };
  });
}

void RunOptimizer(Bench& bench) {
  constexpr int64_t n = kParameters;
  bench.Add("AdamW", n * (3 * 8 + 2 * kElement), [&](Arena& arena) {
    const AdamWArgs<T> args{.master = arena.Random<float>(n),
                            .grad = arena.Random<T>(n),
                            .moment1 = arena.Random<float>(n),
                            .moment2 = arena.Constant<float>(n, 1.0f),
                            .value = arena.Allocate<T>(n),
                            .n = n,
                            .lr = 1e-4f,
                            .weight_decay = 0.1f};
    return [args](cudaStream_t s) { return AdamW(args, s); };
  });
  bench.Add("SquaredNorm", n * kElement, [&](Arena& arena) {
    const T* x = arena.Random<T>(n);
    double* partials = arena.Allocate<double>(kNormBlocks);
    double* out = arena.Allocate<double>(1);
    return [=](cudaStream_t s) { return SquaredNorm(x, n, partials, out, s); };
  });
  bench.Add("RoundTo", n * (4 + kElement), [&](Arena& arena) {
    const float* master = arena.Random<float>(n);
    T* value = arena.Allocate<T>(n);
    return [=](cudaStream_t s) { return RoundTo(master, value, n, s); };
  });
}

int Main(int argc, char** argv) {
  const bool json = argc == 2 && std::strcmp(argv[1], "--json") == 0;
  if (argc > 1 && !json) {
    std::fprintf(stderr, "usage: %s [--json]\n", argv[0]);
    return 2;
  }
  if (const auto device = UseDevice(0); !device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().ToString().c_str());
    return 1;
  }
  const Stream stream = *MakeStream();
  Bench bench(stream.get());
  for (const Geometry& g : kGeometries) {
    bench.Use(g);
    RunNormAndRope(g, bench);
    RunExperts(g, bench);
    RunPermutation(g, bench);
    RunRouter(g, bench);
    RunEmbedding(g, bench);
    RunHead(g, bench);
    RunGeneration(g, bench);
  }
  constexpr Geometry kAny{"-", 0, 0, 0, 0, 0, 0, 0, 0};
  bench.Use(kAny);
  RunOptimizer(bench);
  Print(bench.rows(), json);
  return 0;
}

}  // namespace
}  // namespace espalier::kernels::cuda

int main(int argc, char** argv) { return espalier::kernels::cuda::Main(argc, argv); }

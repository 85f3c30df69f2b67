// Row-major products as column-major ones of the transposes: d^T = op(b)^T op(a)^T, so that cuBLASLt's first operand is our b.
#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/libraries.h"
#include "kernels/cuda/recent.h"
#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;  // twice what Hopper's own split-k wants
constexpr int kCandidatesMax = 8;
constexpr int kTimedRuns = 5;            // of each candidate, after one that warms up; the median counts
constexpr float kWorthwhile = 0.98f;     // a later candidate must need less than this share of the first one's time
constexpr size_t kPlansMax = 1024;       // ragged batches bring ever new m
constexpr int kTunedMax = 256;           // for the same reason: later shapes take the first suggestion
constexpr uint32_t kAlignmentMax = 256;  // what cuBLASLt assumes unless told otherwise

template <auto Destroy>
struct Closes {
  const CublasLt* lt = nullptr;
  template <typename Handle>
  void operator()(Handle handle) const {
    (lt->*Destroy)(handle);
  }
};
template <typename Handle, auto Destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Closes<Destroy>>;
using Handle = Owned<cublasLtHandle_t, &CublasLt::cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, &CublasLt::cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &CublasLt::cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &CublasLt::cublasLtMatmulPreferenceDestroy>;

// All that an algorithm depends on.
struct Key {
  Product product = Product::kNT;
  int64_t m = 0, n = 0, k = 0;
  cudaDataType_t in = CUDA_R_16BF, out = CUDA_R_16BF;
  bool adds = false, in_place = false;  // with an addend; which is d itself
  uint32_t alignment = 0;               // bytes that divide all addresses
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  Operation operation;
  Layout a, b, d;  // of cuBLASLt's column-major a and b; c is laid out as d
  cublasLtMatmulAlgo_t algorithm{};
};

// Addresses of one product in cuBLASLt's order.
struct Operands {
  const void *a, *b, *c;
  void* d;
};

template <typename T>
constexpr cudaDataType_t kType = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;

int64_t BytesOf(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

std::string Describe(const Key& key) {
  constexpr const char* kNames[] = {"NN", "NT", "TN"};
  return absl::StrCat("matmul ", kNames[static_cast<int>(key.product)], " m=", key.m,
                      " n=", key.n, " k=", key.k);
}

class MatmulImpl final : public Matmul {
 public:
  MatmulImpl(const CublasLt& lt, bool tune) : lt_(lt), tune_(tune), plans_(kPlansMax) {}

  absl::Status Open() {
    cublasLtHandle_t handle;
    RETURN_IF_ERROR(Check(lt_.cublasLtCreate(&handle), "cublasLtCreate"));
    handle_ = Handle(handle, {&lt_});
    return workspace_.Reserve(kWorkspaceBytes);
  }

  absl::Status Run(const MatmulArgs<__nv_bfloat16>& args, cudaStream_t stream) override {
    return RunAny(args, stream);
  }
  absl::Status Run(const MatmulArgs<__nv_bfloat16, float>& args, cudaStream_t stream) override {
    return RunAny(args, stream);
  }
  absl::Status Run(const MatmulArgs<float>& args, cudaStream_t stream) override {
    return RunAny(args, stream);
  }

 private:
  template <typename T, typename Out>
  absl::Status RunAny(const MatmulArgs<T, Out>& args, cudaStream_t stream);
  absl::StatusOr<Plan*> FindPlan(const Key& key, const Operands& operands, cudaStream_t stream);
  absl::StatusOr<Plan> MakePlan(const Key& key);
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Suggest(const Key& key, const Plan& plan);
  absl::StatusOr<size_t> Fastest(const Key& key, const Plan& plan, const Operands& operands,
                                 const std::vector<cublasLtMatmulAlgo_t>& candidates,
                                 cudaStream_t stream);
  absl::StatusOr<float> Time(const Key& key, const Plan& plan, const Operands& operands,
                             const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream);
  absl::Status Launch(const Key& key, const Plan& plan, const Operands& operands,
                      const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream);
  absl::StatusOr<Layout> MakeLayout(cudaDataType_t type, int64_t rows, int64_t columns);

  absl::Status Check(cublasStatus_t status, absl::string_view what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    const std::string message =
        absl::StrCat("cuBLASLt: ", lt_.cublasLtGetStatusString(status), " (", what, ")");
    if (status == CUBLAS_STATUS_ALLOC_FAILED) return absl::ResourceExhaustedError(message);
    if (status == CUBLAS_STATUS_NOT_INITIALIZED) return absl::UnavailableError(message);
    return absl::InternalError(message);
  }

  const CublasLt& lt_;
  const bool tune_;
  Handle handle_;
  Buffer<char> workspace_;
  Recent<Key, Plan> plans_;
  int tuned_ = 0;
};

template <typename T, typename Out>
absl::Status MatmulImpl::RunAny(const MatmulArgs<T, Out>& args, cudaStream_t stream) {
  if (args.m == 0 || args.n == 0) return absl::OkStatus();
  if (args.k == 0) {
    const size_t bytes = sizeof(Out) * args.m * args.n;
    if (args.c == nullptr) {
      RETURN_IF_CUDA_ERROR(cudaMemsetAsync(args.d, 0, bytes, stream));
    } else if (args.c != args.d) {
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(args.d, args.c, bytes, cudaMemcpyDeviceToDevice, stream));
    }
    return absl::OkStatus();
  }
  // Without an addend c is not read (beta is 0), but must be an address.
  const Operands operands = {args.b, args.a, args.c != nullptr ? args.c : args.d, args.d};
  uint32_t alignment = kAlignmentMax;
  for (const void* address : {operands.a, operands.b, operands.c, static_cast<const void*>(operands.d)}) {
    const uint64_t value = reinterpret_cast<uintptr_t>(address);
    alignment = std::min<uint64_t>(alignment, value & -value);
  }
  const Key key = {args.product,   args.m,    args.n, args.k, kType<T>, kType<Out>, args.c != nullptr,
                   args.c == args.d, alignment};
  ASSIGN_OR_RETURN(Plan * plan, FindPlan(key, operands, stream));
  return Launch(key, *plan, operands, plan->algorithm, stream);
}

// The plan kept for the shape, or a new one. Nothing can be timed while a graph is captured: the first suggestion is kept.
absl::StatusOr<Plan*> MatmulImpl::FindPlan(const Key& key, const Operands& operands,
                                           cudaStream_t stream) {
  if (Plan* plan = plans_.Find(key)) return plan;
  ASSIGN_OR_RETURN(Plan plan, MakePlan(key));
  ASSIGN_OR_RETURN(const std::vector<cublasLtMatmulAlgo_t> candidates, Suggest(key, plan));
  size_t best = 0;
  if (tune_ && tuned_ < kTunedMax && candidates.size() > 1) {
    cudaStreamCaptureStatus capture;
    RETURN_IF_CUDA_ERROR(cudaStreamIsCapturing(stream, &capture));
    if (capture == cudaStreamCaptureStatusNone) {
      ASSIGN_OR_RETURN(best, Fastest(key, plan, operands, candidates, stream));
      ++tuned_;
    }
  }
  plan.algorithm = candidates[best];
  return plans_.Insert(key, std::move(plan));
}

absl::StatusOr<Layout> MatmulImpl::MakeLayout(cudaDataType_t type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout;
  RETURN_IF_ERROR(Check(lt_.cublasLtMatrixLayoutCreate(&layout, type, rows, columns, /*ld=*/rows),
                        "cublasLtMatrixLayoutCreate"));
  return Layout(layout, {&lt_});
}

absl::StatusOr<Plan> MatmulImpl::MakePlan(const Key& key) {
  Plan plan;
  cublasLtMatmulDesc_t operation;
  // Plain 32F on fp32 operands is fp32 throughout; tf32 would have to be asked for.
  RETURN_IF_ERROR(Check(lt_.cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                        "cublasLtMatmulDescCreate"));
  plan.operation = Operation(operation, {&lt_});
  const cublasOperation_t a = key.product == Product::kNT ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t b = key.product == Product::kTN ? CUBLAS_OP_T : CUBLAS_OP_N;
  RETURN_IF_ERROR(Check(lt_.cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                           &a, sizeof a), "TRANSA"));
  RETURN_IF_ERROR(Check(lt_.cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                                           &b, sizeof b), "TRANSB"));
  // A row-major matrix [r, c] is the column-major one of c rows and r columns.
  ASSIGN_OR_RETURN(plan.a, a == CUBLAS_OP_T ? MakeLayout(key.in, key.k, key.n)
                                            : MakeLayout(key.in, key.n, key.k));
  ASSIGN_OR_RETURN(plan.b, b == CUBLAS_OP_T ? MakeLayout(key.in, key.m, key.k)
                                            : MakeLayout(key.in, key.k, key.m));
  ASSIGN_OR_RETURN(plan.d, MakeLayout(key.out, key.n, key.m));
  return plan;
}

// Best first, as cuBLASLt thinks. Split-k goes through the workspace in fp32 or not at all: same inputs, same bits.
absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> MatmulImpl::Suggest(const Key& key,
                                                                      const Plan& plan) {
  cublasLtMatmulPreference_t raw;
  RETURN_IF_ERROR(Check(lt_.cublasLtMatmulPreferenceCreate(&raw), "cublasLtMatmulPreferenceCreate"));
  const Preference preference(raw, {&lt_});
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    return Check(lt_.cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof value),
                 absl::StrCat("preference ", static_cast<int>(attribute)));
  };
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes}));
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    RETURN_IF_ERROR(set(attribute, key.alignment));
  }
  std::array<cublasLtMatmulHeuristicResult_t, kCandidatesMax> results;
  int count = 0;
  RETURN_IF_ERROR(Check(lt_.cublasLtMatmulAlgoGetHeuristic(
                            handle_.get(), plan.operation.get(), plan.a.get(), plan.b.get(),
                            plan.d.get(), plan.d.get(), raw, kCandidatesMax, results.data(), &count),
                        Describe(key)));
  std::vector<cublasLtMatmulAlgo_t> candidates;
  for (int i = 0; i < count; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS) candidates.push_back(results[i].algo);
  }
  if (candidates.empty()) {
    return absl::UnimplementedError(absl::StrCat("cuBLASLt knows no way for ", Describe(key)));
  }
  return candidates;
}

// Output goes to scratch: d may be live, and may be c. An addend elsewhere is only read. Where memory does not allow scratch,
// the first suggestion stands.
absl::StatusOr<size_t> MatmulImpl::Fastest(const Key& key, const Plan& plan,
                                           const Operands& operands,
                                           const std::vector<cublasLtMatmulAlgo_t>& candidates,
                                           cudaStream_t stream) {
  const int64_t bytes = key.m * key.n * BytesOf(key.out);
  absl::StatusOr<Memory> scratch = Memory::Allocate(bytes);
  if (absl::IsResourceExhausted(scratch.status())) return 0;
  RETURN_IF_ERROR(scratch.status());
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(scratch->data(), 0, bytes, stream));
  Operands timed = operands;
  timed.d = scratch->data();
  if (key.in_place || !key.adds) timed.c = timed.d;
  size_t best = 0;
  float best_ms = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const absl::StatusOr<float> ms = Time(key, plan, timed, candidates[i], stream);
    if (!ms.ok() && i == 0) return ms.status();
    if (!ms.ok()) continue;  // a suggestion that cannot run is no candidate
    if (i == 0 || *ms < best_ms * kWorthwhile) {
      best = i;
      best_ms = *ms;
    }
  }
  return best;
}

absl::StatusOr<float> MatmulImpl::Time(const Key& key, const Plan& plan, const Operands& operands,
                                       const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) {
  RETURN_IF_ERROR(Launch(key, plan, operands, algorithm, stream));
  ASSIGN_OR_RETURN(const Event start, MakeEvent());
  ASSIGN_OR_RETURN(const Event stop, MakeEvent());
  std::array<float, kTimedRuns> ms;
  for (float& one : ms) {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(start.get(), stream));
    RETURN_IF_ERROR(Launch(key, plan, operands, algorithm, stream));
    RETURN_IF_CUDA_ERROR(cudaEventRecord(stop.get(), stream));
    RETURN_IF_CUDA_ERROR(cudaEventSynchronize(stop.get()));
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&one, start.get(), stop.get()));
  }
  std::sort(ms.begin(), ms.end());
  return ms[kTimedRuns / 2];
}

absl::Status MatmulImpl::Launch(const Key& key, const Plan& plan, const Operands& operands,
                                const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) {
  const float alpha = 1.0f, beta = key.adds ? 1.0f : 0.0f;
  const cublasStatus_t status = lt_.cublasLtMatmul(
      handle_.get(), plan.operation.get(), &alpha, operands.a, plan.a.get(), operands.b, plan.b.get(),
      &beta, operands.c, plan.d.get(), operands.d, plan.d.get(), &algorithm, workspace_.data(),
      kWorkspaceBytes, stream);
  // The description is only worth its allocation when something went wrong.
  return status == CUBLAS_STATUS_SUCCESS ? absl::OkStatus() : Check(status, Describe(key));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Matmul>> Matmul::Create(bool tune) {
  ASSIGN_OR_RETURN(const CublasLt* lt, LoadCublasLt());
  auto matmul = std::make_unique<MatmulImpl>(*lt, tune);
  RETURN_IF_ERROR(matmul->Open());
  return matmul;
}

}  // namespace espalier::kernels::cuda

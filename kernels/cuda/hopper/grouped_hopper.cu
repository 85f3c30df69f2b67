// Host side of the grouped product on Hopper: tensor maps and launches. libcuda is not linked: its one function comes from the
// runtime.
#include "kernels/cuda/hopper/grouped_hopper.h"

#include <limits>

#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/hopper/grouped_kernel.cuh"
#include "kernels/cuda/launch.cuh"

namespace espalier::kernels::cuda::hopper {
namespace {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled Encoder() {
  static const EncodeTiled encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
      function = nullptr;
    }
    return reinterpret_cast<EncodeTiled>(function);
  }();
  return encode;
}

// bf16 [depth][rows][columns] without gaps, in boxes of box_rows rows x 64 columns, swizzled by 128 bytes, zeros outside.
bool MakeMap(CUtensorMap& map, const void* data, int64_t columns, int64_t rows, int64_t depth, int box_rows) {
  const EncodeTiled encode = Encoder();
  if (encode == nullptr) return false;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(depth)};
  const cuuint64_t strides[2] = {sizes[0] * 2, sizes[0] * sizes[1] * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows), 1}, steps[3] = {1, 1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool TakesSizes(int groups, int64_t rows_max, int64_t x, int64_t y) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() / 2;
  return groups >= 1 && groups <= kGroupsMax && rows_max >= 1 && rows_max <= kMax && x >= 8 && y >= 8 && x <= kMax &&
         y <= kMax && x % 8 == 0 && y % 8 == 0;
}

template <class Config>
cudaError_t Launch(const CUtensorMap& a, const CUtensorMap& b, const CUtensorMap& out, const GroupedParams& params,
                   cudaStream_t stream) {
  static OncePerDevice raised;  // one for each kernel
  if (const cudaError_t error = raised.Do([] {
        return cudaFuncSetAttribute(GroupedKernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      });
      error != cudaSuccess) {
    return error;
  }
  DeviceFacts facts;
  if (const cudaError_t error = CurrentDeviceFacts(facts); error != cudaSuccess) return error;
  const int blocks = facts.multiprocessors / kClusterSize * kClusterSize;
  if (blocks * 8 > kGradientSquares) return cudaErrorInvalidValue;  // a computing warp has a place in `squares`
  cuda::Launch(GroupedKernel<Config>, blocks, kThreads, kSharedBytes, stream, a, b, out, params);
  return cudaGetLastError();
}

template <GroupedKind Kind>
cudaError_t Matmul(const GroupedMatmulArgs<__nv_bfloat16>& args, cudaStream_t stream) {
  using Config = GroupedConfig<Kind>;
  const int64_t b_rows = Config::kMnMajorB ? args.k : args.n, b_columns = Config::kMnMajorB ? args.n : args.k;
  CUtensorMap a, b, out;
  if (!MakeMap(a, args.a, args.k, args.rows_max, 1, Config::kLoadRowsA) ||
      !MakeMap(b, args.b, b_columns, b_rows, args.groups, Config::kLoadRowsB) ||
      !MakeMap(out, args.c, args.n, args.rows_max, 1, kBoxRows)) {
    return cudaErrorInvalidValue;
  }
  const GroupedParams params = {args.offsets, args.c, args.groups, 0, static_cast<int>(args.n), static_cast<int>(args.k)};
  return Launch<Config>(a, b, out, params, stream);
}

}  // namespace

bool Takes(const GroupedMatmulArgs<__nv_bfloat16>& args) {
  return TakesSizes(args.groups, args.rows_max, args.n, args.k) && Aligned(args.a) && Aligned(args.b) && Aligned(args.c);
}

bool Takes(const GroupedGradientArgs<__nv_bfloat16>& args) {
  return TakesSizes(args.groups, args.rows_max, args.m, args.n) && Aligned(args.a) && Aligned(args.b) && Aligned(args.c);
}

cudaError_t GroupedMatmul(const GroupedMatmulArgs<__nv_bfloat16>& args, cudaStream_t stream) {
  return args.product == Product::kNT ? Matmul<GroupedKind::kNT>(args, stream) : Matmul<GroupedKind::kNN>(args, stream);
}

cudaError_t GroupedGradient(const GroupedGradientArgs<__nv_bfloat16>& args, cudaStream_t stream) {
  using Config = GroupedConfig<GroupedKind::kGradient>;
  CUtensorMap a, b, out;
  if (!MakeMap(a, args.a, args.m, args.rows_max, 1, Config::kLoadRowsA) ||
      !MakeMap(b, args.b, args.n, args.rows_max, 1, Config::kLoadRowsB) ||
      !MakeMap(out, args.c, args.n, args.m, args.groups, kBoxRows)) {
    return cudaErrorInvalidValue;
  }
  const GroupedParams params = {args.offsets, args.c, args.groups, static_cast<int>(args.m), static_cast<int>(args.n), 0,
                                args.squares};
  return Launch<Config>(a, b, out, params, stream);
}

}  // namespace espalier::kernels::cuda::hopper

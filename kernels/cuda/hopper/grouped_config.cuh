// Sizes and the shared-memory plan of the grouped product on Hopper.
//
// A tile is 128 x 256 of the output, computed in steps of 64 of k through a ring of four stages. Operand tiles lie in shared
// memory with 128-byte swizzle, 64 k deep:
//   K-major  (a and b of NT, a of NN)           [rows][64 k]
//   MN-major (b of NN, a and b of the gradient)  chunks [64 k][64 rows], one TMA box of 8 KB for 64 rows of the operand
// Two CTAs form a cluster, work on neighbouring tiles and share one operand: each loads half of it for both.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace espalier::kernels::cuda::hopper {

enum class GroupedKind { kNT, kNN, kGradient };

constexpr int kClusterSize = 2;
constexpr int kTileM = 128, kTileN = 256, kTileK = 64, kStages = 4;
constexpr int kGroupsMax = 256;
// Warpgroup 0 loads; warpgroups 1 and 2 compute 64 of the tile's rows each.
constexpr int kThreads = 384;
constexpr int kLoaderRegisters = 40, kComputeRegisters = 232;  // 128 * 40 + 256 * 232 fit 64 K
static_assert(128 * kLoaderRegisters + 256 * kComputeRegisters <= 65536);

constexpr int kBytesA = kTileM * kTileK * 2, kBytesB = kTileN * kTileK * 2;
constexpr int kStageBytes = kBytesA + kBytesB;
constexpr int kBoxRows = 16;                   // rows of an output box: one warp's
constexpr int kBoxBytes = kBoxRows * 128;      // 16 rows x 64 columns of bf16
constexpr int kBoxesOffset = kStages * kStageBytes;               // a ring of two boxes for each computing warp
constexpr int kBarriersOffset = kBoxesOffset + 8 * 2 * kBoxBytes;  // full[kStages], empty[kStages]
constexpr int kScheduleOffset = kBarriersOffset + 2 * kStages * 8;  // int offsets[kGroupsMax + 1], units[kGroupsMax + 1]
constexpr int kSharedBytes = kScheduleOffset + 2 * (kGroupsMax + 1) * 4;
static_assert(kSharedBytes <= 227 * 1024);

template <GroupedKind Kind>
struct GroupedConfig {
  static constexpr bool kGradient = Kind == GroupedKind::kGradient;
  static constexpr bool kMnMajorA = kGradient, kMnMajorB = Kind != GroupedKind::kNT;
  // Rows of the operand in one TMA box. K-major operands come in halves because either may be shared by the cluster.
  static constexpr int kLoadRowsA = 64, kLoadRowsB = kMnMajorB ? 64 : 128;
};

struct GroupedParams {
  const int32_t* offsets;  // [groups + 1], device
  __nv_bfloat16* out;
  int groups;
  int m, n, k;  // m: rows of a gradient matrix, else unused; k: unused by the gradient
  double* squares = nullptr;  // of the gradient: null, or one sum of squares a computing warp
};

}  // namespace espalier::kernels::cuda::hopper

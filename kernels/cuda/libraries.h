// cuBLASLt and cuDNN as tables of functions, opened when they are first asked for: no binary is linked against them, so one
// that was built with CUDA starts on machines without. Neither library is ever closed again.
#pragma once

#include <cublasLt.h>
#include <cudnn.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::kernels::cuda {

#define ESPALIER_CUBLASLT_FUNCTIONS(X)                                                            \
  X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtGetStatusString) X(cublasLtGetVersion)           \
  X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic)                                             \
  X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute)      \
  X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy)                                    \
  X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceDestroy)                            \
  X(cublasLtMatmulPreferenceSetAttribute)

#define ESPALIER_CUDNN_FUNCTIONS(X)                                                               \
  X(cudnnCreate) X(cudnnDestroy) X(cudnnSetStream) X(cudnnGetVersion) X(cudnnGetErrorString)      \
  X(cudnnGetLastErrorString) X(cudnnBackendCreateDescriptor) X(cudnnBackendDestroyDescriptor)     \
  X(cudnnBackendSetAttribute) X(cudnnBackendGetAttribute) X(cudnnBackendFinalize)                 \
  X(cudnnBackendExecute)

#define ESPALIER_MEMBER(name) decltype(&::name) name = nullptr;
struct CublasLt {
  ESPALIER_CUBLASLT_FUNCTIONS(ESPALIER_MEMBER)
};
struct Cudnn {
  ESPALIER_CUDNN_FUNCTIONS(ESPALIER_MEMBER)
};
#undef ESPALIER_MEMBER

// The same table each time. kUnavailable names the library, the places where it was looked for and the remedy; a later call
// tries again. Thread-safe.
absl::StatusOr<const CublasLt*> LoadCublasLt();
absl::StatusOr<const Cudnn*> LoadCudnn();

// Names to try for a library, in order: the plain one (LD_LIBRARY_PATH, ldconfig), CUDA's usual folder, `cuda_home` (may be
// null or empty).
std::vector<std::string> LibraryPaths(const char* name, const char* cuda_home);

// dlopen of the first of `paths` that opens; else kUnavailable with what the loader said to each.
absl::StatusOr<void*> OpenLibrary(const char* name, const std::vector<std::string>& paths);

}  // namespace espalier::kernels::cuda

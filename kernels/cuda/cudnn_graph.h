// A graph of operations for cuDNN's backend API, and the plan that executes it. Attention is its only user so far.
#pragma once

#include <cudnn.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/libraries.h"

namespace espalier::kernels::cuda {

// OK, or an error that names what was tried and what cuDNN says about it.
absl::Status CudnnStatus(const Cudnn& cudnn, cudnnStatus_t status, absl::string_view what);

// A descriptor that is filled, then finalised. The first error is kept and makes the rest do nothing. Move-only.
class CudnnDescriptor {
 public:
  CudnnDescriptor() = default;
  CudnnDescriptor(const Cudnn& cudnn, cudnnBackendDescriptorType_t type);
  CudnnDescriptor(CudnnDescriptor&& other) noexcept { *this = std::move(other); }
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept;
  ~CudnnDescriptor();

  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                       const void* values);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, int64_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnDataType_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, bool value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, float value);
  // `what` names the descriptor in the error.
  absl::Status Finalize(absl::string_view what);

  cudnnBackendDescriptor_t get() const { return descriptor_; }
  const absl::Status& status() const { return status_; }

 private:
  const Cudnn* cudnn_ = nullptr;
  cudnnBackendDescriptor_t descriptor_ = nullptr;
  absl::Status status_;
};

// Tensors are of four dimensions. The first error is kept: Build returns it. Not thread-safe.
class CudnnGraph {
 public:
  using Tensor = int;  // its unique id is one more
  using Shape = std::vector<int64_t>;

  explicit CudnnGraph(const Cudnn& cudnn) : cudnn_(cudnn) {}
  CudnnGraph(const CudnnGraph&) = delete;
  CudnnGraph& operator=(const CudnnGraph&) = delete;

  // Argument number arguments() of Execute, in the order of these calls.
  Tensor Argument(cudnnDataType_t type, const Shape& sizes, const Shape& strides);
  Tensor Virtual(cudnnDataType_t type, const Shape& sizes);
  Tensor Scalar(float value);

  // out = mode(x, y, mask); y and mask may be kNone.
  static constexpr Tensor kNone = -1;
  void PointwiseTo(cudnnPointwiseMode_t mode, Tensor out, Tensor x, Tensor y = kNone);
  // The same into a new tensor of fp32, as large as x and y broadcast.
  Tensor Pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor y = kNone);
  Tensor PointwiseAs(cudnnDataType_t type, cudnnPointwiseMode_t mode, Tensor x, Tensor y);
  // 0 where row >= column of the last two dimensions, else `otherwise`: x there. Indices are made in `index_type`.
  Tensor CausalMask(Tensor x, cudnnDataType_t index_type, float otherwise);
  void Matmul(Tensor a, Tensor b, Tensor out);
  void Reduce(cudnnReduceTensorOp_t mode, Tensor x, Tensor out);
  // A view with the last two dimensions exchanged: how flash attention's pattern is told of a transpose.
  Tensor TransposeView(Tensor x, cudnnDataType_t type);

  // Finalises the graph and takes the first of the heuristics' configurations that compiles.
  absl::Status Build(cudnnHandle_t handle);
  int64_t workspace_bytes() const { return workspace_bytes_; }
  size_t arguments() const { return argument_ids_.size(); }

  // Enqueues on the handle's stream; pointers stand in the order of Argument().
  absl::Status Execute(cudnnHandle_t handle, const std::vector<void*>& pointers, void* workspace);

 private:
  struct PointwiseOptions {
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    int64_t axis = -1;
    Tensor mask = kNone;
  };
  struct TensorInfo {
    Shape sizes, strides;
    CudnnDescriptor descriptor;
  };
  Tensor AddTensor(cudnnDataType_t type, const Shape& sizes, const Shape& strides,
                   cudnnBackendAttributeName_t flag, bool has_flag);
  void AddPointwise(cudnnPointwiseMode_t mode, Tensor out, Tensor x, Tensor y, const PointwiseOptions& options);
  Tensor NewPointwise(cudnnDataType_t type, cudnnPointwiseMode_t mode, Tensor x, Tensor y,
                      const PointwiseOptions& options);
  void AddOperation(CudnnDescriptor operation, absl::string_view what);
  const CudnnDescriptor& Of(Tensor tensor) const { return tensors_[tensor].descriptor; }
  void Keep(absl::Status status) { status_.Update(status); }
  absl::StatusOr<std::vector<CudnnDescriptor>> Configurations(cudnnBackendHeurMode_t mode);
  absl::Status TryPlan(cudnnHandle_t handle, const CudnnDescriptor& configuration);

  const Cudnn& cudnn_;
  absl::Status status_;
  std::vector<TensorInfo> tensors_;
  std::vector<int64_t> argument_ids_, scalar_ids_;
  std::deque<float> scalars_;  // their addresses go into every variant pack
  std::vector<CudnnDescriptor> parts_, operations_;
  CudnnDescriptor graph_, plan_;
  int64_t workspace_bytes_ = 0;
};

}  // namespace espalier::kernels::cuda

// cuDNN's backend API is attributes by number on opaque descriptors; this file is the only one that sets them.
#include "kernels/cuda/cudnn_graph.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::kernels::cuda {

absl::Status CudnnStatus(const Cudnn& cudnn, cudnnStatus_t status, absl::string_view what) {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  char detail[2048] = {};
  cudnn.cudnnGetLastErrorString(detail, sizeof detail);
  const std::string message = absl::StrCat("cuDNN: ", what, ": ", cudnn.cudnnGetErrorString(status), " (", detail, ")");
  // By thousands: not initialised, bad parameter, not supported, internal, execution failed.
  switch (static_cast<int>(status) / 1000) {
    case 1:
      return absl::UnavailableError(message);
    case 3:
      return absl::UnimplementedError(message);
    default:
      return absl::InternalError(message);
  }
}

CudnnDescriptor::CudnnDescriptor(const Cudnn& cudnn, cudnnBackendDescriptorType_t type) : cudnn_(&cudnn) {
  const cudnnStatus_t status = cudnn.cudnnBackendCreateDescriptor(type, &descriptor_);
  if (status != CUDNN_STATUS_SUCCESS) {
    descriptor_ = nullptr;
    status_ = CudnnStatus(cudnn, status, absl::StrCat("descriptor of type ", static_cast<int>(type)));
  }
}

CudnnDescriptor& CudnnDescriptor::operator=(CudnnDescriptor&& other) noexcept {
  std::swap(cudnn_, other.cudnn_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(status_, other.status_);
  return *this;
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_ != nullptr) cudnn_->cudnnBackendDestroyDescriptor(descriptor_);
}

CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                                      const void* values) {
  if (!status_.ok()) return *this;
  const cudnnStatus_t status = cudnn_->cudnnBackendSetAttribute(descriptor_, name, type, count, values);
  if (status != CUDNN_STATUS_SUCCESS) {
    status_ = CudnnStatus(*cudnn_, status, absl::StrCat("attribute ", static_cast<int>(name)));
  }
  return *this;
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
  if (status_.ok()) status_ = value.status();
  const cudnnBackendDescriptor_t descriptor = value.get();
  return Set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, int64_t value) {
  return Set(name, CUDNN_TYPE_INT64, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values) {
  return Set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
  return Set(name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, bool value) {
  return Set(name, CUDNN_TYPE_BOOLEAN, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, float value) {
  return Set(name, CUDNN_TYPE_FLOAT, 1, &value);
}

absl::Status CudnnDescriptor::Finalize(absl::string_view what) {
  if (status_.ok()) status_ = CudnnStatus(*cudnn_, cudnn_->cudnnBackendFinalize(descriptor_), what);
  return status_;
}

CudnnGraph::Tensor CudnnGraph::AddTensor(cudnnDataType_t type, const Shape& sizes, const Shape& strides,
                                         cudnnBackendAttributeName_t flag, bool has_flag) {
  const int64_t id = static_cast<int64_t>(tensors_.size()) + 1;
  CudnnDescriptor descriptor(cudnn_, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  descriptor.Set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .Set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes)
      .Set(CUDNN_ATTR_TENSOR_STRIDES, strides)
      .Set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id)
      .Set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, int64_t{16});
  if (has_flag) descriptor.Set(flag, true);
  Keep(descriptor.Finalize("tensor"));
  tensors_.push_back({sizes, strides, std::move(descriptor)});
  return static_cast<Tensor>(id - 1);
}

CudnnGraph::Tensor CudnnGraph::Argument(cudnnDataType_t type, const Shape& sizes, const Shape& strides) {
  const Tensor tensor = AddTensor(type, sizes, strides, CUDNN_ATTR_TENSOR_IS_VIRTUAL, false);
  argument_ids_.push_back(tensor + 1);
  return tensor;
}

CudnnGraph::Tensor CudnnGraph::Virtual(cudnnDataType_t type, const Shape& sizes) {
  Shape strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * sizes[i];
  return AddTensor(type, sizes, strides, CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
}

CudnnGraph::Tensor CudnnGraph::Scalar(float value) {
  const Tensor tensor = AddTensor(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  scalars_.push_back(value);
  scalar_ids_.push_back(tensor + 1);
  return tensor;
}

void CudnnGraph::AddOperation(CudnnDescriptor operation, absl::string_view what) {
  Keep(operation.Finalize(what));
  operations_.push_back(std::move(operation));
}

void CudnnGraph::AddPointwise(cudnnPointwiseMode_t mode, Tensor out, Tensor x, Tensor y,
                              const PointwiseOptions& options) {
  CudnnDescriptor pointwise(cudnn_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  pointwise.Set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode)
      .Set(CUDNN_ATTR_POINTWISE_MATH_PREC, options.precision);
  if (mode == CUDNN_POINTWISE_GEN_INDEX) pointwise.Set(CUDNN_ATTR_POINTWISE_AXIS, options.axis);
  Keep(pointwise.Finalize("pointwise"));
  CudnnDescriptor operation(cudnn_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise)
      .Set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, Of(x))
      .Set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, Of(out));
  if (y != kNone) operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, Of(y));
  if (options.mask != kNone) operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, Of(options.mask));
  operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, 1.0f).Set(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, 1.0f);
  parts_.push_back(std::move(pointwise));
  AddOperation(std::move(operation), "pointwise operation");
}

CudnnGraph::Tensor CudnnGraph::NewPointwise(cudnnDataType_t type, cudnnPointwiseMode_t mode, Tensor x, Tensor y,
                                            const PointwiseOptions& options) {
  Shape sizes = tensors_[x].sizes;
  for (size_t i = 0; y != kNone && i < sizes.size(); ++i) sizes[i] = std::max(sizes[i], tensors_[y].sizes[i]);
  const Tensor out = Virtual(type, sizes);
  AddPointwise(mode, out, x, y, options);
  return out;
}

void CudnnGraph::PointwiseTo(cudnnPointwiseMode_t mode, Tensor out, Tensor x, Tensor y) {
  AddPointwise(mode, out, x, y, {});
}
CudnnGraph::Tensor CudnnGraph::Pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor y) {
  return NewPointwise(CUDNN_DATA_FLOAT, mode, x, y, {});
}
CudnnGraph::Tensor CudnnGraph::PointwiseAs(cudnnDataType_t type, cudnnPointwiseMode_t mode, Tensor x, Tensor y) {
  return NewPointwise(type, mode, x, y, {});
}

CudnnGraph::Tensor CudnnGraph::CausalMask(Tensor x, cudnnDataType_t index_type, float otherwise) {
  const Tensor row = NewPointwise(CUDNN_DATA_INT32, CUDNN_POINTWISE_GEN_INDEX, x, kNone, {index_type, 2});
  const Tensor column = NewPointwise(CUDNN_DATA_INT32, CUDNN_POINTWISE_GEN_INDEX, x, kNone, {index_type, 3});
  const Tensor keep = NewPointwise(CUDNN_DATA_BOOLEAN, CUDNN_POINTWISE_CMP_GE, row, column, {CUDNN_DATA_BOOLEAN});
  PointwiseOptions select;
  select.mask = keep;
  return NewPointwise(CUDNN_DATA_FLOAT, CUDNN_POINTWISE_BINARY_SELECT, x, Scalar(otherwise), select);
}

void CudnnGraph::Matmul(Tensor a, Tensor b, Tensor out) {
  CudnnDescriptor matmul(cudnn_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  matmul.Set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  Keep(matmul.Finalize("matmul"));
  CudnnDescriptor operation(cudnn_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, Of(a))
      .Set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, Of(b))
      .Set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, Of(out))
      .Set(CUDNN_ATTR_OPERATION_MATMUL_DESC, matmul);
  parts_.push_back(std::move(matmul));
  AddOperation(std::move(operation), "matmul operation");
}

void CudnnGraph::Reduce(cudnnReduceTensorOp_t mode, Tensor x, Tensor out) {
  CudnnDescriptor reduction(cudnn_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.Set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .Set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode)
      .Set(CUDNN_ATTR_REDUCTION_IS_DETERMINISTIC, false);
  Keep(reduction.Finalize("reduction"));
  CudnnDescriptor operation(cudnn_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction)
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, Of(x))
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, Of(out));
  parts_.push_back(std::move(reduction));
  AddOperation(std::move(operation), "reduction operation");
}

CudnnGraph::Tensor CudnnGraph::TransposeView(Tensor x, cudnnDataType_t type) {
  Shape sizes = tensors_[x].sizes, strides = tensors_[x].strides;
  std::swap(sizes[2], sizes[3]);
  std::swap(strides[2], strides[3]);
  const Tensor out = AddTensor(type, sizes, strides, CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  CudnnDescriptor operation(cudnn_, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, Of(x)).Set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, Of(out));
  AddOperation(std::move(operation), "reshape operation");
  return out;
}

absl::StatusOr<std::vector<CudnnDescriptor>> CudnnGraph::Configurations(cudnnBackendHeurMode_t mode) {
  CudnnDescriptor heuristics(cudnn_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.Set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_)
      .Set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  RETURN_IF_ERROR(heuristics.Finalize("heuristics"));
  const auto get = [&](int64_t room, int64_t* count, void* values) {
    return CudnnStatus(cudnn_,
                       cudnn_.cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, room, count, values),
                       "results of the heuristics");
  };
  int64_t count = 0, got = 0;
  RETURN_IF_ERROR(get(0, &count, nullptr));
  std::vector<CudnnDescriptor> results;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < count; ++i) {
    results.emplace_back(cudnn_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    RETURN_IF_ERROR(results.back().status());
    raw.push_back(results.back().get());
  }
  if (count > 0) RETURN_IF_ERROR(get(count, &got, raw.data()));
  results.resize(std::min(count, got));
  return results;
}

absl::Status CudnnGraph::TryPlan(cudnnHandle_t handle, const CudnnDescriptor& configuration) {
  CudnnDescriptor plan(cudnn_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.Set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle)
      .Set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  RETURN_IF_ERROR(plan.Finalize("execution plan"));
  int64_t count = 0;
  RETURN_IF_ERROR(CudnnStatus(cudnn_,
                              cudnn_.cudnnBackendGetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                              CUDNN_TYPE_INT64, 1, &count, &workspace_bytes_),
                              "workspace of a plan"));
  plan_ = std::move(plan);
  return absl::OkStatus();
}

absl::Status CudnnGraph::Build(cudnnHandle_t handle) {
  RETURN_IF_ERROR(status_);
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const CudnnDescriptor& operation : operations_) operations.push_back(operation.get());
  graph_ = CudnnDescriptor(cudnn_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph_.Set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(operations.size()),
             operations.data())
      .Set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  RETURN_IF_ERROR(graph_.Finalize("operation graph"));
  absl::Status why = absl::UnimplementedError("cuDNN: its heuristics know no engine for the graph");
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    const absl::StatusOr<std::vector<CudnnDescriptor>> configurations = Configurations(mode);
    if (!configurations.ok()) {
      why = configurations.status();
      continue;
    }
    for (const CudnnDescriptor& configuration : *configurations) {
      why = TryPlan(handle, configuration);
      if (why.ok()) return why;
    }
  }
  return why;
}

absl::Status CudnnGraph::Execute(cudnnHandle_t handle, const std::vector<void*>& pointers, void* workspace) {
  if (pointers.size() != argument_ids_.size()) {
    return absl::InternalError(
        absl::StrCat("cuDNN graph: ", pointers.size(), " pointers for ", argument_ids_.size(), " arguments"));
  }
  std::vector<int64_t> ids = argument_ids_;
  std::vector<void*> all = pointers;
  ids.insert(ids.end(), scalar_ids_.begin(), scalar_ids_.end());
  for (float& scalar : scalars_) all.push_back(&scalar);
  CudnnDescriptor pack(cudnn_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.Set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<int64_t>(all.size()), all.data())
      .Set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, static_cast<int64_t>(ids.size()), ids.data())
      .Set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  RETURN_IF_ERROR(pack.Finalize("variant pack"));
  return CudnnStatus(cudnn_, cudnn_.cudnnBackendExecute(handle, plan_.get(), pack.get()), "execution");
}

}  // namespace espalier::kernels::cuda

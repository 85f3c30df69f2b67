// Dense gradients are read from the reduced buffer by AdamW itself: they are never copied back.
#include "libs/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/adamw.h"
#include "libs/base/status_macros.h"

namespace espalier::train {
namespace {
// Large enough for the links' full bandwidth, small enough that a bucket stays in the cache while
// it is summed.
constexpr int64_t kBucketFloats = int64_t{1} << 20;

// Calls visit(begin, count) for each run of elements that are not frozen.
template <typename Visit>
void ForTrained(const model::Parameter<float>& parameter, const Visit& visit) {
  const std::vector<uint8_t>& frozen = parameter.frozen_rows;
  if (frozen.empty()) return visit(int64_t{0}, parameter.size());
  const auto rows = static_cast<int64_t>(frozen.size());
  const int64_t width = parameter.size() / rows;
  for (int64_t row = 0; row < rows; ++row) {
    if (frozen[row] != 0) continue;
    const int64_t begin = row;
    while (row < rows && frozen[row] == 0) ++row;
    visit(begin * width, (row - begin) * width);
  }
}

}  // namespace

Optimizer::Optimizer(model::Model<float>& model) : model_(model) { ParametersChanged(); }

void Optimizer::ParametersChanged() {
  if (model_.device_updates() != nullptr) return;
  parameters_ = model_.parameters();
  dense_count_ = 0;
  offsets_.clear();
  int64_t offset = 0;
  while (dense_count_ < parameters_.size() && !parameters_[dense_count_]->expert) {
    offsets_.push_back(offset);
    offset += parameters_[dense_count_++]->size();
  }
  reduced_.resize(model_.communicator().size() > 1 ? offset : 0);
}

absl::Status Optimizer::ResetMoments() {
  if (model::DeviceUpdates* device = model_.device_updates()) return device->ResetMoments();
  for (model::Parameter<float>* parameter : parameters_) {
    std::fill(parameter->moment1.begin(), parameter->moment1.end(), 0.0f);
    std::fill(parameter->moment2.begin(), parameter->moment2.end(), 0.0f);
  }
  return absl::OkStatus();
}

absl::Status Optimizer::ReduceDense() {
  if (model::DeviceUpdates* device = model_.device_updates()) return device->ReduceDense();
  if (reduced_.empty()) return absl::OkStatus();
  for (size_t i = 0; i < dense_count_; ++i) {
    std::memcpy(reduced_.data() + offsets_[i], parameters_[i]->grad.data(),
                parameters_[i]->grad.size() * sizeof(float));
  }
  const int64_t total = static_cast<int64_t>(reduced_.size());
  for (int64_t begin = 0; begin < total; begin += kBucketFloats) {
    const int64_t count = std::min(kBucketFloats, total - begin);
    RETURN_IF_ERROR(model_.communicator().AllReduceSum(
        std::span<float>(reduced_.data() + begin, static_cast<size_t>(count))));
  }
  return absl::OkStatus();
}

const float* Optimizer::GradientOf(size_t index) const {
  if (index < dense_count_ && !reduced_.empty()) return reduced_.data() + offsets_[index];
  return parameters_[index]->grad.data();
}

absl::StatusOr<Optimizer::SquaredNorms> Optimizer::MeasureNorms() {
  SquaredNorms norms;
  if (model::DeviceUpdates* device = model_.device_updates()) {
    RETURN_IF_ERROR(device->SquaredNorms(&norms.dense, &norms.experts));
    return norms;
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    (i < dense_count_ ? norms.dense : norms.experts) +=
        kernels::SquaredNorm(GradientOf(i), parameters_[i]->size(), model_.thread_pool());
  }
  return norms;
}

absl::Status Optimizer::Apply(const v1::OptimizerSpec& spec, double learning_rate, uint64_t update,
                              double gradient_scale) {
  const double count = static_cast<double>(update);
  const model::AdamWStep step{.lr = learning_rate,
                              .beta1 = spec.beta1(),
                              .beta2 = spec.beta2(),
                              .eps = spec.epsilon(),
                              .weight_decay = spec.weight_decay(),
                              .correction1 = 1.0 - std::pow(spec.beta1(), count),
                              .correction2 = 1.0 - std::pow(spec.beta2(), count),
                              .grad_scale = gradient_scale};
  if (model::DeviceUpdates* device = model_.device_updates()) return device->Apply(step);
  kernels::AdamWArgs<float> args{.lr = step.lr,
                                 .beta1 = step.beta1,
                                 .beta2 = step.beta2,
                                 .eps = step.eps,
                                 .correction1 = step.correction1,
                                 .correction2 = step.correction2,
                                 .grad_scale = step.grad_scale};
  for (size_t i = 0; i < parameters_.size(); ++i) {
    model::Parameter<float>& parameter = *parameters_[i];
    parameter.moment1.resize(parameter.value.size());
    parameter.moment2.resize(parameter.value.size());
    args.weight_decay = parameter.decay ? step.weight_decay : 0.0;
    ForTrained(parameter, [&](int64_t begin, int64_t count) {
      args.value = parameter.value.data() + begin;
      args.grad = GradientOf(i) + begin;
      args.moment1 = parameter.moment1.data() + begin;
      args.moment2 = parameter.moment2.data() + begin;
      args.n = count;
      kernels::AdamW(args, model_.thread_pool());
    });
  }
  return absl::OkStatus();
}

double ClipScale(double norm, double clip_norm) {
  return clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0;
}

}  // namespace espalier::train

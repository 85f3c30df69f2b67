// The language-model head on the device: logits of the rows that matter, log-probabilities to the host, gradients back.
#include "kernels/cuda/head.h"

#include <algorithm>

#include "kernels/cuda/permute.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {
namespace {

// Logits of more bytes than this are made chunk by chunk, and again for the backward pass where it cannot follow at once.
constexpr int64_t kLogitsBytesMax = int64_t{4} << 30;

}  // namespace

template <typename T>
absl::Status CudaModel<T>::LogitsOf(const T* hidden, int64_t rows) {
  RETURN_IF_ERROR(logits_.Reserve(rows * config_.vocabulary));
  return Linear(hidden, weights_.lm_head, logits_.data(), rows, config_.vocabulary, config_.width);
}

template <typename T>
int64_t CudaModel<T>::HeadChunk(int64_t rows) const {
  const int64_t row_bytes = config_.vocabulary * static_cast<int64_t>(sizeof(T));
  return std::max<int64_t>(1, std::min(rows, kLogitsBytesMax / row_bytes));
}

template <typename T>
absl::Status CudaModel<T>::ChooseHeadRows(const Batch& batch, bool all) {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  head_rows_.clear();
  std::vector<int32_t> targets;
  for (int64_t row = 0; row < tokens; ++row) {
    if (batch.targets[row] < 0 && !all) continue;
    head_rows_.push_back(static_cast<int32_t>(row));
    targets.push_back(batch.targets[row]);
  }
  const int64_t rows = static_cast<int64_t>(head_rows_.size());
  head_all_rows_ = rows == tokens;
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(targets), head_targets_));
  RETURN_IF_ERROR(head_logp_.Reserve(rows + 1));
  RETURN_IF_ERROR(head_lse_.Reserve(rows + 1));
  if (head_all_rows_) return absl::OkStatus();
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(head_rows_), head_index_));
  RETURN_IF_ERROR(head_hidden_.Reserve(rows * config_.width + 1));
  RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(hidden_.data(), head_index_.data(),
                                                    head_hidden_.data(), rows, config_.width,
                                                    stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::RunHead(const Batch& batch, bool keep_logits, std::span<float> logps,
                                   std::span<float> entropies) {
  RETURN_IF_ERROR(ChooseHeadRows(batch, !entropies.empty()));
  const int64_t rows = static_cast<int64_t>(head_rows_.size()), chunk = HeadChunk(rows);
  if (!entropies.empty()) RETURN_IF_ERROR(head_entropy_.Reserve(rows + 1));
  logits_kept_ = keep_logits && chunk >= rows;
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    RETURN_IF_ERROR(LogitsOf(HeadHidden() + begin * config_.width, count));
    RETURN_IF_CUDA_ERROR(kernels::cuda::LogProb<T>(
        {.logits = logits_.data(),
         .targets = head_targets_.data() + begin,
         .logp = head_logp_.data() + begin,
         .lse = head_lse_.data() + begin,
         .entropy = entropies.empty() ? nullptr : head_entropy_.data() + begin,
         .rows = count,
         .vocabulary = config_.vocabulary},
        stream_));
  }
  std::vector<float> found(rows), entropy(entropies.empty() ? 0 : rows);
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(found.data(), head_logp_.data(), rows * sizeof(float),
                                       cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(entropy.data(), head_entropy_.data(),
                                       entropy.size() * sizeof(float), cudaMemcpyDeviceToHost,
                                       stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  std::fill(logps.begin(), logps.end(), 0.0f);
  for (int64_t i = 0; i < rows; ++i) logps[head_rows_[i]] = found[i];
  for (size_t i = 0; i < entropy.size(); ++i) entropies[head_rows_[i]] = entropy[i];
  return absl::OkStatus();
}

// From the gradient of rows [begin, begin + count)'s logits, in logits_, to those of hidden rows and of the head's weight.
template <typename T>
absl::Status CudaModel<T>::HeadProductsBackward(int64_t begin, int64_t count) {
  const int64_t width = config_.width, vocabulary = config_.vocabulary;
  T* dweight = weights_.dense.gradient(weights_.lm_head);
  RETURN_IF_ERROR(
      matmul_->Run(kernels::cuda::MatmulArgs<T>{.product = Product::kNN,
                                                .a = logits_.data(),
                                                .b = weights_.dense.value(weights_.lm_head),
                                                .d = HeadGradient() + begin * width,
                                                .m = count,
                                                .n = width,
                                                .k = vocabulary},
                   stream_));
  return matmul_->Run(kernels::cuda::MatmulArgs<T>{.product = Product::kTN,
                                                   .a = logits_.data(),
                                                   .b = HeadHidden() + begin * width,
                                                   .c = begin == 0 ? nullptr : dweight,
                                                   .d = dweight,
                                                   .m = vocabulary,
                                                   .n = width,
                                                   .k = count},
                      stream_);
}

// Gradients of the rows chosen to their places in dhidden_, zero elsewhere.
template <typename T>
absl::Status CudaModel<T>::SpreadHeadGradient(int64_t tokens) {
  const int64_t rows = static_cast<int64_t>(head_rows_.size());
  if (rows == 0) {
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(weights_.dense.gradient(weights_.lm_head), 0,
                                         weights_.lm_head.size * sizeof(T), stream_));
  }
  if (head_all_rows_) return absl::OkStatus();
  RETURN_IF_CUDA_ERROR(
      cudaMemsetAsync(dhidden_.data(), 0, tokens * config_.width * sizeof(T), stream_));
  RETURN_IF_CUDA_ERROR(kernels::cuda::ScatterRows<T>(head_dhidden_.data(), head_index_.data(),
                                                     dhidden_.data(), rows, config_.width,
                                                     stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::SendSlopes(const Batch& batch, std::span<const float> dlogps) {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size()),
                rows = static_cast<int64_t>(head_rows_.size());
  std::vector<float> dlogp(rows);
  for (int64_t i = 0; i < rows; ++i) dlogp[i] = dlogps[head_rows_[i]];
  RETURN_IF_ERROR(Upload(std::span<const float>(dlogp), head_dlogp_));
  RETURN_IF_ERROR(dhidden_.Reserve(tokens * config_.width + 1));
  if (!head_all_rows_) RETURN_IF_ERROR(head_dhidden_.Reserve(rows * config_.width + 1));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::RunHeadBackward(const Batch& batch, std::span<const float> dlogps) {
  RETURN_IF_ERROR(SendSlopes(batch, dlogps));
  const int64_t rows = static_cast<int64_t>(head_rows_.size()), chunk = HeadChunk(rows);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    if (!logits_kept_) RETURN_IF_ERROR(LogitsOf(HeadHidden() + begin * config_.width, count));
    RETURN_IF_CUDA_ERROR(kernels::cuda::LogitsGradient<T>(
        logits_.data(), head_targets_.data() + begin, head_lse_.data() + begin,
        head_dlogp_.data() + begin, count, config_.vocabulary, stream_));
    RETURN_IF_ERROR(HeadProductsBackward(begin, count));
  }
  return SpreadHeadGradient(static_cast<int64_t>(batch.tokens.size()));
}

template <typename T>
absl::Status CudaModel<T>::RunHeadLinear(const Batch& batch, std::span<const float> dlogps) {
  RETURN_IF_ERROR(ChooseHeadRows(batch, /*all=*/false));
  RETURN_IF_ERROR(SendSlopes(batch, dlogps));
  const int64_t rows = static_cast<int64_t>(head_rows_.size()), chunk = HeadChunk(rows);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    RETURN_IF_ERROR(LogitsOf(HeadHidden() + begin * config_.width, count));
    RETURN_IF_CUDA_ERROR(kernels::cuda::LogProbAndGradient<T>(
        logits_.data(), head_targets_.data() + begin, head_dlogp_.data() + begin,
        head_logp_.data() + begin, count, config_.vocabulary, stream_));
    RETURN_IF_ERROR(HeadProductsBackward(begin, count));
  }
  RETURN_IF_ERROR(host_logp_.Reserve(rows + 1));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host_logp_.data(), head_logp_.data(), rows * sizeof(float),
                                       cudaMemcpyDeviceToHost, stream_));
  return SpreadHeadGradient(static_cast<int64_t>(batch.tokens.size()));
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::LogitsOf(const T*, int64_t);                               \
  template absl::Status CudaModel<T>::RunHead(const Batch&, bool, std::span<float>,              \
                                              std::span<float>);                                 \
  template absl::Status CudaModel<T>::RunHeadBackward(const Batch&, std::span<const float>);     \
  template absl::Status CudaModel<T>::RunHeadLinear(const Batch&, std::span<const float>);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model

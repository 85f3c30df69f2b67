// CudaModel<T>: the Model of one rank on an NVIDIA GPU. T is what products read: __nv_bfloat16 with fp32 masters, or float. Its methods are
// spread over create.cc, pass.cc, attention.cc, feed_forward.cc, head.cc, generate.cc, layout.cc and updates.cc.
#pragma once

#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/grouped.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/qk_norm.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"
#include "libs/model/cuda/activations.h"
#include "libs/model/cuda/device_weights.h"
#include "libs/model/cuda/event_timeline.h"
#include "libs/model/cuda/exchange.h"
#include "libs/model/cuda/peer_exchange.h"
#include "libs/model/model.h"

namespace espalier::model {

// Everything is enqueued on one stream; the host waits for it where it needs a number: log-probabilities, norms, samples.
template <typename T>
class CudaModel final : public Model<float>, public DeviceUpdates {
 public:
  static absl::StatusOr<std::unique_ptr<Model<float>>> Create(const ModelConfig& config, const ExpertLayout& layout,
                                                              collective::Communicator* communicator, uint64_t seed,
                                                              const ModelOptions& options);

  ~CudaModel() override { FinishGivingBack(); }
  const ModelConfig& config() const override { return config_; }
  const ExpertLayout& layout() const override { return layout_; }
  collective::Communicator& communicator() override { return *communicator_; }
  std::vector<Parameter<float>*> parameters() override { return ListParameters(host_); }
  int64_t TotalParameters() const override;
  absl::Status Forward(const Batch& batch, std::vector<float>* logps, std::vector<float>* entropies) override;
  absl::Status ForwardBackward(const Batch& batch, const LossFunction& loss, float aux_scale) override;
  absl::Status ForwardBackwardLinear(const Batch& batch, std::span<const float> dlogps, float aux_scale,
                                     std::vector<float>* logps) override;
  void ZeroGradients() override { gradients_clear_ = true; }
  const std::vector<LayerRouteCounts>& route_counts() const override { return route_counts_; }
  void MeasureOutputNorms(bool on) override { measure_norms_ = on; }
  const std::vector<LayerOutputNorms>& output_norms() const override { return output_norms_; }
  absl::StatusOr<std::vector<Sample>> Generate(std::span<const std::vector<int32_t>> prompts,
                                               std::span<const uint64_t> streams,
                                               const SampleOptions& options) override;
  absl::StatusOr<int64_t> ApplyLayout(const ExpertLayout& layout) override;
  std::vector<float>& selection_bias(int layer) override { return host_.layers[layer].selection_bias; }
  float aux_loss() const override { return aux_loss_; }
  base::ThreadPool& thread_pool() override { return pool_; }
  PhaseSeconds& phase_seconds() override { return seconds_; }
  void RecordTimeline(Timeline* timeline) override { recorded_ = timeline; }
  absl::Status FetchParameters() override;
  absl::Status StoreParameters() override;
  void DropParameters() override;
  DeviceUpdates* device_updates() override { return this; }
  // Waits until what the last layout gave up has been given back.
  int64_t device_bytes() const override {
    FinishGivingBack();
    return kernels::cuda::DeviceBytes();
  }

  absl::Status ReduceDense() override;
  absl::Status SquaredNorms(double* dense, double* experts) override;
  absl::Status Apply(const AdamWStep& step) override;
  absl::Status ResetMoments() override;

 private:
  // What a pass leaves for the backward pass: all activations, layers' inputs alone (the rest is computed again), or nothing.
  enum class Keep { kAllLayers, kInputs, kNothing };
  // The norm that reads a layer's output: the next layer's first, or the last one of all.
  struct NextNorm {
    const T* weight;
    T* y;
    float* rstd;
  };
  // Places of a layer's norms among scratch_.norm_shares.
  enum { kSharesOfInput, kSharesOfPost, kSharesOfQuery, kSharesOfKey };
  using Product = kernels::Product;

  CudaModel(const ModelConfig& config, const ExpertLayout& layout, collective::Communicator* communicator,
            const ModelOptions& options)
      : config_(config), layout_(layout), communicator_(communicator), options_(options), pool_(options.threads) {}
  absl::Status SetUp(uint64_t seed);
  // Through peers' device memory where all ranks can. (collective)
  absl::Status ConnectPeers();
  // Exchanges, counters and device tables that follow from the layout.
  absl::Status TakeLayout();

  CudaActivations<T>& activations(int layer, Keep keep) {
    return activations_[keep == Keep::kAllLayers ? layer : 0];
  }
  Keep keep_for_training() const { return options_.recompute ? Keep::kInputs : Keep::kAllLayers; }
  // While a layer of kInputs is at work, its input stands where that of the one set of activations is.
  void SwapInput(int layer, Keep keep) {
    if (keep == Keep::kInputs) std::swap(activations_[0].x, inputs_[layer]);
  }
  Buffer<T>& input(int layer, Keep keep) {
    return keep == Keep::kInputs ? inputs_[layer] : activations(layer, keep).x;
  }
  int experts(int layer) const { return static_cast<int>(layout_.layers[layer].ids.size()); }
  int64_t q_width() const { return int64_t{config_.heads} * config_.head_dim; }
  int64_t qkv_width() const { return q_width() + 2 * int64_t{config_.kv_heads} * config_.head_dim; }
  int32_t* counts(int layer) const { return counts_.data() + int64_t{layer} * config_.experts; }
  int64_t* norm_sums(int layer) const { return norm_sums_.data() + int64_t{layer} * config_.experts; }

  // y [rows, out] = x [rows, in] W^T (+ addend); W at `weight` in the dense arena.
  absl::Status Linear(const T* x, const Slice& weight, T* y, int64_t rows, int64_t out, int64_t in, const T* addend = nullptr);
  // dx [rows, in] = dy [rows, out] W (+ dx), and the weight's gradient is written.
  absl::Status LinearBackward(const T* dy, const T* x, const Slice& weight, T* dx, int64_t rows, int64_t out, int64_t in,
                              bool add);

  // pass.cc
  // Copies by way of page-locked memory, so that neither the values nor the stream are waited for.
  template <typename U>
  absl::Status Upload(std::span<const U> values, Buffer<U>& device);
  absl::StatusOr<CudaPass<T>> PackedPass(const Batch& batch);
  AttentionWay ChooseWay(std::span<const int64_t> starts, kernels::cuda::AttentionShape* shape);
  absl::Status PlanPadding(std::span<const int64_t> starts, CudaPass<T>& pass);
  absl::Status ReserveRope(int64_t positions);
  absl::Status UploadTables();
  // Reserves room for layer's normalised input, or behind the last layer for the hidden states.
  absl::StatusOr<NextNorm> NormBefore(int layer, int64_t tokens, Keep keep);
  absl::Status Norm(const T* x, const NextNorm& norm, int64_t rows);
  absl::Status RunLayers(const CudaPass<T>& pass, std::span<const int32_t> tokens, Keep keep);
  // Brings a layer's activations back from its input.
  absl::Status ComputeAgain(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status RunLayersBackward(const CudaPass<T>& pass, std::span<const int32_t> tokens, float aux_scale);
  // Where a timeline is wanted: waits for the pass, and tells it.
  absl::Status TellTimeline();
  absl::Status EmbeddingGradient(std::span<const int32_t> tokens, const T* dx);
  absl::Status GiveRoutes(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status TakeRoutes(const CudaPass<T>& pass, int layer, const CudaActivations<T>& act);
  // Checks a batch and prepares its pass.
  absl::StatusOr<CudaPass<T>> BeginTraining(const Batch& batch);
  // Route counts, output norms and the auxiliary loss of a pass on their way to the host, and taken over once they are there.
  absl::Status SendCounts();
  void TakeCounts();
  // Both, and the wait for the stream between them.
  absl::Status FetchCounts();
  absl::Status ClearGradients();

  // attention.cc
  // From act.h1, the normalised input, on.
  absl::Status AttentionForward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status AttentionBackward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, T* dx);
  kernels::cuda::RopeAngles Angles(const CudaPass<T>& pass) const;
  absl::Status Turn(const CudaPass<T>& pass, T* rows, bool backward);
  absl::Status PlaceQueriesAndKeys(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status PlaceQueriesAndKeysBackward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, T* dqkv);
  absl::Status Attend(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status AttendBackward(const CudaPass<T>& pass, CudaActivations<T>& act, const T* dattended, T* dqkv);
  kernels::cuda::AttentionArgs<T> PlainArgs(const CudaPass<T>& pass, const CudaActivations<T>& act) const;

  // feed_forward.cc
  // Also normalises x_out for what comes after the layer.
  absl::Status FeedForwardForward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, T* x_out, const NextNorm& next);
  absl::Status FeedForwardBackward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, T* dx, float aux_scale);
  absl::Status DenseForward(int64_t tokens, int layer, CudaActivations<T>& act, const T* residual, T* x_out);
  absl::Status DenseBackward(int64_t tokens, int layer, CudaActivations<T>& act, const T* dx, T* dh2, bool add);
  absl::Status Route(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  // Rows to their experts and gates beside them, and back; forward.
  absl::Status ToExperts(const CudaPass<T>& pass, int layer, CudaActivations<T>& act);
  absl::Status FromExperts(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, const T* out, ReturnedRows<T>* returned);
  // dx to the experts' rows, and gradients of rows and gates back.
  absl::Status GradientsToExperts(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, const T* dx, T* dout);
  absl::Status GradientsFromExperts(int layer, CudaActivations<T>& act, const T* din, ReturnedRows<T>* returned,
                                    const float** dweight, const int32_t** dweight_slot);
  absl::Status MoeForward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, const T* residual, T* x_out,
                          const NextNorm& next);
  // Writes the router's part of the gradient to dh2; the experts' is the sum over each token's rows of *returned.
  absl::Status MoeBackward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act, const T* dx, T* dh2, float aux_scale,
                           ReturnedRows<T>* returned);
  kernels::cuda::RouterArgs RouterArgsOf(int layer, const CudaActivations<T>& act, int64_t tokens) const;
  absl::Status ExpertProduct(int layer, Product product, const T* a, const Slice& weights, T* c, int64_t n, int64_t k);
  // which: 0 or 1, of the layer's two matrices; where its squares are summed.
  absl::Status ExpertGradient(int layer, int which, const T* a, const T* b, const Slice& weights, int64_t m, int64_t n);
  int64_t squares_size() const { return int64_t{config_.layers} * 2 * kernels::cuda::kGradientSquares; }

  // head.cc
  // Which rows of the batch go through the head: those with a target, or all. Sets hidden rows and targets up on the device.
  absl::Status ChooseHeadRows(const Batch& batch, bool all);
  const T* HeadHidden() const { return head_all_rows_ ? hidden_.data() : head_hidden_.data(); }
  int64_t HeadChunk(int64_t rows) const;
  absl::Status RunHead(const Batch& batch, bool keep_logits, std::span<float> logps, std::span<float> entropies);
  absl::Status RunHeadBackward(const Batch& batch, std::span<const float> dlogps);
  // Forward and backward at once. The log-probabilities of the rows chosen are on their way to host_logp_ afterwards.
  absl::Status RunHeadLinear(const Batch& batch, std::span<const float> dlogps);
  absl::Status SendSlopes(const Batch& batch, std::span<const float> dlogps);
  absl::Status HeadProductsBackward(int64_t begin, int64_t count);
  absl::Status SpreadHeadGradient(int64_t tokens);
  T* HeadGradient() { return head_all_rows_ ? dhidden_.data() : head_dhidden_.data(); }
  absl::Status LogitsOf(const T* hidden, int64_t rows);

  // generate.cc
  absl::Status SampleRows(std::span<const int32_t> rows, std::span<const double> uniform, double temperature,
                          std::span<int32_t> tokens, std::span<float> logps);

  // layout.cc
  // fp32 masters of a slice to host memory (enqueued), and from there.
  absl::Status SendMaster(const Arena<T>& arena, const Slice& slice, float* host);
  absl::Status TakeMaster(const Arena<T>& arena, const Slice& slice, const float* host);
  absl::Status ShrinkRouter(int layer, const std::vector<int>& kept);
  // Experts of a layer that stay, by their places before and after: both in rising order.
  struct ExpertShift {
    int from, to;
  };
  absl::Status ShiftExperts(int layer, const std::vector<ExpertShift>& shifts);
  // Layers hold `ids` from now on; the memory behind them goes on a thread of its own.
  void GiveBack(const std::vector<std::vector<int>>& ids);
  void FinishGivingBack() const;
  // Bytes of one expert on the wire: value, moment1 and moment2 of its three projections in fp32.
  int64_t ExpertBytes() const { return 3 * config_.ExpertParams() * static_cast<int64_t>(sizeof(float)); }
  absl::Status PackExpert(int layer, int place, std::byte* to);
  absl::Status UnpackExpert(int layer, int place, const std::byte* from);

  const ModelConfig config_;
  mutable std::thread giving_back_;  // joined before arenas are resized, and at the end
  ExpertLayout layout_;
  collective::Communicator* const communicator_;
  const ModelOptions options_;
  base::ThreadPool pool_;
  kernels::cuda::DeviceInfo device_;
  kernels::cuda::Stream stream_owner_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<EventTimeline> timeline_;
  Timeline* recorded_ = nullptr;  // not owned; null: nobody wants it
  std::unique_ptr<kernels::cuda::Matmul> matmul_;
  std::unique_ptr<kernels::cuda::CudnnAttention> attention_;  // bf16 only

  Weights<float> host_;  // names and shapes; arrays only between Fetch and Drop
  DeviceWeights<T> weights_;
  std::vector<CudaExchange> exchanges_;  // by layer; unused for dense layers
  ExchangeStaging staging_;
  std::unique_ptr<PeerExchange<T>> peers_;  // null: one rank, or the way through the host
  bool gradients_clear_ = true;  // ForwardBackward writes gradients; false: it would have to add

  // Tables of all layers, [layers, experts at first] each.
  Buffer<float> bias_;
  Buffer<uint8_t> masked_;
  Buffer<int32_t> group_of_, counts_;
  Buffer<int64_t> norm_sums_;
  std::vector<float> bias_sent_;
  Buffer<float> aux_sum_;
  Buffer<float> rope_cos_, rope_sin_;
  int64_t rope_positions_ = 0;

  std::vector<CudaActivations<T>> activations_;
  std::vector<Buffer<T>> inputs_;  // by layer, of kInputs
  bool again_ = false;             // a layer is computed again: nothing is counted, and what only its output needs is left out
  CudaScratch<T> scratch_;
  Buffer<int32_t> tokens_, positions_, first_of_, last_of_, pad_source_, pad_place_, cache_rows_, cache_positions_, lengths_;
  Buffer<int32_t> embed_distinct_, embed_starts_, embed_order_;
  Buffer<T> last_x_, hidden_, dhidden_, dx_;
  Buffer<float> last_rstd_;
  std::vector<int32_t> head_rows_;
  bool head_all_rows_ = false, logits_kept_ = false;
  Buffer<int32_t> head_index_, head_targets_, head_place_;
  Buffer<T> head_hidden_, head_dhidden_, logits_;
  Buffer<float> head_logp_, head_entropy_, head_lse_, head_dlogp_;
  Buffer<double> uniform_, norm_partials_, norms_, expert_squares_;
  Buffer<float> master_chunk_;  // masters on their way
  Buffer<int32_t> drawn_;
  Buffer<float> drawn_logp_;

  // Page-locked memory that uploads go through, one after the other; when it is used up, the stream is waited for once.
  kernels::cuda::PinnedBuffer<std::byte> upload_ring_;
  int64_t upload_ring_bytes_ = 0, upload_ring_used_ = 0;

  // What the host waits for without stopping the device: filled by copies that precede sent_.
  kernels::cuda::PinnedBuffer<float> host_logp_, host_aux_;
  kernels::cuda::PinnedBuffer<int32_t> host_counts_;
  kernels::cuda::PinnedBuffer<int64_t> host_norms_;
  kernels::cuda::Event sent_;

  std::vector<LayerRouteCounts> route_counts_;
  bool measure_norms_ = false;
  std::vector<LayerOutputNorms> output_norms_;
  float aux_loss_ = 0;
  PhaseSeconds seconds_;
};

}  // namespace espalier::model

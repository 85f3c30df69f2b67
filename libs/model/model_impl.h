// ModelImpl<T>: the Model of one rank on CPUs. Its methods are spread over model.cc, model_pass.cc,
// model_generate.cc and model_layout.cc.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "kernels/head.h"
#include "libs/model/activations.h"
#include "libs/model/model.h"
#include "libs/model/moe_block.h"
#include "libs/model/weights.h"

namespace espalier::model {

template <typename T>
class ModelImpl final : public Model<T> {
 public:
  using LossFunction = typename Model<T>::LossFunction;

  ModelImpl(const ModelConfig& config, const ExpertLayout& layout,
            collective::Communicator* communicator, uint64_t seed, int threads);

  const ModelConfig& config() const override { return config_; }
  const ExpertLayout& layout() const override { return layout_; }
  collective::Communicator& communicator() override { return *communicator_; }
  std::vector<Parameter<T>*> parameters() override { return ListParameters(weights_); }
  int64_t TotalParameters() const override;
  absl::Status Forward(const Batch& batch, std::vector<T>* logps,
                       std::vector<T>* entropies) override;
  absl::Status ForwardBackward(const Batch& batch, const LossFunction& loss, T aux_scale) override;
  void ZeroGradients() override;
  const std::vector<LayerRouteCounts>& route_counts() const override { return route_counts_; }
  void MeasureOutputNorms(bool on) override;
  const std::vector<LayerOutputNorms>& output_norms() const override { return output_norms_; }
  absl::StatusOr<std::vector<Sample>> Generate(std::span<const std::vector<int32_t>> prompts,
                                               std::span<const uint64_t> streams,
                                               const SampleOptions& options) override;
  absl::StatusOr<int64_t> ApplyLayout(const ExpertLayout& layout) override;
  std::vector<T>& selection_bias(int layer) override {
    return weights_.layers[layer].selection_bias;
  }
  T aux_loss() const override { return static_cast<T>(aux_loss_); }
  base::ThreadPool& thread_pool() override { return pool_; }
  PhaseSeconds& phase_seconds() override { return clock_.seconds; }
  void RecordTimeline(Timeline* timeline) override { clock_.timeline = timeline; }

 private:
  // Whether activations of every layer are kept for a backward pass, or one set is used for all.
  enum class Keep { kAllLayers, kNothing };

  Context<T> context() { return {config_, pool_, rope_, scratch_, clock_}; }
  LayerActivations<T>& activations(int layer, Keep keep) {
    return activations_[keep == Keep::kAllLayers ? layer : 0];
  }
  FeedForward<T> feed_forward(int layer, Keep keep) {
    return {weights_.layers[layer], layout_.layers[layer], exchanges_[layer],
            activations(layer, keep), measure_norms_ ? &output_norms_[layer] : nullptr};
  }

  // OK on all ranks when `mine` is OK on all; else this rank's error, or that another has one.
  // (collective)
  absl::Status Agree(const absl::Status& mine);
  void ClearRouteCounts();
  void MakeExchanges();
  void FreezeMasked();

  // Runs all layers from tokens to hidden_ [N, D] (after the final norm); last_x_ holds its input.
  absl::Status RunLayers(const Pass<T>& pass, std::span<const int32_t> tokens, Keep keep);
  // The reverse, from dhidden_ [N, D] to all gradients.
  absl::Status RunLayersBackward(const Pass<T>& pass, std::span<const int32_t> tokens,
                                 double aux_scale);
  Pass<T> PackedPass(const Batch& batch);
  int64_t moe_layers() const { return std::max(0, config_.layers - config_.dense_layers); }
  // Between a pass's routes and one layer's choices, before and after the layer ran.
  void GiveRoutes(const Pass<T>& pass, int layer, LayerActivations<T>& act);
  void TakeRoutes(const Pass<T>& pass, int layer, const LayerActivations<T>& act);
  // The head over the rows that matter: those with a target, or all when entropies are wanted.
  void RunHead(const Batch& batch, bool keep_logits, T* logps, T* entropies);
  void RunHeadBackward(const Batch& batch, std::span<const T> dlogps);
  // Draws a token for each of the named rows of hidden_.
  void SampleRows(std::span<const int32_t> rows, std::span<const double> uniform,
                  double temperature, std::span<int32_t> tokens, std::span<float> logps);
  kernels::HeadArgs<T> HeadArgsOf(int64_t rows);

  const ModelConfig config_;
  ExpertLayout layout_;
  collective::Communicator* const communicator_;
  base::ThreadPool pool_;
  Weights<T> weights_;
  std::vector<ExpertExchange<T>> exchanges_;  // by layer; unused for dense layers
  kernels::RopeTable<T> rope_;

  std::vector<LayerActivations<T>> activations_;
  Scratch<T> scratch_;
  std::vector<int32_t> positions_;
  kernels::Buffer<T> last_x_, last_rstd_, hidden_;
  std::vector<int32_t> head_rows_, head_targets_;  // rows of the batch that went through the head
  bool head_all_rows_ = false;  // then head_rows_ is not used and nothing is gathered
  kernels::Buffer<T> head_hidden_, head_dhidden_, head_logp_, head_entropy_, head_lse_, head_dlogp_,
      logits_;
  kernels::Buffer<T> dx_, dhidden_;

  std::vector<LayerRouteCounts> route_counts_;
  bool measure_norms_ = false;
  std::vector<LayerOutputNorms> output_norms_;  // empty unless measured
  double aux_loss_ = 0;
  PhaseClock clock_;
};

}  // namespace espalier::model

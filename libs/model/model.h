// Model<T>: the MoE transformer of one rank. Dense parameters are replicated on all ranks, experts live on one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/thread_pool.h"
#include "libs/collective/communicator.h"
#include "libs/model/config.h"
#include "libs/model/timeline.h"

namespace espalier::model {

// A weight with its gradient and AdamW moments; they travel together when an expert moves. Moments are empty until the
// optimizer first fills them (EnsureMoments).
template <typename T>
struct Parameter {
  std::string name;             // Hugging Face name, e.g. "model.layers.3.mlp.experts.17.gate_proj.weight" (17: original id)
  std::vector<int64_t> shape;   // row-major; matrices are [out, in]
  std::vector<T> value, grad, moment1, moment2;
  bool decay = true;            // weight decay applies (matrices yes, norms no)
  bool expert = false;          // held by one rank only: its gradient must not be all-reduced
  // By row of shape[0]; non-zero where a masked expert waits: neither value nor moments may change, not even by weight
  // decay or old momentum, so that unmasking it brings back what was masked. Empty: every row trains. Set by the model.
  std::vector<uint8_t> frozen_rows;
  // By shape: the arrays themselves are empty while the weight lives on a device.
  int64_t size() const {
    int64_t product = shape.empty() ? 0 : 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

// Ragged sequences of this rank, packed without padding: sequence i is tokens[starts[i] .. starts[i+1]).
// targets[n] is what follows tokens[n]; -1 where nothing is to be predicted (its logp is 0).
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  std::vector<int64_t> starts;  // size = sequences + 1, first 0, last tokens.size(); an empty batch has starts = {0}
  // Replayed routing: the experts (as in Sample::routes) of each token, [tokens, MoE layers, top_k]; empty lets the routers
  // choose. Weights and gradients are the routers' own in either case.
  std::vector<int32_t> routes;
};

// Seconds per phase summed since the caller last cleared it.
struct PhaseSeconds {
  double attention = 0, router = 0, dispatch = 0, experts = 0, combine = 0, head = 0;
  double exposed = 0;  // of all this, and of reductions, what GPUs spent waiting for their peers
};

// Tokens routed to each expert alive of one layer (aligned with LayerLayout::ids), from this rank's tokens only.
using LayerRouteCounts = std::vector<int64_t>;
// How much each expert alive of one layer put out, likewise.
using LayerOutputNorms = std::vector<int64_t>;

struct SampleOptions {
  double temperature = 1.0;  // 0: greedy
  int max_new_tokens = 160;
  int32_t end_token = 0;     // sampling of a sequence stops after it; it is part of the result
  uint64_t seed = 0;         // results depend on (seed, stream) of a sequence alone, not on batching
  bool record_routes = false;
};

struct Sample {
  std::vector<int32_t> tokens;  // without the prompt
  std::vector<float> logps;     // log-probability of each token at temperature 1
  bool truncated = false;       // reached max_new_tokens without end_token
  // With record_routes: the experts chosen for every token of prompt and sample but the last, which was never fed, as
  // places in LayerLayout::ids. [tokens, MoE layers, top_k]; valid until the layout changes.
  std::vector<int32_t> routes;
};

// One AdamW step, as in kernels/adamw.h; weight_decay goes to parameters with `decay`.
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double correction1 = 1, correction2 = 1;
  double grad_scale = 1;
};

// What the optimizer asks of a model whose parameters live on a device. Used in this order once an update.
class DeviceUpdates {
 public:
  virtual ~DeviceUpdates() = default;
  // Dense gradients become their sum over ranks. (collective)
  virtual absl::Status ReduceDense() = 0;
  // Of the reduced dense gradients, and of this rank's experts'. Waits for the backward pass.
  virtual absl::Status SquaredNorms(double* dense, double* experts) = 0;
  // Rows of masked experts stay as they are. Does not wait.
  virtual absl::Status Apply(const AdamWStep& step) = 0;
  virtual absl::Status ResetMoments() = 0;
};

enum class Device { kCpu, kCuda };
enum class Precision { kFp32, kBf16 };

struct ModelOptions {
  Device device = Device::kCpu;
  Precision precision = Precision::kFp32;  // of weights in products and of activations; bf16 on CUDA alone
  int device_index = 0;                    // which GPU
  bool peer_memory = true;                 // GPUs of one host exchange through each other's memory where they can
  int threads = 1;                         // CPU threads
  bool recompute = false;  // keep layers' inputs alone for the backward pass, and compute the rest again; on CUDA alone
};

// Collective: every method marked (collective) must be called by all ranks alike, else they wait for ever (until the
// communicator's stall timeout). Not thread-safe. T is float for training, double for gradient checks.
template <typename T>
class Model {
 public:
  // Weights are drawn from `seed` by parameter name, so that they depend neither on rank count nor on placement.
  // `communicator` and must outlive the model. `threads` CPU threads are used.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config, const ExpertLayout& layout,
                                                       collective::Communicator* communicator, uint64_t seed,
                                                       int threads);
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const ExpertLayout& layout() const = 0;
  virtual collective::Communicator& communicator() = 0;

  // Parameters that this rank holds, in a fixed order: dense ones first (the same on all ranks), then its experts by
  // layer and id. Pointers stay valid until the next ApplyLayout.
  virtual std::vector<Parameter<T>*> parameters() = 0;
  // Parameters of the whole model, over all ranks.
  virtual int64_t TotalParameters() const = 0;

  // Log-probability of each target, and optionally the entropy of each position's distribution. (collective)
  virtual absl::Status Forward(const Batch& batch, std::vector<T>* logps, std::vector<T>* entropies) = 0;

  // Forward, then `loss` fills dlogps (d loss / d logp of each target, zero on entry) from logps, then backward adds into
  // every Parameter::grad (callers zero them: ZeroGradients; a device model wants that before each call). Any loss is a function of logps: cross-entropy sets
  // -1/global_tokens. The auxiliary loss, when configured, is added to the gradients scaled by `aux_scale`
  // (the caller's share of the global batch). (collective; ranks may have different token counts, even none)
  using LossFunction = std::function<void(std::span<const T> logps, std::span<T> dlogps)>;
  virtual absl::Status ForwardBackward(const Batch& batch, const LossFunction& loss, T aux_scale) = 0;
  // The same for a loss that is linear in logps: its slopes `dlogps` are known beforehand (cross-entropy), so that no device need wait
  // for the host. `logps` is filled. (collective)
  virtual absl::Status ForwardBackwardLinear(const Batch& batch, std::span<const T> dlogps, T aux_scale, std::vector<T>* logps) {
    return ForwardBackward(
        batch,
        [&](std::span<const T> found, std::span<T> slopes) {
          logps->assign(found.begin(), found.end());
          std::copy(dlogps.begin(), dlogps.end(), slopes.begin());
        },
        aux_scale);
  }
  virtual void ZeroGradients() = 0;

  // Route counts of the last Forward, ForwardBackward or Generate, by layer (empty for dense layers).
  virtual const std::vector<LayerRouteCounts>& route_counts() const = 0;

  // Whether passes measure output_norms as well: about as much work as the combination of the experts' rows. Off at first.
  virtual void MeasureOutputNorms(bool on) = 0;
  // Beside route_counts, of the same pass: the sum over this rank's tokens of gate times ||expert's output||_2, in
  // millionths (kernels::kOutputNormUnits). Empty while it is not measured.
  virtual const std::vector<LayerOutputNorms>& output_norms() const = 0;

  // Samples a continuation for each prompt with a KV cache, batched. streams[i] numbers the sequence over the whole
  // run's step, so that results do not depend on the rank count. (collective; any number of prompts, even none)
  virtual absl::StatusOr<std::vector<Sample>> Generate(std::span<const std::vector<int32_t>> prompts,
                                                       std::span<const uint64_t> streams,
                                                       const SampleOptions& options) = 0;

  // Takes on a new layout: experts not listed are removed everywhere (weights, moments, router row), the others move to
  // their rank with weights and moments. Returns the bytes that this rank sent. On an invalid layout nothing changes.
  // (collective)
  virtual absl::StatusOr<int64_t> ApplyLayout(const ExpertLayout& layout) = 0;

  // e_score_correction_bias of a MoE layer, aligned with LayerLayout::ids: added to the scores when experts are chosen, never to
  // their weights. Not trained by gradient; zero at first, and kept equal on all ranks by whoever changes it.
  virtual std::vector<T>& selection_bias(int layer) = 0;

  // Auxiliary loss of this rank's tokens in the last ForwardBackward, summed over layers, before `aux_scale`.
  virtual T aux_loss() const = 0;

  // The threads of this rank, for work between two calls of the model (the optimizer).
  virtual base::ThreadPool& thread_pool() = 0;

  virtual PhaseSeconds& phase_seconds() = 0;
  // Training passes add their phases to `timeline` from now on, which outlives them or is taken away by null. A device model waits for its
  // device at the end of a pass whose timeline is wanted, and leaves others empty.
  virtual void RecordTimeline(Timeline* timeline) { (void)timeline; }

  // Where parameters live on a device, their arrays in parameters() are empty: Fetch fills value and moments, Store takes
  // them over (an absent moment is zero), Drop frees them again. On CPUs the arrays are the parameters, and nothing happens.
  virtual absl::Status FetchParameters() { return absl::OkStatus(); }
  virtual absl::Status StoreParameters() { return absl::OkStatus(); }
  virtual void DropParameters() {}
  // Null where the optimizer works on parameters() itself.
  virtual DeviceUpdates* device_updates() { return nullptr; }
  // Bytes of device memory held now; 0 on CPUs.
  virtual int64_t device_bytes() const { return 0; }
};

// "cpu", or the GPU's name and memory. kUnavailable as CreateModel.
absl::StatusOr<std::string> DescribeDevice(Device device, int index);

// A model on the device that the options name. kUnavailable where the build has no CUDA or the machine no GPU; the message
// says what to do.
absl::StatusOr<std::unique_ptr<Model<float>>> CreateModel(const ModelConfig& config, const ExpertLayout& layout,
                                                          collective::Communicator* communicator, uint64_t seed,
                                                          const ModelOptions& options);

extern template class Model<float>;
extern template class Model<double>;

}  // namespace espalier::model

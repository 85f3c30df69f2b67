// PeerExchange<T>: token rows of MoE layers to their experts' ranks and back, and sums of dense gradients, through peers' device memory.
// The host learns one number a layer, how many rows its experts get; everything else stays on the device.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/peer.h"
#include "kernels/cuda/runtime.h"
#include "libs/model/config.h"
#include "libs/model/cuda/peer_window.h"

namespace espalier::model {

// Rows that make up a token's sum: rows[table[token, i]] for i < fan, added in that order.
template <typename T>
struct ReturnedRows {
  const T* rows = nullptr;
  const int32_t* table = nullptr;
  int fan = 0;
};

// Orders of rows as in ExpertExchange, so that fp32 gives the bits of the way through the host. In bf16 what several experts of one rank
// make of a token is summed there, in fp32, and comes back as one row. Not thread-safe; all methods but the getters are collective, and
// enqueue on the stream. Calls for a layer come in the order Dispatch, Arrive, Return, and backward DispatchBack, Return; Dispatch and Arrive may be repeated before DispatchBack.
//
// A peer that dies, or a communicator that was aborted, ends every wait: the next call that looks returns kUnavailable, and no kernel
// touches what did not arrive.
template <typename T>
class PeerExchange {
 public:
  // dense_gradient: where this rank's gradient of the weights that all have lies, for SumDense: the start of an allocation that outlives
  // the exchange. kFailedPrecondition, on all ranks alike, when some rank's memory cannot be mapped: the message says why.
  static absl::StatusOr<std::unique_ptr<PeerExchange>> Create(const ModelConfig& config,
                                                              collective::Communicator* communicator,
                                                              T* dense_gradient, cudaStream_t stream);
  ~PeerExchange();

  absl::Status TakeLayout(const ExpertLayout& layout);
  // Before the first MoE layer of a forward pass. Grows the windows where some rank has more tokens than ever.
  absl::Status BeginPass(int64_t tokens);

  struct Routed {
    const T* x = nullptr;             // [tokens, width]
    const int32_t* choice = nullptr;  // [tokens, top_k]
    const int32_t* slot = nullptr;    // [tokens, top_k]
    const float* weight = nullptr;    // [tokens, top_k]
    const int32_t* offsets = nullptr;   // [experts + 1] of slots
    const int32_t* group_of = nullptr;  // [experts]
  };
  // Sends rows off, and waits for the counts. rows(layer) and offsets(layer) are known afterwards.
  absl::Status Dispatch(int layer, const Routed& routed);
  int64_t rows(int layer) const { return layers_[layer].rows; }
  const int32_t* offsets(int layer) const { return layers_[layer].group_offsets.data(); }
  // out [rows, width], row_weight [rows]; with `measure` also what expert_of and identity give.
  absl::Status Arrive(int layer, T* out, float* row_weight, bool measure);
  const int32_t* expert_of() const { return expert_of_.data(); }
  const int32_t* identity() const { return identity_.data(); }

  absl::Status DispatchBack(int layer, const T* x, T* out);
  // drow_weight [rows] may be null; else gate_gradients() [tokens, top_k] are there afterwards.
  absl::Status Return(int layer, const T* rows, const float* drow_weight);
  // Valid until the next Dispatch or DispatchBack.
  ReturnedRows<T> returned(int layer) const;
  const float* gate_gradients() const;

  // The first n elements of every rank's dense gradient become their sum over ranks.
  absl::Status SumDense(int64_t n);

  // kUnavailable once a wait has failed. What the stream has not reached yet does not show.
  absl::Status Check() const;
  // Time that the stream spent waiting for peers since the last call.
  double TakeWaitedSeconds();
  const std::string& description() const { return window_.description(); }

 private:
  struct Layer {
    int first = 0, held = 0;
    int64_t rows = 0;
    kernels::cuda::Buffer<int32_t> home, held_ids;
    kernels::cuda::Buffer<int32_t> group_offsets, base;
    kernels::cuda::Buffer<int32_t> table, place;
    kernels::cuda::Buffer<uint32_t> ranks_of;
    int experts = 0;
  };

  PeerExchange(const ModelConfig& config, collective::Communicator* communicator, cudaStream_t stream)
      : config_(config), communicator_(communicator), stream_(stream) {}
  absl::Status Grow(int64_t tokens);
  // Others' signals are on their way: see PeerWindow::shares_context.
  absl::Status MeetHost();
  absl::Status Signal();
  absl::Status Await();
  absl::Status CloseArrivals();
  void Watch();

  const ModelConfig config_;
  collective::Communicator* const communicator_;
  const cudaStream_t stream_;
  static constexpr bool kPartial = !std::is_same_v<T, float>;

  kernels::cuda::PeerControl* control_ = nullptr;
  PeerWindow window_, dense_;
  kernels::cuda::PeerView view_;
  uint32_t epoch_ = 0;
  uint64_t waited_taken_ns_ = 0;
  kernels::cuda::Event counted_;
  std::vector<Layer> layers_;
  kernels::cuda::Buffer<int32_t> expert_of_, identity_;
  int64_t all_tokens_ = 0;
  bool arrivals_open_ = false;  // rows were placed since the last Return

  // Looks after the group while the host waits for the device.
  std::thread watcher_;
  std::atomic<bool> done_ = false;
};

}  // namespace espalier::model

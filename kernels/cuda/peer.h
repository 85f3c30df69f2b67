// What the ranks of one host do to each other's device memory: signals, counts, token rows to the experts' ranks and back, sums of
// gradients. Every rank has a window; every rank can write into all of them. Nothing here asks the host anything.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace espalier::kernels::cuda {

inline constexpr int kPeersMax = 8;

// Page-locked, read and written by host and device.
struct PeerControl {
  volatile uint32_t abort = 0;       // set by the host: waits end
  volatile uint32_t failed = 0;      // set by the device: 1 + the rank that was waited for in vain
  volatile int64_t rows = 0;         // of TakeCounts: rows that the experts here receive
  volatile uint64_t waited_ns = 0;   // time spent in AwaitPeers and TakeCounts, summed
};

// Passed to every kernel. A window is: header (flags of every rank, the mark that a wait failed), then the arrays at these offsets, the
// same in every window. T rows are `width` wide.
//   counts  [ranks, experts_max + 1] int32   slot offsets of each source's tokens
//   entries [ranks, tokens_max, top_k]       where the row of (source, token, choice) goes
//   arrived [ranks, tokens_max, width] T     rows from each source, at their token's place
//   returned [1 + .., width] T               row 0 is zero; then what experts' ranks send back
//   gates   [tokens_max, top_k] float        gradients of gate weights that come back
struct PeerEntry {
  int32_t expert;    // place among the experts of the receiving rank, or -1: not for that rank
  int32_t position;  // among its source's rows of that expert
  float gate;
};
struct PeerView {
  std::byte* window[kPeersMax] = {};
  PeerControl* control = nullptr;
  int ranks = 1, rank = 0;
  int top_k = 0, experts_max = 0;
  int64_t tokens_max = 0, width = 0;
  int64_t tokens[kPeersMax] = {};  // of each rank in this pass
  int64_t counts = 0, entries = 0, arrived = 0, returned = 0, gates = 0;
};
inline constexpr int64_t kPeerHeaderBytes = 4096;  // 128 a flag, then the mark

// Raises this rank's flag to `epoch` in every window, after all work before it on the stream.
[[nodiscard]] cudaError_t RaisePeers(const PeerView& view, uint32_t epoch, cudaStream_t stream);
// Holds the stream until every rank's flag has reached `epoch`, or the host set `abort`, or `limit_ns` have passed. In the latter cases
// control->failed names the rank, and it and all peer kernels after it do nothing.
[[nodiscard]] cudaError_t AwaitPeers(const PeerView& view, uint32_t epoch, uint64_t limit_ns, cudaStream_t stream);

// offsets [experts + 1], this rank's slot offsets, into every window; then the flag.
[[nodiscard]] cudaError_t SendCounts(const PeerView& view, const int32_t* offsets, int experts, uint32_t epoch,
                                     cudaStream_t stream);
// Awaits the others' counts. Groups [first, first + held) are those here: group_offsets [held + 1] and base [held, ranks], the first row
// of each source's rows in each group, are written, and control->rows.
struct TakeCountsArgs {
  int first = 0, held = 0;
  int32_t* group_offsets = nullptr;
  int32_t* base = nullptr;
};
[[nodiscard]] cudaError_t TakeCounts(const PeerView& view, const TakeCountsArgs& args, uint32_t epoch, uint64_t limit_ns,
                                     cudaStream_t stream);

// Each token's row to every rank that holds one of its experts, once. With `choice` (forward) also the entries, and `table`.
//   x [tokens, width]   choice, slot [tokens, top_k]   weight [tokens, top_k]   offsets [experts + 1]
//   home [experts]: rank << 16 | place among that rank's experts; group_of [experts]
//   ranks_of [tokens]: bit r is set when rank r holds an expert of the token; written in the forward pass, read in the backward pass
//   table [tokens, fan]: rows of `returned` that make up a token. fan is min(top_k, ranks) for partial sums, else top_k
template <typename T>
struct SendRowsArgs {
  const T* x = nullptr;
  const int32_t* choice = nullptr;
  const int32_t* slot = nullptr;
  const float* weight = nullptr;
  const int32_t* offsets = nullptr;
  const int32_t* home = nullptr;
  const int32_t* group_of = nullptr;
  uint32_t* ranks_of = nullptr;
  int32_t* table = nullptr;
  bool partial = false;
};
template <typename T>
[[nodiscard]] cudaError_t SendRows(const PeerView& view, const SendRowsArgs<T>& args, cudaStream_t stream);

// Rows that arrived into the groups' order. place [sum of tokens, top_k]: the row of each (source, token, choice), or -1; written from the
// entries when base is given (forward, with row_weight and, unless null, expert_of [rows] and identity [rows]), else read.
template <typename T>
struct PlaceRowsArgs {
  T* out = nullptr;  // [rows, width]
  int64_t rows = 0;
  int32_t* place = nullptr;
  const int32_t* base = nullptr;
  int held = 0;
  float* row_weight = nullptr;
  const int32_t* held_ids = nullptr;  // [held] place among the layer's experts alive
  int32_t* expert_of = nullptr;
  int32_t* identity = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t PlaceRows(const PeerView& view, const PlaceRowsArgs<T>& args, cudaStream_t stream);

// The experts' rows [rows, width] back to their sources: with `partial` one row a token, their sum in fp32 in order of choice; else one row
// a choice. drow_weight [rows] goes to `gates` unless null.
template <typename T>
struct ReturnRowsArgs {
  const T* rows = nullptr;
  int64_t rows_count = 0;
  const int32_t* place = nullptr;
  const float* drow_weight = nullptr;
  bool partial = false;
};
template <typename T>
[[nodiscard]] cudaError_t ReturnRows(const PeerView& view, const ReturnRowsArgs<T>& args, cudaStream_t stream);

// arrays[r] [n] of rank r: this rank's share of every array becomes the sum over ranks, in fp32 and in their order. 16-byte aligned;
// n is a multiple of 8.
template <typename T>
struct SumPeersArgs {
  T* arrays[kPeersMax] = {};
  int64_t n = 0;
};
template <typename T>
[[nodiscard]] cudaError_t SumPeers(const PeerView& view, const SumPeersArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda

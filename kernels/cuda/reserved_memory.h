// ReservedMemory: a range of device addresses whose memory comes and goes by segments, so that what stands in it grows and shrinks without
// being copied elsewhere. CUDA's virtual memory management, without linking the driver.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::kernels::cuda {

// Memory comes in pieces of a sixteenth of what a segment first held, of this size at least and a multiple of it; a segment's last piece
// is as small as its size allows. Segments begin at multiples of it.
inline constexpr int64_t kReservedGranule = int64_t{2} << 20;

// Not thread-safe. Counted in DeviceBytes by what is mapped.
class ReservedMemory {
 public:
  ReservedMemory() = default;
  ReservedMemory(ReservedMemory&& other) noexcept { *this = std::move(other); }
  ReservedMemory& operator=(ReservedMemory&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(segments_, other.segments_);
    return *this;
  }
  ~ReservedMemory();

  // Addresses for `bytes`, without any memory. kUnimplemented where the driver cannot.
  static absl::StatusOr<ReservedMemory> Reserve(int64_t bytes);
  // The segment at `begin` holds at least `bytes` afterwards, and no piece beyond the one that they end in. What was there stays where it
  // was; new memory is undefined. Nothing may be at work on what goes. On kResourceExhausted the segment is as it was.
  absl::Status Resize(int64_t begin, int64_t bytes);
  // Gives back the last piece that `bytes` do not reach; false when there is none. Resize by small steps, for whoever works beside: every
  // call holds the driver's lock, a millisecond or two a piece.
  bool ShrinkOnce(int64_t begin, int64_t bytes);
  char* data() const { return reinterpret_cast<char*>(base_); }

 private:
  struct Piece {
    uint64_t handle = 0;
    int64_t bytes = 0;
  };
  struct Segment {
    int64_t piece = 0;  // usual size
    int64_t bytes = 0;  // mapped
    std::vector<Piece> pieces;
  };
  absl::Status Map(int64_t begin, Segment* segment, int64_t bytes);
  // Gives back the last `count` pieces.
  void Unmap(int64_t begin, Segment* segment, size_t count);

  uint64_t base_ = 0;
  int64_t bytes_ = 0;
  int device_ = 0;
  std::map<int64_t, Segment> segments_;  // by begin
};

}  // namespace espalier::kernels::cuda

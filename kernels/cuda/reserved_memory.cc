// The driver's functions come from the runtime, once a process.
#include "kernels/cuda/reserved_memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"

namespace espalier::kernels::cuda {
namespace {

struct Driver {
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  bool complete = false;
};

template <typename F>
bool Find(const char* name, F* function) {
  cudaDriverEntryPointQueryResult found{};
  void* address = nullptr;
  const bool there =
      cudaGetDriverEntryPointByVersion(name, &address, 10020, cudaEnableDefault, &found) ==
          cudaSuccess &&
      found == cudaDriverEntryPointSuccess;
  *function = reinterpret_cast<F>(address);
  return there;
}

const Driver& TheDriver() {
  static const Driver driver = [] {
    Driver d;
    d.complete = Find("cuMemAddressReserve", &d.reserve) && Find("cuMemAddressFree", &d.free) &&
                 Find("cuMemCreate", &d.create) && Find("cuMemRelease", &d.release) &&
                 Find("cuMemMap", &d.map) && Find("cuMemUnmap", &d.unmap) &&
                 Find("cuMemSetAccess", &d.set_access);
    return d;
  }();
  return driver;
}

CUmemLocation On(int device) {
  CUmemLocation location{};
  location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device;
  return location;
}

int64_t RoundUp(int64_t bytes) {
  return (bytes + kReservedGranule - 1) / kReservedGranule * kReservedGranule;
}

absl::Status Failed(CUresult result, const char* what, int64_t bytes) {
  const std::string text = absl::StrCat(what, " of ", bytes, " bytes: CUDA error ",
                                        static_cast<int>(result), "; ", DeviceBytes(), " are held");
  return result == CUDA_ERROR_OUT_OF_MEMORY ? absl::ResourceExhaustedError(text)
                                            : absl::InternalError(text);
}

}  // namespace

absl::StatusOr<ReservedMemory> ReservedMemory::Reserve(int64_t bytes) {
  const Driver& driver = TheDriver();
  if (!driver.complete)
    return absl::UnimplementedError("this driver has no virtual memory management; update it");
  ReservedMemory memory;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&memory.device_));
  RETURN_IF_CUDA_ERROR(cudaFree(nullptr));  // the driver's calls want the device's context
  CUdeviceptr base = 0;
  const int64_t rounded = std::max(RoundUp(bytes), kReservedGranule);
  if (const CUresult result = driver.reserve(&base, static_cast<size_t>(rounded), 0, 0, 0);
      result != CUDA_SUCCESS) {
    return Failed(result, "reservation of addresses", rounded);
  }
  memory.base_ = base;
  memory.bytes_ = rounded;
  return memory;
}

ReservedMemory::~ReservedMemory() {
  if (base_ == 0) return;
  for (auto& [begin, segment] : segments_) Unmap(begin, &segment, segment.pieces.size());
  TheDriver().free(base_, static_cast<size_t>(bytes_));
}

absl::Status ReservedMemory::Map(int64_t begin, Segment* segment, int64_t bytes) {
  const Driver& driver = TheDriver();
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = On(device_);
  CUmemGenericAllocationHandle handle = 0;
  if (const CUresult result = driver.create(&handle, static_cast<size_t>(bytes), &properties, 0);
      result != CUDA_SUCCESS) {
    return Failed(result, "allocation", bytes);
  }
  const CUdeviceptr at = base_ + static_cast<uint64_t>(begin + segment->bytes);
  CUmemAccessDesc access{};
  access.location = On(device_);
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  CUresult result = driver.map(at, static_cast<size_t>(bytes), 0, handle, 0);
  if (result == CUDA_SUCCESS) {
    result = driver.set_access(at, static_cast<size_t>(bytes), &access, 1);
    if (result != CUDA_SUCCESS) driver.unmap(at, static_cast<size_t>(bytes));
  }
  if (result != CUDA_SUCCESS) {
    driver.release(handle);
    return Failed(result, "mapping", bytes);
  }
  segment->pieces.push_back({handle, bytes});
  segment->bytes += bytes;
  CountDeviceBytes(bytes);
  return absl::OkStatus();
}

void ReservedMemory::Unmap(int64_t begin, Segment* segment, size_t count) {
  if (count == 0) return;
  const auto first = segment->pieces.end() - static_cast<std::ptrdiff_t>(count);
  int64_t bytes = 0;
  for (auto piece = first; piece != segment->pieces.end(); ++piece) bytes += piece->bytes;
  segment->bytes -= bytes;
  // All at once: every call stops the device's translation for a while.
  TheDriver().unmap(base_ + static_cast<uint64_t>(begin + segment->bytes),
                    static_cast<size_t>(bytes));
  for (auto piece = first; piece != segment->pieces.end(); ++piece)
    TheDriver().release(piece->handle);
  segment->pieces.erase(first, segment->pieces.end());
  CountDeviceBytes(-bytes);
}

absl::Status ReservedMemory::Resize(int64_t begin, int64_t bytes) {
  Segment& segment = segments_[begin];
  const int64_t wanted = RoundUp(bytes);
  const size_t before = segment.pieces.size();
  if (begin + wanted > bytes_) return absl::InternalError("a segment beyond what was reserved");
  if (segment.piece == 0) segment.piece = std::max(kReservedGranule, RoundUp(wanted / 16));
  while (segment.bytes < wanted) {
    const absl::Status mapped =
        Map(begin, &segment, std::min(segment.piece, wanted - segment.bytes));
    if (mapped.ok()) continue;
    Unmap(begin, &segment, segment.pieces.size() - before);
    return mapped;
  }
  size_t spare = 0;
  for (int64_t left = segment.bytes; spare < segment.pieces.size(); ++spare) {
    left -= segment.pieces[segment.pieces.size() - 1 - spare].bytes;
    if (left < wanted) break;
  }
  Unmap(begin, &segment, spare);
  return absl::OkStatus();
}

bool ReservedMemory::ShrinkOnce(int64_t begin, int64_t bytes) {
  Segment& segment = segments_[begin];
  if (segment.pieces.empty() || segment.bytes - segment.pieces.back().bytes < RoundUp(bytes))
    return false;
  Unmap(begin, &segment, 1);
  return true;
}

}  // namespace espalier::kernels::cuda

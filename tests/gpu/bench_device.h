// For benchmarks of CUDA operations: device memory filled with random numbers, several sets of it
// so that no run finds its inputs in the cache, median times by events, and a table.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/runtime.h"

namespace espalier::kernels::cuda {

inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Owns device memory for one case.
class Arena {
 public:
  template <typename T>
  T* Allocate(int64_t n) {
    auto memory = Memory::Allocate(std::max<int64_t>(n, 1) * static_cast<int64_t>(sizeof(T)));
    if (!memory.ok()) {
      std::fprintf(stderr, "%s\n", memory.status().ToString().c_str());
      std::exit(1);
    }
    memories_.push_back(*std::move(memory));
    return static_cast<T*>(memories_.back().data());
  }
  // Normal numbers: a million drawn here, then copied on and on by the device.
  template <typename T>
  T* Random(int64_t n) {
    static const std::vector<T> drawn = [] {
      std::mt19937_64 engine(7);
      std::normal_distribution<float> normal;
      std::vector<T> values(1 << 20);
      for (T& value : values) {
        if constexpr (std::is_same_v<T, __nv_bfloat16>) {
          value = __float2bfloat16(normal(engine));
        } else {
          value = static_cast<T>(normal(engine));
        }
      }
      return values;
    }();
    return Repeat(drawn, n);
  }
  template <typename T>
  T* Constant(int64_t n, T value) {
    return Repeat(std::vector<T>(std::min<int64_t>(n, 1 << 20), value), n);
  }
  template <typename T>
  T* From(const std::vector<T>& values) {
    return Repeat(values, static_cast<int64_t>(values.size()));
  }

 private:
  // n elements: `values` over and over.
  template <typename T>
  T* Repeat(const std::vector<T>& values, int64_t n) {
    T* const data = Allocate<T>(n);
    int64_t have = std::min<int64_t>(n, static_cast<int64_t>(values.size()));
    CheckCuda(cudaMemcpy(data, values.data(), have * sizeof(T), cudaMemcpyHostToDevice), "fill");
    for (; have < n; have = std::min(n, 2 * have)) {
      CheckCuda(cudaMemcpy(data + have, data, std::min(have, n - have) * sizeof(T),
                           cudaMemcpyDeviceToDevice),
                "fill");
    }
    return data;
  }

  std::vector<Memory> memories_;
};

struct Row {
  std::string geometry, name;
  double microseconds = 0;
  int64_t bytes = 0;
  double gigabytes_per_second() const { return bytes / microseconds / 1e3; }
};

// One launch on set `i` of the inputs.
using Launch = std::function<cudaError_t(int set, cudaStream_t stream)>;

// Sets of `bytes` that together are three times the second-level cache.
inline int SetsFor(int64_t bytes) {
  int cache = 0;
  CheckCuda(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, 0), "size of the cache");
  return static_cast<int>(std::clamp<int64_t>(
      3 * static_cast<int64_t>(cache) / std::max<int64_t>(bytes, 1) + 1, 2, 64));
}

inline double MedianMicroseconds(const Launch& launch, int sets, cudaStream_t stream) {
  constexpr int kWarm = 3, kRuns = 25;
  Event begin = *MakeEvent(), end = *MakeEvent();
  std::vector<double> times;
  for (int run = 0; run < kWarm + kRuns; ++run) {
    CheckCuda(cudaEventRecord(begin.get(), stream), "event");
    CheckCuda(launch(run % sets, stream), "launch");
    CheckCuda(cudaEventRecord(end.get(), stream), "event");
    CheckCuda(cudaEventSynchronize(end.get()), "run");
    float milliseconds = 0;
    CheckCuda(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "time");
    if (run >= kWarm) times.push_back(1e3 * milliseconds);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Bytes read and written a second by a large copy: what memory-bound work is measured against.
inline Row MeasureCopy(cudaStream_t stream) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  Arena arena;
  float* const from = arena.Random<float>(kBytes / 4);
  float* const to = arena.Allocate<float>(kBytes / 4);
  Row row{"-", "device-to-device copy", 0, 2 * kBytes};
  row.microseconds = MedianMicroseconds(
      [&](int, cudaStream_t s) {
        return cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, s);
      },
      1, stream);
  return row;
}

// The first row is the copy.
inline void Print(const std::vector<Row>& rows, bool json) {
  const double ceiling = rows.front().gigabytes_per_second();
  if (json) std::printf("[\n");
  if (!json)
    std::printf("%-3s %-24s %10s %10s %8s %7s\n", "", "kernel", "us", "MB", "GB/s", "of copy");
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const double rate = row.gigabytes_per_second();
    if (json) {
      std::printf(
          "  {\"geometry\": \"%s\", \"kernel\": \"%s\", \"us\": %.3f, \"bytes\": %lld, "
          "\"gb_per_s\": %.1f, \"of_copy\": %.4f}%s\n",
          row.geometry.c_str(), row.name.c_str(), row.microseconds,
          static_cast<long long>(row.bytes), rate, rate / ceiling, i + 1 < rows.size() ? "," : "");
    } else {
      std::printf("%-3s %-24s %10.1f %10.1f %8.0f %6.0f%%\n", row.geometry.c_str(),
                  row.name.c_str(), row.microseconds, row.bytes / 1e6, rate, 100 * rate / ceiling);
    }
  }
  if (json) std::printf("]\n");
}

}  // namespace espalier::kernels::cuda

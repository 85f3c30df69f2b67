// CounterRandom: random numbers that are a function of (key, index), so that any part can be drawn
// anywhere, in any order.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace espalier::model {

// The finalizer of SplitMix64: a bijection that mixes every input bit into every output bit.
inline uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class CounterRandom {
 public:
  CounterRandom(uint64_t seed, std::string_view name) : key_(MixBits(seed)) {
    for (const char c : name) key_ = MixBits(key_ ^ static_cast<unsigned char>(c));
  }
  CounterRandom(uint64_t seed, uint64_t stream) : key_(MixBits(MixBits(seed) ^ stream)) {}

  // In (0, 1).
  double Uniform(uint64_t index) const {
    return (static_cast<double>(MixBits(key_ ^ MixBits(index)) >> 11) + 0.5) * 0x1p-53;
  }

  // out[i] = Normal(0, std), two at a time by Box and Muller.
  template <typename T>
  void FillNormal(T* out, int64_t n, double deviation) const {
    for (int64_t i = 0; i < n; i += 2) {
      const double radius = deviation * std::sqrt(-2.0 * std::log(Uniform(i)));
      const double angle = 2.0 * M_PI * Uniform(i + 1);
      out[i] = static_cast<T>(radius * std::cos(angle));
      if (i + 1 < n) out[i + 1] = static_cast<T>(radius * std::sin(angle));
    }
  }

 private:
  uint64_t key_;
};

}  // namespace espalier::model

// Mix: a small counter-based random source, the same on every machine; what a pure function of
// (seed, index) draws from.
#pragma once

#include <cstdint>

namespace espalier::text {

// SplitMix64's finaliser.
constexpr uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr uint64_t MixKey(uint64_t a, uint64_t b) {
  return MixBits(MixBits(a + 0x9E3779B97F4A7C15ull) ^ (b + 0xD1B54A32D192ED03ull));
}

// Not thread-safe.
class Mix {
 public:
  explicit constexpr Mix(uint64_t key) : state_(key) {}
  constexpr uint64_t Next() { return MixBits(state_ += 0x9E3779B97F4A7C15ull); }
  // Inclusive. The bias of the modulus is below 2^-40 for the small ranges drawn here.
  constexpr int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Next() % static_cast<uint64_t>(high - low + 1));
  }
  constexpr bool Chance(double probability) {
    return static_cast<double>(Next() >> 11) * 0x1.0p-53 < probability;
  }

 private:
  uint64_t state_;
};

}  // namespace espalier::text

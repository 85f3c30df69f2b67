// Numbers that look random and follow from their coordinates alone: no state, any order.
#pragma once

#include <cstdint>

namespace espalier::fleetsim {

// SplitMix64's finalizer over the coordinates.
inline uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}
inline uint64_t Mix(uint64_t a, uint64_t b) { return Mix(Mix(a) ^ b); }
inline uint64_t Mix(uint64_t a, uint64_t b, uint64_t c) { return Mix(Mix(a, b) ^ c); }

// In [0, 1).
inline double Uniform(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// Mean 0, variance 1, within 3.5: four uniform numbers summed, close enough to a normal one.
inline double Normal(uint64_t bits) {
  const uint64_t sum =
      (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  return (static_cast<double>(sum) / 65536.0 - 2.0) * 1.7320508075688772;
}

}  // namespace espalier::fleetsim

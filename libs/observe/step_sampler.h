// StepSampler: which steps are traced: one in N, and those slower than nearly all before them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::observe {

// Not thread-safe. Every rank that knows N chooses the same steps by number; one rank judges times,
// and tells the others.
class StepSampler {
 public:
  // Durations that the p99 is of.
  static constexpr size_t kWindow = 512;
  // Fewer than these tell no p99.
  static constexpr size_t kKnownMin = 100;

  // 0 traces nothing.
  explicit StepSampler(uint64_t every) : every_(every) {}
  bool on() const { return every_ > 0; }
  bool Regular(uint64_t step) const { return every_ > 0 && step % every_ == 0; }
  // Whether a step of this duration is above the p99 of those before it; then counts it.
  bool Slow(int64_t nanos);
  // Steps of another kind begin: what was slow before says nothing of them.
  void Forget();

 private:
  uint64_t every_;
  std::vector<int64_t> recent_;  // a ring of kWindow
  size_t next_ = 0;
};

// Distance of this process's clock to a peer's, by round trips of a call (as NTP does it): the
// quickest of the newest ones tells best. Not thread-safe.
class ClockOffset {
 public:
  static constexpr size_t kWindow = 32;
  // Nanoseconds since 1970: sent and answered by our clock, received and replied by the peer's. A
  // round trip that contradicts itself is ignored.
  void Add(int64_t sent, int64_t received, int64_t replied, int64_t answered);
  bool known() const { return !trips_.empty(); }
  // To be added to our clock to read the peer's; 0 before the first trip.
  int64_t nanos() const;
  // The true offset is nanos() give or take this.
  int64_t error() const;

 private:
  struct Trip {
    int64_t offset, round;
  };
  const Trip* Best() const;
  std::vector<Trip> trips_;  // a ring of kWindow
  size_t next_ = 0;
};

// The same for a callee that only hears when each call was sent: the least delay seen stands for
// the distance of the clocks. Times moved by it never lie before the caller's own span. Not
// thread-safe.
class OneWayOffset {
 public:
  static constexpr size_t kWindow = 64;
  // To be subtracted from our clock to read the caller's.
  int64_t Add(int64_t sent, int64_t received);

 private:
  std::vector<int64_t> delays_;  // a ring of kWindow
  size_t next_ = 0;
};

}  // namespace espalier::observe

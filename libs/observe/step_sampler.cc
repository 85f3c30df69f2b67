// Small rings: a window of the newest is enough for a p99 and for a clock.
#include "libs/observe/step_sampler.h"

#include <algorithm>

namespace espalier::observe {
namespace {

template <typename T>
void Push(std::vector<T>* ring, size_t* next, size_t size, T value) {
  if (ring->size() < size) {
    ring->push_back(value);
  } else {
    (*ring)[*next] = value;
  }
  *next = (*next + 1) % size;
}

}  // namespace

bool StepSampler::Slow(int64_t nanos) {
  bool slow = false;
  if (recent_.size() >= kKnownMin) {
    // Above the p99: fewer than 1% of the window lie at or above it.
    const auto above = static_cast<size_t>(std::count_if(
        recent_.begin(), recent_.end(), [&](int64_t other) { return other >= nanos; }));
    slow = above * 100 < recent_.size();
  }
  Push(&recent_, &next_, kWindow, nanos);
  return slow;
}

void StepSampler::Forget() {
  recent_.clear();
  next_ = 0;
}

void ClockOffset::Add(int64_t sent, int64_t received, int64_t replied, int64_t answered) {
  const int64_t round = (answered - sent) - (replied - received);
  if (sent <= 0 || received <= 0 || replied < received || answered < sent || round < 0) return;
  Push(&trips_, &next_, kWindow, Trip{((received - sent) + (replied - answered)) / 2, round});
}

const ClockOffset::Trip* ClockOffset::Best() const {
  const auto best = std::min_element(
      trips_.begin(), trips_.end(), [](const Trip& a, const Trip& b) { return a.round < b.round; });
  return best == trips_.end() ? nullptr : &*best;
}

int64_t ClockOffset::nanos() const { return known() ? Best()->offset : 0; }
int64_t ClockOffset::error() const { return known() ? Best()->round / 2 : 0; }

int64_t OneWayOffset::Add(int64_t sent, int64_t received) {
  Push(&delays_, &next_, kWindow, received - sent);
  return *std::min_element(delays_.begin(), delays_.end());
}

}  // namespace espalier::observe

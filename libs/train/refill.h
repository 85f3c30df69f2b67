// Refill: what is done about groups of equal rewards, which carry no gradient.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "libs/train/exchange.h"

namespace espalier::train {

// How one group of a rollout stands. `index` is its number over all ranks.
struct GroupStanding {
  int64_t index = 0;
  int64_t traces = 0, correct = 0;
  double reward = 0;            // summed over its traces
  int64_t gradient_tokens = 0;  // sampled tokens that carry gradient; 0 when its rewards are equal
};

// Every rank's groups on every rank: Pack, run the exchange, Unpack. The groups of all ranks must
// be numbered from 0 to `groups` - 1, each held by one rank.
class GroupStandings {
 public:
  explicit GroupStandings(int64_t groups) : groups_(groups) {}
  void Pack(std::span<const GroupStanding> mine, Exchange* exchange);
  std::vector<GroupStanding> Unpack(const Exchange& exchange) const;

 private:
  static constexpr int64_t kFields = 4;
  const int64_t groups_;
  int handle_ = 0;
};

// How often each of an update's groups is used, so that as many are used as there are: groups
// without gradient 0 times, and the easiest of the others once more than they would be, the easiest
// first, in turn, until the update is full (RAPO; no new sampling). Easier is the higher share of
// correct traces, then the higher mean reward, then the lower index. All zeros when no group
// carries gradient. Depends on the standings alone, not on who holds the groups.
std::vector<int64_t> RefillUses(std::span<const GroupStanding> groups);

}  // namespace espalier::train

// A group used twice is the same as the group standing twice in the batch: the loss is linear in
// the number of uses, so nothing is sampled, moved or passed through the model again.
#include "libs/train/refill.h"

#include <algorithm>
#include <bit>

#include "libs/observe/log.h"

namespace espalier::train {
namespace {

// Products instead of quotients: no rounding decides a tie.
bool Easier(const GroupStanding& a, const GroupStanding& b) {
  const int64_t correct_a = a.correct * b.traces, correct_b = b.correct * a.traces;
  if (correct_a != correct_b) return correct_a > correct_b;
  const double reward_a = a.reward * static_cast<double>(b.traces);
  const double reward_b = b.reward * static_cast<double>(a.traces);
  if (reward_a != reward_b) return reward_a > reward_b;
  return a.index < b.index;
}

}  // namespace

void GroupStandings::Pack(std::span<const GroupStanding> mine, Exchange* exchange) {
  std::vector<int64_t> slots(groups_ * kFields, 0);
  for (const GroupStanding& group : mine) {
    CHECK_GE(group.index, 0);
    CHECK_LT(group.index, groups_);
    int64_t* slot = slots.data() + group.index * kFields;
    slot[0] = group.traces;
    slot[1] = group.correct;
    slot[2] = std::bit_cast<int64_t>(group.reward);
    slot[3] = group.gradient_tokens;
  }
  handle_ = exchange->AddSums(slots);
}

std::vector<GroupStanding> GroupStandings::Unpack(const Exchange& exchange) const {
  const std::span<const int64_t> slots = exchange.Sums(handle_, groups_ * kFields);
  std::vector<GroupStanding> groups(groups_);
  for (int64_t index = 0; index < groups_; ++index) {
    const int64_t* slot = slots.data() + index * kFields;
    groups[index] = {.index = index,
                     .traces = slot[0],
                     .correct = slot[1],
                     .reward = std::bit_cast<double>(slot[2]),
                     .gradient_tokens = slot[3]};
  }
  return groups;
}

std::vector<int64_t> RefillUses(std::span<const GroupStanding> groups) {
  std::vector<size_t> carriers;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].gradient_tokens > 0) carriers.push_back(i);
  }
  std::vector<int64_t> uses(groups.size(), 0);
  if (carriers.empty()) return uses;
  std::sort(carriers.begin(), carriers.end(),
            [&](size_t a, size_t b) { return Easier(groups[a], groups[b]); });
  for (size_t place = 0; place < groups.size(); ++place) ++uses[carriers[place % carriers.size()]];
  return uses;
}

}  // namespace espalier::train

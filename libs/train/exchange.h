// Exchange: the small numbers of a step packed into one collective call, and agreement on errors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "libs/collective/communicator.h"

namespace espalier::train {

// Sums, gathers and minima of all ranks in one AllReduceSum of int64. Every rank adds the same
// kinds in the same order, then calls Run, then reads by the handles that Add… returned. Not
// thread-safe.
class Exchange {
 public:
  explicit Exchange(collective::Communicator& communicator) : communicator_(communicator) {}

  // Read with Sum / Sums: the sum over ranks.
  int AddSum(int64_t value);
  int AddSums(std::span<const int64_t> values);
  // Read with Total: the sum over ranks in rank order, exact bits on every rank.
  int AddReal(double value);
  // Read with Min: the least of all ranks' values.
  int AddMin(int64_t value);

  // (collective)
  absl::Status Run();

  int64_t Sum(int handle) const { return slots_[handle]; }
  std::span<const int64_t> Sums(int handle, int64_t count) const {
    return {slots_.data() + handle, static_cast<size_t>(count)};
  }
  double Total(int handle) const;
  int64_t Min(int handle) const;

 private:
  int AddGather(int64_t bits);

  collective::Communicator& communicator_;
  std::vector<int64_t> slots_;
};

// Makes one rank's error every rank's: when `local` is an error somewhere, the lowest such rank's
// status is returned on all ranks, marked as agreed. (collective)
absl::Status AgreeStatus(collective::Communicator& communicator, const absl::Status& local);

// Marks an error that every rank is known to have, so that nobody need abort the links because of
// it.
absl::Status MarkAgreed(absl::Status status);
bool IsAgreed(const absl::Status& status);
absl::Status StripAgreed(absl::Status status);

// True for errors of the links themselves (a peer died, an abort): the run may go on from its
// checkpoint.
bool IsLinkError(const absl::Status& status);

}  // namespace espalier::train

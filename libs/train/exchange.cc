// A gather is a sum over slots of which each rank fills its own and leaves the others zero; doubles
// travel as their bits, so nothing is rounded on the way.
#include "libs/train/exchange.h"

#include <algorithm>
#include <bit>
#include <string>

#include "libs/base/status_macros.h"

namespace espalier::train {
namespace {
constexpr char kAgreedPayload[] = "espalier.train/agreed";
}  // namespace

int Exchange::AddSum(int64_t value) { return AddSums({&value, 1}); }

int Exchange::AddSums(std::span<const int64_t> values) {
  const int handle = static_cast<int>(slots_.size());
  slots_.insert(slots_.end(), values.begin(), values.end());
  return handle;
}

int Exchange::AddGather(int64_t bits) {
  const int handle = static_cast<int>(slots_.size());
  slots_.resize(slots_.size() + communicator_.size(), 0);
  slots_[handle + communicator_.rank()] = bits;
  return handle;
}

int Exchange::AddReal(double value) { return AddGather(std::bit_cast<int64_t>(value)); }

int Exchange::AddMin(int64_t value) { return AddGather(value); }

absl::Status Exchange::Run() { return communicator_.AllReduceSum(std::span<int64_t>(slots_)); }

double Exchange::Total(int handle) const {
  double total = 0;
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    total += std::bit_cast<double>(slots_[handle + rank]);
  }
  return total;
}

int64_t Exchange::Min(int handle) const {
  return *std::min_element(slots_.begin() + handle, slots_.begin() + handle + communicator_.size());
}

absl::Status AgreeStatus(collective::Communicator& communicator, const absl::Status& local) {
  int64_t first_bad = local.ok() ? communicator.size() : communicator.rank();
  RETURN_IF_ERROR(communicator.AllReduceMin(std::span<int64_t>(&first_bad, 1)));
  if (first_bad == communicator.size()) return absl::OkStatus();
  std::string words;
  if (communicator.rank() == first_bad) {
    words.push_back(static_cast<char>(local.code()));
    words.append(local.message().data(), local.message().size());
  }
  RETURN_IF_ERROR(communicator.Broadcast(static_cast<int>(first_bad), &words));
  if (words.empty()) return absl::InternalError("agreement on an error carried no code");
  return MarkAgreed(absl::Status(static_cast<absl::StatusCode>(words[0]), words.substr(1)));
}

absl::Status MarkAgreed(absl::Status status) {
  if (!status.ok()) status.SetPayload(kAgreedPayload, absl::Cord("1"));
  return status;
}

bool IsAgreed(const absl::Status& status) { return status.GetPayload(kAgreedPayload).has_value(); }

absl::Status StripAgreed(absl::Status status) {
  status.ErasePayload(kAgreedPayload);
  return status;
}

bool IsLinkError(const absl::Status& status) {
  return absl::IsAborted(status) || absl::IsUnavailable(status) || absl::IsCancelled(status) ||
         absl::IsDeadlineExceeded(status);
}

}  // namespace espalier::train

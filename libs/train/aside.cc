// A rank that is done early waits inside the collective for the next word of the others.
#include "libs/train/aside.h"

#include <chrono>
#include <future>

#include "libs/base/status_macros.h"
#include "libs/train/exchange.h"

namespace espalier::train {
namespace {
constexpr std::chrono::seconds kWordEvery{1};
}  // namespace

absl::Status RunAside(collective::Communicator& communicator,
                      const std::function<absl::Status()>& work) {
  // The future joins its thread when an error leaves early: `work` may refer to the caller's
  // variables.
  std::future<absl::Status> result = std::async(std::launch::async, work);
  int64_t all_done = 0;
  while (all_done == 0) {
    all_done = result.wait_for(kWordEvery) == std::future_status::ready ? 1 : 0;
    RETURN_IF_ERROR(communicator.AllReduceMin(std::span<int64_t>(&all_done, 1)));
  }
  return AgreeStatus(communicator, result.get());
}

}  // namespace espalier::train

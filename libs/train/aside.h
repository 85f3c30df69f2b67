// RunAside: long work of a rank that needs no links, while the links see that everybody is alive.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "libs/collective/communicator.h"

namespace espalier::train {

// Every rank runs its `work` (which may be nothing at all) on a thread of its own; meanwhile the
// ranks exchange a word a second, so that waiting for a slow one is not taken for a dead link.
// Returns when all are done: OK, or the error of the lowest rank that has one. `work` must not use
// the communicator. (collective)
absl::Status RunAside(collective::Communicator& communicator,
                      const std::function<absl::Status()>& work);

}  // namespace espalier::train

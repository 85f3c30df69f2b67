// The tokens of highest entropy over all ranks: those at which the model has a choice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/collective/communicator.h"

namespace espalier::train {

// Marks the ceil(share * n) tokens of highest entropy among the n of all ranks, exactly as many; of
// equal entropies the lower rank's and the earlier go first. With the tokens dealt to the ranks in
// contiguous shares, the marks do not depend on the number of ranks. An entropy that is not a
// number counts as zero. `share` is in (0, 1]. (collective)
absl::StatusOr<std::vector<uint8_t>> MarkHighestEntropies(std::span<const float> entropies,
                                                          double share,
                                                          collective::Communicator& communicator);

}  // namespace espalier::train

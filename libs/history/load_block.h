// Packed load rows: the bytes of one block, each expert's counts coded against those before (rice.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/history/store.h"

namespace espalier::history {

// Rows of one layer in ascending first_step, all with as many tokens.
std::string EncodeBlock(const LoadMatrix& rows);
std::string EncodeBlock(const std::vector<LoadBlock>& rows);
// DataLoss for bytes that EncodeBlock did not write.
absl::StatusOr<std::vector<LoadBlock>> DecodeBlock(std::string_view bytes);
// Appends the rows that begin in first..last to `rows`, which must be as wide or wider (else DataLoss).
absl::Status DecodeBlock(std::string_view bytes, uint64_t first, uint64_t last, LoadMatrix* rows);

// All layers of one step; the form in which a step waits until its block is full.
std::string EncodeStep(const std::vector<LoadRow>& rows);
absl::StatusOr<std::vector<LoadRow>> DecodeStep(uint64_t step, std::string_view bytes);

}  // namespace espalier::history

// The kinds of energy counters: RAPL's files and NVML's calls. EnergyMeter is the way to use them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/observe/energy.h"

namespace espalier::observe {

// Zones of `powercap` (sysfs: intel-rapl:N, on AMD too) named package-N, and their dram. NotFound:
// no zone. PermissionDenied names a file that only root may read, and what to do about it.
absl::StatusOr<std::vector<std::unique_ptr<EnergyCounter>>> FindRaplCounters(
    const std::string& powercap);

// Devices of NVIDIA's management library, loaded from `library`: no build needs it. NotFound: no
// library, or no device that counts energy (Volta and later do).
absl::StatusOr<std::vector<std::unique_ptr<EnergyCounter>>> FindNvmlCounters(
    const std::string& library);

}  // namespace espalier::observe

// Energy that this machine has used, from the counters that its processors keep: RAPL for CPUs,
// NVML for NVIDIA GPUs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::observe {

// One counter of the hardware. Used under EnergyMeter's lock.
class EnergyCounter {
 public:
  virtual ~EnergyCounter() = default;
  // "rapl:package-0", "nvml:1": stable names, for a label.
  virtual const std::string& source() const = 0;
  // As the hardware says; starts again from 0 at wraps_at().
  virtual absl::StatusOr<uint64_t> ReadMicrojoules() = 0;
  virtual uint64_t wraps_at() const = 0;  // 0: never
};

// Where counters are looked for; tests have places of their own.
struct EnergyPlaces {
  std::string powercap = "/sys/class/powercap";
  std::string nvml = "libnvidia-ml.so.1";
};

// Counters that exist and can be read. Why others cannot is logged, once a place. CPU packages and
// their DRAM are counted; cores and graphics are parts of the package, and are not.
std::vector<std::unique_ptr<EnergyCounter>> FindEnergyCounters(const EnergyPlaces& places);

// Adds up what counters say, over their wraps. Thread-safe. A counter that wraps twice between two
// readings loses one wrap: read every few minutes (RAPL wraps after some 20 minutes at 200 W).
class EnergyMeter {
 public:
  explicit EnergyMeter(std::vector<std::unique_ptr<EnergyCounter>> counters);
  ~EnergyMeter();
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

  // False: there is no counter, and there will be none.
  bool known() const { return known_; }
  // Joules since the meter was made, by source. A counter that can no longer be read leaves for
  // good, and is logged: its figure would stand still and look like thrift.
  std::map<std::string, double> Read();

 private:
  struct Followed;
  bool known_ = false;
  std::mutex mutex_;
  std::vector<Followed> followed_;  // guarded by mutex_
};

}  // namespace espalier::observe

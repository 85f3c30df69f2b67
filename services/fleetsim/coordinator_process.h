// CoordinatorProcess: a coordinator of the simulation's own on a scratch folder, and what a process
// has used so far.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace espalier::fleetsim {

struct ProcessUse {
  double cpu_seconds = 0;
  uint64_t rss_bytes = 0;
  uint64_t rss_bytes_max = 0;
};
// Of a process on this machine; zeros when it is gone.
ProcessUse UseOf(pid_t pid);
// Of all files below a folder, as they occupy the disk.
uint64_t BytesOnDisk(const std::string& directory);

// Ended and its folder removed by the destructor.
class CoordinatorProcess {
 public:
  // Waits until it listens. `binary` is espalier-coordinator.
  static absl::StatusOr<std::unique_ptr<CoordinatorProcess>> Start(const std::string& binary,
                                                                   double lease_seconds);
  ~CoordinatorProcess();
  const std::string& address() const { return address_; }
  pid_t pid() const { return pid_; }
  std::string data() const { return directory_ + "/data"; }
  std::string log() const { return directory_ + "/log"; }

 private:
  CoordinatorProcess() = default;

  std::string directory_;
  std::string address_;
  pid_t pid_ = -1;
};

}  // namespace espalier::fleetsim

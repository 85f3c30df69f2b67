// SimulationOptions: checks, in the words of the flags.
#include "services/fleetsim/options.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"

namespace espalier::fleetsim {

std::vector<uint32_t> SimulationOptions::GroupSizes() const {
  std::vector<uint32_t> sizes(workers / ranks_per_run, ranks_per_run);
  if (workers % ranks_per_run > 0) sizes.push_back(workers % ranks_per_run);
  return sizes;
}

absl::Status SimulationOptions::Validate() const {
  const auto refuse = [](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (coordinator.empty() == spawn_coordinator.empty())
    return refuse("--coordinator: give it, or --spawn-coordinator PATH, and not both");
  if (workers == 0 || workers > 65536) return refuse("--workers: ", workers, "; 1 to 65536");
  if (ranks_per_run == 0 || ranks_per_run > 16384)
    return refuse("--ranks-per-run: ", ranks_per_run, "; 1 to 16384");
  if (channels == 0 || channels > 4096) return refuse("--channels: ", channels, "; 1 to 4096");
  if (layers == 0 || layers > 1024) return refuse("--layers: ", layers, "; 1 to 1024");
  if (experts < 2 || experts > 65536) return refuse("--experts: ", experts, "; 2 to 65536");
  if (top_k == 0 || top_k > experts)
    return refuse("--top-k: ", top_k, "; 1 to --experts (", experts, ")");
  if (step_seconds < 0.001 || step_seconds > 3600)
    return refuse("--step-seconds: ", step_seconds, "; 0.001 to 3600");
  if (steps == 0 && seconds <= 0) return refuse("--seconds: ", seconds, "; above 0");
  for (const auto& [flag, rate] : {std::pair("--straggler-rate", straggler_rate),
                                   std::pair("--disconnect-rate", disconnect_rate),
                                   std::pair("--restart-rate", restart_rate)}) {
    if (rate < 0 || rate > 1) return refuse(flag, ": ", rate, "; 0 to 1");
  }
  if (window_steps == 0) return refuse("--window-steps: 0; at least 1");
  ScriptedFault fault;
  for (const std::string& text : cut) RETURN_IF_ERROR(ParseFault("--cut", text, &fault));
  for (const std::string& text : restart) RETURN_IF_ERROR(ParseFault("--restart", text, &fault));
  return absl::OkStatus();
}

absl::Status ParseFault(const std::string& flag, const std::string& text, ScriptedFault* fault) {
  const std::vector<std::string> parts = absl::StrSplit(text, '@');
  if (parts.size() == 2 && absl::SimpleAtoi(parts[0], &fault->worker) &&
      absl::SimpleAtod(parts[1], &fault->seconds) && fault->seconds >= 0)
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": \"", text, "\"; give WORKER@SECONDS, such as 17@3.5"));
}

}  // namespace espalier::fleetsim

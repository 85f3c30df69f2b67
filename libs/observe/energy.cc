// The meter: differences of readings, added up.
#include "libs/observe/energy.h"

#include <optional>
#include <utility>

#include "libs/observe/energy_counters.h"
#include "libs/observe/log.h"

namespace espalier::observe {

struct EnergyMeter::Followed {
  std::unique_ptr<EnergyCounter> counter;
  uint64_t last = 0;
  uint64_t used = 0;  // microjoules since the meter was made
};

namespace {

// From `last` to `now` of a counter that starts again from 0 at `wraps_at`. Nothing when it went
// back without wrapping: a driver was loaded again, and what was used meanwhile is unknown.
std::optional<uint64_t> Used(uint64_t last, uint64_t now, uint64_t wraps_at) {
  if (now >= last) return now - last;
  if (wraps_at == 0 || last > wraps_at) return std::nullopt;
  return wraps_at - last + now;
}

void LogLost(const EnergyCounter& counter, const absl::Status& status) {
  LOG(WARNING) << "energy_counter_lost source=" << counter.source() << " status=" << status
               << " effect=\"its joules are no longer exported\"";
}

}  // namespace

std::vector<std::unique_ptr<EnergyCounter>> FindEnergyCounters(const EnergyPlaces& places) {
  auto counters = FindRaplCounters(places.powercap);
  if (!counters.ok()) {
    LOG(INFO) << "energy_counter_absent kind=rapl cause=\"" << counters.status().message() << "\"";
    counters = std::vector<std::unique_ptr<EnergyCounter>>();
  }
  auto devices = FindNvmlCounters(places.nvml);
  if (!devices.ok()) {
    LOG(INFO) << "energy_counter_absent kind=nvml cause=\"" << devices.status().message() << "\"";
  } else {
    for (auto& device : *devices) counters->push_back(std::move(device));
  }
  return *std::move(counters);
}

EnergyMeter::EnergyMeter(std::vector<std::unique_ptr<EnergyCounter>> counters) {
  for (auto& counter : counters) {
    const auto first = counter->ReadMicrojoules();
    if (!first.ok()) {
      LogLost(*counter, first.status());
      continue;
    }
    LOG(INFO) << "energy_counter_found source=" << counter->source();
    followed_.push_back(Followed{.counter = std::move(counter), .last = *first});
  }
  known_ = !followed_.empty();
}

EnergyMeter::~EnergyMeter() = default;

std::map<std::string, double> EnergyMeter::Read() {
  std::lock_guard lock(mutex_);
  std::map<std::string, double> joules;
  for (auto it = followed_.begin(); it != followed_.end();) {
    const auto now = it->counter->ReadMicrojoules();
    if (!now.ok()) {
      LogLost(*it->counter, now.status());
      it = followed_.erase(it);
      continue;
    }
    const auto used = Used(it->last, *now, it->counter->wraps_at());
    LOG_IF(WARNING, !used.has_value())
        << "energy_counter_went_back source=" << it->counter->source() << " from_uj=" << it->last
        << " to_uj=" << *now << " effect=\"the energy between is not counted\"";
    it->used += used.value_or(0);
    it->last = *now;
    joules[it->counter->source()] = static_cast<double>(it->used) * 1e-6;
    ++it;
  }
  return joules;
}

}  // namespace espalier::observe

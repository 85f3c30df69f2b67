// NVML by dlopen: four of its calls, whose signatures have been the same since NVML 9.
#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/observe/energy_counters.h"

namespace espalier::observe {
namespace {

using Device = struct nvmlDevice_st*;
constexpr int kSuccess = 0;

// One library for all counters, which share it; unloaded with the last.
class Nvml {
 public:
  static absl::StatusOr<std::shared_ptr<Nvml>> Load(const std::string& library) {
    void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* cause = dlerror();
      return absl::NotFoundError(absl::StrCat(library, ": cannot be loaded (",
                                              cause != nullptr ? cause : "no cause",
                                              "); it comes with NVIDIA's driver"));
    }
    auto nvml = std::make_shared<Nvml>(handle);
    RETURN_IF_ERROR(nvml->Find("nvmlInit_v2", &nvml->init_));
    RETURN_IF_ERROR(nvml->Find("nvmlShutdown", &nvml->shutdown_));
    RETURN_IF_ERROR(nvml->Find("nvmlDeviceGetCount_v2", &nvml->count_));
    RETURN_IF_ERROR(nvml->Find("nvmlDeviceGetHandleByIndex_v2", &nvml->device_));
    RETURN_IF_ERROR(nvml->Find("nvmlDeviceGetTotalEnergyConsumption", &nvml->energy_));
    RETURN_IF_ERROR(Check("nvmlInit_v2", nvml->init_()));
    nvml->initialised_ = true;
    return nvml;
  }
  explicit Nvml(void* handle) : handle_(handle) {}
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;
  ~Nvml() {
    if (initialised_) shutdown_();
    dlclose(handle_);
  }

  absl::StatusOr<unsigned> DeviceCount() {
    unsigned count = 0;
    RETURN_IF_ERROR(Check("nvmlDeviceGetCount_v2", count_(&count)));
    return count;
  }
  absl::StatusOr<Device> DeviceAt(unsigned index) {
    Device device = nullptr;
    RETURN_IF_ERROR(Check("nvmlDeviceGetHandleByIndex_v2", device_(index, &device)));
    return device;
  }
  // Since the driver was loaded.
  absl::StatusOr<uint64_t> Microjoules(Device device) {
    unsigned long long millijoules = 0;
    RETURN_IF_ERROR(Check("nvmlDeviceGetTotalEnergyConsumption", energy_(device, &millijoules)));
    return uint64_t{millijoules} * 1000;
  }

 private:
  template <typename Function>
  absl::Status Find(const char* name, Function** function) {
    *function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (*function != nullptr) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("NVML has no ", name, ": update NVIDIA's driver"));
  }
  static absl::Status Check(const char* call, int code) {
    if (code == kSuccess) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(call, " returned ", code));
  }

  void* const handle_;
  bool initialised_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*count_)(unsigned*) = nullptr;
  int (*device_)(unsigned, Device*) = nullptr;
  int (*energy_)(Device, unsigned long long*) = nullptr;
};

class NvmlCounter final : public EnergyCounter {
 public:
  NvmlCounter(std::shared_ptr<Nvml> nvml, unsigned index, Device device)
      : nvml_(std::move(nvml)), source_(absl::StrCat("nvml:", index)), device_(device) {}
  const std::string& source() const override { return source_; }
  absl::StatusOr<uint64_t> ReadMicrojoules() override { return nvml_->Microjoules(device_); }
  uint64_t wraps_at() const override { return 0; }

 private:
  const std::shared_ptr<Nvml> nvml_;  // shared by the counters of all devices
  const std::string source_;
  const Device device_;
};

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<EnergyCounter>>> FindNvmlCounters(
    const std::string& library) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Nvml> nvml, Nvml::Load(library));
  ASSIGN_OR_RETURN(const unsigned count, nvml->DeviceCount());
  std::vector<std::unique_ptr<EnergyCounter>> counters;
  for (unsigned i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const Device device, nvml->DeviceAt(i));
    if (!nvml->Microjoules(device).ok()) continue;  // older than Volta
    counters.push_back(std::make_unique<NvmlCounter>(nvml, i, device));
  }
  if (counters.empty()) {
    return absl::NotFoundError(
        absl::StrCat(library, ": none of ", count, " devices counts its energy"));
  }
  return counters;
}

}  // namespace espalier::observe

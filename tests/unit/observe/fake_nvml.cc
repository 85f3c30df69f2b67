// A stand-in for libnvidia-ml.so.1 with two devices: the first uses 1.5 J between readings, the
// second is too old to count.
#include <cstdint>

extern "C" {

struct nvmlDevice_st {
  int index;
};

static nvmlDevice_st devices[] = {{0}, {1}};
static int users = 0;

int nvmlInit_v2() {
  ++users;
  return 0;
}

int nvmlShutdown() { return --users == 0 ? 0 : 1; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return users > 0 ? 0 : 1;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_st** device) {
  if (index >= 2) return 2;
  *device = &devices[index];
  return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_st* device, unsigned long long* energy) {
  static unsigned long long millijoules = 1'000'000;
  if (device->index != 0) return 3;  // NVML_ERROR_NOT_SUPPORTED
  *energy = millijoules += 1500;
  return 0;
}

}  // extern "C"

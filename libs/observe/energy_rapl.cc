// RAPL by sysfs: a folder a zone, with files name, energy_uj and max_energy_range_uj.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/observe/energy_counters.h"

namespace espalier::observe {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> ReadWord(const fs::path& file) {
  std::ifstream in(file);
  std::string word;
  if (in >> word) return word;
  std::error_code error;
  if (!fs::exists(file, error)) return absl::NotFoundError(absl::StrCat(file.string(), ": absent"));
  return absl::PermissionDeniedError(
      absl::StrCat(file.string(),
                   ": cannot be read; give this user the right (chmod o+r), or run with "
                   "CAP_DAC_READ_SEARCH"));
}

absl::StatusOr<uint64_t> ReadNumber(const fs::path& file) {
  ASSIGN_OR_RETURN(const std::string word, ReadWord(file));
  uint64_t number = 0;
  if (!absl::SimpleAtoi(word, &number)) {
    return absl::DataLossError(absl::StrCat(file.string(), ": \"", word, "\" is not a number"));
  }
  return number;
}

class RaplCounter final : public EnergyCounter {
 public:
  RaplCounter(std::string source, fs::path file, uint64_t wraps_at)
      : source_(std::move(source)), file_(std::move(file)), wraps_at_(wraps_at) {}
  const std::string& source() const override { return source_; }
  absl::StatusOr<uint64_t> ReadMicrojoules() override { return ReadNumber(file_); }
  uint64_t wraps_at() const override { return wraps_at_; }

 private:
  const std::string source_;
  const fs::path file_;
  const uint64_t wraps_at_;
};

// Zones are intel-rapl:0, those within them intel-rapl:0:0. The same zones show a second time as
// intel-rapl-mmio:0.
std::vector<fs::path> Zones(const std::string& powercap) {
  std::vector<fs::path> zones;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(powercap, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, "intel-rapl:")) zones.push_back(entry.path());
  }
  std::sort(zones.begin(), zones.end());
  return zones;
}

// Empty for a zone that is part of another one that is counted.
absl::StatusOr<std::string> SourceOf(const fs::path& zone) {
  ASSIGN_OR_RETURN(const std::string name, ReadWord(zone / "name"));
  if (absl::StartsWith(name, "package-")) return absl::StrCat("rapl:", name);
  if (name != "dram") return std::string();
  const std::string folder = zone.filename().string();  // intel-rapl:P:Z
  const fs::path package = zone.parent_path() / folder.substr(0, folder.rfind(':'));
  ASSIGN_OR_RETURN(const std::string of, ReadWord(package / "name"));
  return absl::StrCat("rapl:", of, "-dram");
}

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<EnergyCounter>>> FindRaplCounters(
    const std::string& powercap) {
  std::vector<std::unique_ptr<EnergyCounter>> counters;
  for (const fs::path& zone : Zones(powercap)) {
    ASSIGN_OR_RETURN(std::string source, SourceOf(zone));
    if (source.empty()) continue;
    ASSIGN_OR_RETURN(const uint64_t wraps_at, ReadNumber(zone / "max_energy_range_uj"));
    RETURN_IF_ERROR(ReadNumber(zone / "energy_uj").status());
    counters.push_back(
        std::make_unique<RaplCounter>(std::move(source), zone / "energy_uj", wraps_at));
  }
  if (counters.empty()) {
    return absl::NotFoundError(
        absl::StrCat(powercap, ": no zone of a CPU package; virtual machines show none"));
  }
  return counters;
}

}  // namespace espalier::observe

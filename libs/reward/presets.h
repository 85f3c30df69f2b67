// Presets: named, versioned configurations of the reward, and the name of a configuration. A
// version never changes: other values get another number.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "libs/reward/reward.h"

namespace espalier::reward {

// The sizes of a task (length_max, length_buffer, length_target) are 0: a preset does not know
// them.
struct Preset {
  const char* name;  // "rirm-safe/1"
  const char* help;  // one sentence
  RewardOptions options;
};

const std::vector<Preset>& Presets();
// Null when there is none of this name.
const Preset* FindPreset(absl::string_view name);
// "a, b or c", for errors.
std::string PresetNames();

// The name of the preset that `options` are, sizes aside: `asked` when it fits, else any other;
// else "custom/" and a hash of all values, the same on every machine.
std::string ConfigurationName(absl::string_view asked, const RewardOptions& options);

}  // namespace espalier::reward

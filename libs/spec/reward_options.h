// Reward: between RewardSpec and the options of libs/reward, the values of presets included.
#pragma once

#include <string>

#include "espalier/v1/run_spec.pb.h"
#include "libs/reward/reward.h"

namespace espalier::spec {

// Every field but the preset's name.
v1::RewardSpec ToRewardSpec(const reward::RewardOptions& options);

// Absent fields take the values of the preset that `spec` names. An empty or unknown name changes
// nothing: PresetProblem reports the latter.
void FillFromPreset(v1::RewardSpec* spec);

// What is wrong with the name of the preset, and those that there are; empty when nothing is.
std::string PresetProblem(const v1::RewardSpec& spec);

// The options of a spec whose absent fields were filled.
reward::RewardOptions ToRewardOptions(const v1::RewardSpec& spec);

}  // namespace espalier::spec

// One table; equal values of two presets would make names ambiguous, so the test forbids them.
#include "libs/reward/presets.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace espalier::reward {
namespace {

RewardOptions Rirm(double reflection_min, double reflection_max, bool safe) {
  RewardOptions options;
  options.reflection_min = reflection_min;
  options.reflection_max = reflection_max;
  options.safe = safe;
  return options;
}

// Correctness by itself, +1 or -1 times `accuracy`, with a length term beside it.
RewardOptions Correctness(double accuracy, LengthShaping shaping, double length_weight) {
  RewardOptions options;
  options.answer_weight = options.reflection_weight = options.side_weight = 0;
  options.accuracy_weight = accuracy;
  options.length_shaping = shaping;
  options.length_weight = length_weight;
  return options;
}

// Every value, in a fixed order and in full precision.
std::string Canonical(const RewardOptions& options) {
  return absl::StrFormat(
      "reflection_min=%.17g;reflection_max=%.17g;answer_weight=%.17g;accuracy_weight=%.17g;"
      "reflection_weight=%.17g;side_weight=%.17g;length_shaping=%d;length_weight=%.17g;"
      "length_max=%d;length_buffer=%d;length_target=%d;length_scale=%.17g;safe=%d;"
      "count_hesitations=%d;check_language=%d",
      options.reflection_min, options.reflection_max, options.answer_weight,
      options.accuracy_weight, options.reflection_weight, options.side_weight,
      static_cast<int>(options.length_shaping), options.length_weight, options.length_max,
      options.length_buffer, options.length_target, options.length_scale, options.safe,
      options.count_hesitations, options.check_language);
}

std::string WithoutSizes(RewardOptions options) {
  options.length_max = options.length_buffer = options.length_target = 0;
  return Canonical(options);
}

uint64_t Fnv1a(absl::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return hash;
}

}  // namespace

const std::vector<Preset>& Presets() {
  static const auto* const kPresets = new std::vector<Preset>{
      {"rirm-safe/1",
       "RIRM, revised bounds; a trace that is not correct earns no positive part (the defaults)",
       Rirm(0, 3, true)},
      {"rirm-revised/1", "RIRM as revised: the first restatement costs already, three cost all",
       Rirm(0, 3, false)},
      {"rirm-paper/1",
       "RIRM as first published; its bounds are not given there, here one restatement is free",
       Rirm(1, 4, false)},
      {"correctness/1", "Correctness alone: +1 or -1", Correctness(1, LengthShaping::kNone, 0)},
      {"dapo/1", "Correctness, and DAPO's soft penalty towards length_max",
       Correctness(1, LengthShaping::kOverlong, 1)},
      {"kimi/1", "Correctness, and half of Kimi k1.5's length term within the group",
       Correctness(1, LengthShaping::kGroup, 0.5)},
      {"cosine/1",
       "Cosine reward up to length_max: correct 2 falling to 1, wrong -10 rising to 0, -10 beyond",
       Correctness(0, LengthShaping::kCosine, 1)},
      {"l1/1",
       "L1 exact: correctness (+1/2 or -1/2) less length_scale a token away from length_target",
       Correctness(0.5, LengthShaping::kL1, 1)},
      {"l1-max/1",
       "L1 max: correct traces earn 1/2 more or less length_scale a token under or over "
       "length_target, from 0 to 1",
       Correctness(0, LengthShaping::kL1Max, 1)},
  };
  return *kPresets;
}

const Preset* FindPreset(absl::string_view name) {
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

std::string PresetNames() {
  std::string names;
  for (size_t i = 0; i < Presets().size(); ++i) {
    absl::StrAppend(&names,
                    i == 0                      ? ""
                    : i + 1 == Presets().size() ? " or "
                                                : ", ",
                    Presets()[i].name);
  }
  return names;
}

std::string ConfigurationName(absl::string_view asked, const RewardOptions& options) {
  const std::string values = WithoutSizes(options);
  if (const Preset* preset = FindPreset(asked)) {
    if (WithoutSizes(preset->options) == values) return preset->name;
  }
  for (const Preset& preset : Presets()) {
    if (WithoutSizes(preset.options) == values) return preset.name;
  }
  return absl::StrFormat("custom/%016x", Fnv1a(Canonical(options)));
}

}  // namespace espalier::reward

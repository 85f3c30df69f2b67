// Goal: a configuration's name says exactly what was used, for ever. Method: the table's own rules,
// names of changed values, and one hash by value so that it cannot drift.
#include "libs/reward/presets.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::reward {
namespace {

TEST(Presets, HaveVersionsAndValuesOfTheirOwn) {
  std::set<std::string> names, configurations;
  for (const Preset& preset : Presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_THAT(preset.name, testing::MatchesRegex("[a-z0-9-]+/[0-9]+"));
    EXPECT_EQ(preset.name, ConfigurationName("", preset.options)) << "another has its values";
    EXPECT_EQ(0, preset.options.length_max) << preset.name;
    EXPECT_EQ(0, preset.options.length_target) << preset.name;
    EXPECT_THAT(PresetNames(), testing::HasSubstr(preset.name));
  }
  for (const char* name : {"rirm-paper/1", "rirm-revised/1", "rirm-safe/1", "correctness/1",
                           "dapo/1", "kimi/1", "cosine/1", "l1/1"}) {
    EXPECT_NE(nullptr, FindPreset(name)) << name;
  }
  EXPECT_EQ(nullptr, FindPreset("rirm-safe/2"));
  EXPECT_EQ(nullptr, FindPreset(""));
}

TEST(Presets, TheDefaultsAreTheSafeForm) {
  EXPECT_EQ("rirm-safe/1", ConfigurationName("", RewardOptions{}));
}

TEST(Presets, SizesOfTheTaskKeepTheName) {
  RewardOptions options = FindPreset("dapo/1")->options;
  options.length_max = 512;
  options.length_buffer = 64;
  EXPECT_EQ("dapo/1", ConfigurationName("dapo/1", options));
}

TEST(Presets, OtherValuesAreCustomWithAStableHash) {
  RewardOptions options;
  options.reflection_max = 5;
  const std::string name = ConfigurationName("rirm-safe/1", options);
  EXPECT_EQ("custom/ddc4f85c32308f46", name);
  RewardOptions near = options;
  near.length_scale = 0.00030000000000000003;
  EXPECT_NE(name, ConfigurationName("rirm-safe/1", near)) << "the last bit counts";
  options.length_max = 7;
  EXPECT_NE(name, ConfigurationName("", options)) << "a custom name holds its sizes";
}

TEST(Presets, ValuesOfAnotherPresetBearItsName) {
  EXPECT_EQ("correctness/1", ConfigurationName("kimi/1", FindPreset("correctness/1")->options));
}

}  // namespace
}  // namespace espalier::reward

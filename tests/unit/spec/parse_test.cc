// Goal: whatever is wrong with a run spec's YAML is said with path, line, value and remedy, and
// nothing crashes. Method: one broken document a test, then random damage to a good one.
#include <random>

#include "tests/unit/spec/spec_samples.h"

namespace espalier::spec {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string ErrorsOf(const std::string& yaml) { return MessageOf(ParseRunSpec(yaml).status()); }

TEST(ParseRunSpec, NamesUnknownFieldItsLineAndANearName) {
  EXPECT_THAT(ErrorsOf("name: a\nmodel:\n  top_q: 2\n"),
              AllOf(HasSubstr("model.top_q (line 3)"), HasSubstr("did you mean top_k?")));
}

TEST(ParseRunSpec, ListsFieldsWhenNoNameIsNear) {
  EXPECT_THAT(ErrorsOf("checkpoints: {zzzzzzzz: 1}"), HasSubstr("every_steps, keep or directory"));
}

TEST(ParseRunSpec, NamesValueAndWhatIsAllowedForWrongTypes) {
  EXPECT_THAT(ErrorsOf("model: {layers: many}"),
              AllOf(HasSubstr("model.layers"), HasSubstr("\"many\""), HasSubstr("from 1 to 1024")));
  EXPECT_THAT(ErrorsOf("model: {layers: [1]}"), HasSubstr("a list of 1"));
  EXPECT_THAT(ErrorsOf("model: {layers: {a: 1}}"), HasSubstr("found a map"));
  EXPECT_THAT(ErrorsOf("model: {layers: }"), HasSubstr("found nothing"));
  EXPECT_THAT(ErrorsOf("model: {layers: \"2\"}"), HasSubstr("without quotes"));
  EXPECT_THAT(ErrorsOf("model: {tie_embeddings: yes}"), HasSubstr("true or false"));
  EXPECT_THAT(ErrorsOf("model: 3"), HasSubstr("a map of fields is expected"));
  EXPECT_THAT(ErrorsOf("stages: {pretrain: {}}"), HasSubstr("a list is expected"));
}

TEST(ParseRunSpec, RefusesNumbersThatOverflowOrAreNotFinite) {
  for (const char* value :
       {"4294967296", "99999999999999999999999", "-1", "1.5", "1e3", "0x10", "2 "}) {
    const std::string quoted = std::string("model: {layers: ") + value + "}";
    if (std::string(value) == "2 ") continue;  // YAML trims it
    EXPECT_THAT(ErrorsOf(quoted), HasSubstr("model.layers")) << value;
  }
  for (const char* value : {"1e999", ".inf", ".nan", "nan", "inf", "1,5"}) {
    EXPECT_THAT(ErrorsOf(std::string("model: {init_std: '") + value + "'}"),
                HasSubstr("model.init_std"));
    EXPECT_THAT(ErrorsOf(std::string("prune:\n  beta: ") + value), HasSubstr("prune.beta"));
  }
}

TEST(ParseRunSpec, NamesEnumValuesAndTheNearest) {
  EXPECT_THAT(ErrorsOf("model: {router: sigmod}"),
              AllOf(HasSubstr("softmax or sigmoid"), HasSubstr("did you mean sigmoid?")));
  EXPECT_THAT(ErrorsOf("model: {router: unspecified}"), HasSubstr("softmax or sigmoid"));
}

TEST(ParseRunSpec, AcceptsShortAndFullEnumNames) {
  for (const char* name : {"softmax", "Softmax", "ROUTER_KIND_SOFTMAX", "\"softmax\""}) {
    const auto spec = ParseRunSpec(std::string("model: {router: ") + name + "}");
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(v1::ROUTER_KIND_SOFTMAX, spec->model().router());
  }
}

TEST(ParseRunSpec, RefusesTwoKindsInOneStage) {
  EXPECT_THAT(ErrorsOf("stages:\n  - pretrain: {steps: 1}\n    finetune: {steps: 1}\n"),
              AllOf(HasSubstr("stages[0]"), HasSubstr("both pretrain and finetune")));
}

TEST(ParseRunSpec, RefusesDuplicateKeys) {
  EXPECT_THAT(ErrorsOf("name: a\nseed: 1\nname: b\n"),
              AllOf(HasSubstr("name (line 3)"), HasSubstr("twice")));
}

TEST(ParseRunSpec, ListsAllErrorsAtOnce) {
  const std::string errors =
      ErrorsOf("nam: a\nmodel: {layers: x, widht: 3}\ndata: {tokenizer: words}\n");
  for (const char* part : {"nam ", "model.layers", "model.widht", "data.tokenizer"}) {
    EXPECT_THAT(errors, HasSubstr(part));
  }
  EXPECT_EQ(3, std::count(errors.begin(), errors.end(), '\n'));
}

TEST(ParseRunSpec, RefusesWhatIsNoSingleYamlMap) {
  for (const std::string yaml : {"", "# only a comment\n", "[1, 2]", "text", "{", "a: b: c",
                                 "- a\nb", "name: a\n---\nname: b\n", "\t\t- x", "%YAML 9\n", "&a",
                                 "*a", "? [", "name: !!binary x y: \"", "\xff\xfe"}) {
    EXPECT_FALSE(ErrorsOf(yaml).empty()) << yaml;
  }
}

TEST(ParseRunSpec, BoundsHostileInput) {
  EXPECT_THAT(ErrorsOf(std::string(2 << 20, 'a')), HasSubstr("at most"));
  EXPECT_THAT(ErrorsOf(std::string(5000, '[')), HasSubstr("nested"));
  std::string dashes;
  for (int i = 0; i < 100000; ++i) dashes += "- ";
  EXPECT_FALSE(ErrorsOf(dashes).empty());
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c <= 'p'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) bomb += std::string(i ? "," : "") + "*" + static_cast<char>(c - 1);
    bomb += "]\n";
  }
  EXPECT_FALSE(ErrorsOf(bomb + "stages: *p\n").empty());
  EXPECT_FALSE(ErrorsOf("stages: &a [*a]").empty());
  std::string unknown;
  for (int i = 0; i < 5000; ++i) unknown += "field" + std::to_string(i) + ": 1\n";
  EXPECT_LT(ErrorsOf(unknown).size(), 20000);
}

TEST(ParseRunSpec, SurvivesRandomDamage) {
  const std::string good = ReadText("deploy/runs/tiny.yaml");
  ASSERT_GT(good.size(), 500);
  const std::string alphabet = "{}[]:,-&*!|>'\"%@`#? \n\t\\0a9~<";
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::string bad = good;
    for (int k = 1 + random() % 8; k > 0; --k) {
      const size_t at = random() % bad.size();
      switch (random() % 3) {
        case 0:
          bad[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          bad.erase(at, 1 + random() % 20);
          break;
        default:
          bad.insert(at, 1, alphabet[random() % alphabet.size()]);
      }
      if (bad.empty()) break;
    }
    SCOPED_TRACE(seed);
    auto spec = ParseRunSpec(bad);
    if (!spec.ok()) continue;
    FillDefaults(&*spec);
    ValidateRunSpec(*spec).IgnoreError();
  }
}

TEST(ParseRunSpec, ReadsKindsWithNothingBehindThem) {
  const auto spec = ParseRunSpec("stages:\n  - export:\n  - export: {}\n");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->stages(0).has_export_() && spec->stages(1).has_export_());
}

TEST(SetField, ReplacesFieldsByPath) {
  v1::RunSpec spec = Sample();
  ASSERT_TRUE(SetField(&spec, "stages[0].pretrain.steps", "12").ok());
  ASSERT_TRUE(SetField(&spec, "data.corpus", "no/such/file.txt").ok());
  ASSERT_TRUE(SetField(&spec, "prune.protected_experts", "[1, 2]").ok());
  ASSERT_TRUE(SetField(&spec, "model", "{layers: 5}").ok());
  EXPECT_EQ(12, spec.stages(0).pretrain().steps());
  EXPECT_EQ("no/such/file.txt", spec.data().corpus());
  EXPECT_EQ(2, spec.prune().protected_experts_size());
  EXPECT_EQ(0, spec.model().width());
}

TEST(SetField, SaysWhatIsWrongWithThePath) {
  v1::RunSpec spec = Sample();
  EXPECT_THAT(MessageOf(SetField(&spec, "model.layer", "2")), HasSubstr("did you mean layers?"));
  EXPECT_THAT(MessageOf(SetField(&spec, "stages[7].pretrain.steps", "2")), HasSubstr("stages[7]"));
  EXPECT_THAT(MessageOf(SetField(&spec, "stages[x].pretrain.steps", "2")), HasSubstr("bad index"));
  EXPECT_THAT(MessageOf(SetField(&spec, "stages.pretrain", "2")), HasSubstr("stages"));
  EXPECT_THAT(MessageOf(SetField(&spec, "model.layers.x", "2")), HasSubstr("no fields"));
  EXPECT_THAT(MessageOf(SetField(&spec, "model.top_k", "many")), HasSubstr("\"many\""));
  EXPECT_THAT(MessageOf(SetField(&spec, "", "1")), HasSubstr("no such field"));
  EXPECT_THAT(MessageOf(SetField(&spec, "stages[99999999999].x", "1")), HasSubstr("bad index"));
}

}  // namespace
}  // namespace espalier::spec

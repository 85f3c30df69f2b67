// RunSpec on its way in: YAML or JSON to proto, limits and defaults from the field rules, errors with field paths.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/run_spec.pb.h"
#include "libs/model/config.h"
#include "libs/model/family.h"

namespace espalier::spec {

// Parses YAML (JSON is YAML). An unknown field, a wrong type or a bad enum name is InvalidArgument with the path
// ("stages[0].pretrain.steps"), the value found and what is allowed, and a near name when there is one; several errors are listed,
// one a line.
absl::StatusOr<v1::RunSpec> ParseRunSpec(const std::string& yaml);

// Replaces one field of `spec`: SetField(&spec, "stages[0].pretrain.steps", "12"). The value is YAML. InvalidArgument as ParseRunSpec.
absl::Status SetField(v1::RunSpec* spec, const std::string& path, const std::string& value);

// Fills every absent field from the preset of its reward, or from its rule's default, message fields included. Idempotent.
void FillDefaults(v1::RunSpec* spec);
void FillDefaults(v1::RewardSpec* spec);

// Checks every rule and what only holds between fields (width and heads, top_k and experts, export needs a sigmoid router…).
// InvalidArgument lists all that is wrong, one line a field: path, value, what is allowed. Call after FillDefaults.
absl::Status ValidateRunSpec(const v1::RunSpec& spec);

// The reference of all fields, for `espalier run fields` and the docs: path, type, default, limits, help.
struct FieldHelp {
  std::string path, type, default_value, limits, help;
};
std::vector<FieldHelp> DescribeFields();

std::string ToYaml(const v1::RunSpec& spec);

// Domain structs of a completed spec. `vocabulary` is the trained tokenizer's.
model::ModelConfig ToModelConfig(const v1::ModelSpec& spec, int vocabulary);
// Of a run with model.start_from: the checkpoint's, with aux_loss and init_std of the run. InvalidArgument names every field that is given and says
// something else than the checkpoint.
absl::StatusOr<model::ModelConfig> ConfigOfStart(const v1::ModelSpec& spec,
                                                 const model::ModelConfig& start);
model::ModelFamily ToFamily(v1::ExportFormat format);
const char* StageName(const v1::StageSpec& stage);
// Optimizer steps of the stage (0 for export).
uint64_t StageSteps(const v1::StageSpec& stage);

}  // namespace espalier::spec

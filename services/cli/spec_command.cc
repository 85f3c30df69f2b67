// run fields and run check: the reference of the run spec and its validation, without any service.
#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/spec/spec.h"
#include "nlohmann/json.hpp"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/render_table.h"
#include "services/cli/spec_input.h"

namespace espalier::cli {
namespace {

std::string FieldsJson(const std::vector<spec::FieldHelp>& fields) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const spec::FieldHelp& field : fields) {
    list.push_back({{"path", field.path},
                    {"type", field.type},
                    {"default", field.default_value},
                    {"limits", field.limits},
                    {"help", field.help}});
  }
  return nlohmann::ordered_json{{"fields", list}}.dump(2) + "\n";
}

absl::StatusOr<int> Check(const Context& context, const std::string& path,
                          const std::vector<std::string>& changes) {
  ASSIGN_OR_RETURN(v1::RunSpec spec, ReadSpec(path, changes));
  spec::FillDefaults(&spec);
  if (const absl::Status valid = spec::ValidateRunSpec(spec); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":\n", valid.message()));
  }
  context.Print(spec, [&] {
    return absl::StrCat("# ", path, " is valid. With every default filled in:\n",
                        spec::ToYaml(spec));
  });
  return kExitOk;
}

}  // namespace

absl::StatusOr<v1::RunSpec> ReadSpec(const std::string& path,
                                     const std::vector<std::string>& changes) {
  ASSIGN_OR_RETURN(const std::string text, ReadInput(path));
  absl::StatusOr<v1::RunSpec> spec = spec::ParseRunSpec(text);
  if (!spec.ok())
    return absl::InvalidArgumentError(absl::StrCat(path, ":\n", spec.status().message()));
  for (const std::string& change : changes) {
    const size_t equals = change.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--set ", change, " — write path=value, such as --set stages[0].pretrain.steps=100"));
    }
    RETURN_IF_ERROR(spec::SetField(&*spec, change.substr(0, equals), change.substr(equals + 1)));
  }
  return spec;
}

void AddSpecCommands(CLI::App& run, Context& context) {
  auto* fields =
      run.add_subcommand("fields", "Every field of a run spec: type, limits, default, meaning");
  fields->callback([&context] {
    context.action = [&context]() -> absl::StatusOr<int> {
      const auto all = spec::DescribeFields();
      Write(context.json ? FieldsJson(all) : RenderFields(all, context.style));
      return kExitOk;
    };
  });
  auto* check = run.add_subcommand("check", "Validate a run spec without starting anything");
  auto file = std::make_shared<std::string>();
  auto changes = std::make_shared<std::vector<std::string>>();
  check->add_option("file", *file, "Run spec in YAML or JSON; - reads standard input")->required();
  check->add_option("--set", *changes, "Replace a field: path=value")->allow_extra_args(false);
  check->callback([&context, file, changes] {
    context.action = [&context, file, changes] { return Check(context, *file, *changes); };
  });
}

}  // namespace espalier::cli

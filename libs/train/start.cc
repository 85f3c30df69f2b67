// Everything is checked before the first weight is read, so that a run that cannot begin ends at
// once.
#include "libs/train/start.h"

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/model/import.h"
#include "libs/spec/spec.h"
#include "libs/text/tokenizer.h"
#include "libs/train/data.h"
#include "libs/train/exchange.h"

namespace espalier::train {
namespace {

absl::StatusOr<Start> ReadHere(const RunState& state) {
  Start start{.directory = ResolvePath(state.options.data_root, state.spec.model().start_from())};
  ASSIGN_OR_RETURN(const model::ImportedModel imported, model::ReadImportedConfig(start.directory));
  ASSIGN_OR_RETURN(start.config, spec::ConfigOfStart(state.spec.model(), imported.config));
  ASSIGN_OR_RETURN(start.tokenizer_json, model::ReadImportedTokenizer(start.directory));
  const auto tokenizer = text::TokenizerFromJson(start.tokenizer_json);
  if (!tokenizer.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(start.directory, "/", tokenizer.status().message(),
                     ", and without it the corpus cannot be put into the model's tokens"));
  }
  if ((*tokenizer)->vocabulary() > start.config.vocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat(start.directory, "/tokenizer.json has ", (*tokenizer)->vocabulary(),
                     " tokens, more than the model's ", start.config.vocabulary));
  }
  return start;
}

}  // namespace

absl::StatusOr<Start> ReadStart(RunState& state) {
  absl::StatusOr<Start> start = ReadHere(state);
  absl::Status status = start.status();
  if (!status.ok()) {
    status = absl::Status(status.code(), absl::StrCat("model.start_from: ", status.message()));
  }
  RETURN_IF_ERROR(AgreeStatus(state.communicator, status));
  return start;
}

}  // namespace espalier::train

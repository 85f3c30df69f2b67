// Tensors of a rank's file: dense parameters and selection biases on rank 0, the rank's own
// experts, moments beside each.
#include "libs/model/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint_io.h"
#include "libs/model/checkpoint_manifest.h"
#include "libs/model/host_parameters.h"
#include "libs/model/safetensors.h"

namespace espalier::model {
namespace {

constexpr char kMoment1[] = ".moment1", kMoment2[] = ".moment2";

std::string BiasName(int layer) {
  return absl::StrCat("model.layers.", layer, ".mlp.gate.e_score_correction_bias");
}

// What goes into one file: infos[i] describes data[i].
struct TensorList {
  std::vector<TensorInfo> infos;
  std::vector<std::span<const float>> data;

  void Add(std::string name, std::vector<int64_t> shape, std::span<const float> values) {
    infos.push_back({std::move(name), TensorType::kF32, std::move(shape)});
    data.push_back(values);
  }
};

TensorList TensorsOfRank(Model<float>& model) {
  TensorList list;
  const bool root = model.communicator().rank() == 0;
  for (const Parameter<float>* parameter : model.parameters()) {
    if (!parameter->expert && !root) continue;
    list.Add(parameter->name, parameter->shape, parameter->value);
    if (parameter->moment1.empty()) continue;
    list.Add(parameter->name + kMoment1, parameter->shape, parameter->moment1);
    list.Add(parameter->name + kMoment2, parameter->shape, parameter->moment2);
  }
  for (int layer = 0; root && layer < model.config().layers; ++layer) {
    if (!model.config().IsMoe(layer)) continue;
    const std::vector<float>& bias = model.selection_bias(layer);
    list.Add(BiasName(layer), {static_cast<int64_t>(bias.size())}, bias);
  }
  return list;
}

absl::StatusOr<FileDigest> WriteTensors(const TensorList& list, const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                   SafetensorsWriter::Create(path, list.infos, {{"format", "pt"}}));
  for (const std::span<const float> values : list.data) RETURN_IF_ERROR(writer->Append(values));
  return writer->Finish();
}

// Each rank's digest of its file, by rank. (collective)
absl::StatusOr<std::vector<FileDigest>> GatherDigests(collective::Communicator& communicator,
                                                      const FileDigest& mine) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   GatherStrings(communicator, absl::StrCat(mine.bytes, " ", mine.sha256)));
  std::vector<FileDigest> files;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    FileDigest file{.name = RankFileName(static_cast<int>(rank), communicator.size())};
    char sha256[65] = {};
    unsigned long long bytes = 0;
    if (std::sscanf(all[rank].c_str(), "%llu %64s", &bytes, sha256) != 2) {
      return absl::InternalError(absl::StrCat("rank ", rank, " sent no digest of its file"));
    }
    file.bytes = bytes;
    file.sha256 = sha256;
    files.push_back(std::move(file));
  }
  return files;
}

absl::Status CheckState(const Model<float>& model, const CheckpointState& state) {
  if (!SameFunction(model.config(), state.config) || !(model.layout() == state.layout)) {
    return absl::FailedPreconditionError(
        "the state to be written describes another model: its configuration or layout differs");
  }
  return absl::OkStatus();
}

// The files of a checkpoint, each verified before anything of it is used.
class CheckpointFiles {
 public:
  CheckpointFiles(std::string path, const Manifest& manifest)
      : path_(std::move(path)), manifest_(manifest) {}

  // Verifies and opens on first use.
  absl::StatusOr<SafetensorsReader*> OfRank(int rank) {
    std::unique_ptr<SafetensorsReader>& reader = readers_[rank];
    if (reader == nullptr) {
      const FileDigest& file = manifest_.files[rank];
      const absl::Status intact = VerifyFile(path_, file);
      if (absl::IsNotFound(intact)) {
        return absl::DataLossError(absl::StrCat(intact.message(), "; use an older checkpoint"));
      }
      RETURN_IF_ERROR(intact);
      ASSIGN_OR_RETURN(reader, SafetensorsReader::Open(path_ + "/" + file.name));
    }
    return reader.get();
  }

 private:
  const std::string path_;
  const Manifest& manifest_;
  std::map<int, std::unique_ptr<SafetensorsReader>> readers_;
};

// Rank that wrote a parameter.
absl::StatusOr<int> WriterOf(const Parameter<float>& parameter, const ExpertLayout& layout) {
  if (!parameter.expert) return 0;
  int layer = -1, id = -1;
  if (std::sscanf(parameter.name.c_str(), "model.layers.%d.mlp.experts.%d.", &layer, &id) != 2 ||
      layer < 0 || layer >= static_cast<int>(layout.layers.size())) {
    return absl::InternalError(absl::StrCat("not the name of an expert: ", parameter.name));
  }
  const LayerLayout& one = layout.layers[layer];
  const auto found = std::lower_bound(one.ids.begin(), one.ids.end(), id);
  if (found == one.ids.end() || *found != id) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint has no expert ", id, " in layer ", layer));
  }
  return one.ranks[found - one.ids.begin()];
}

absl::Status ReadParameter(const SafetensorsReader& file, Parameter<float>& parameter) {
  RETURN_IF_ERROR(file.Read(parameter.name, parameter.shape, parameter.value));
  if (!file.Contains(parameter.name + kMoment1)) {
    parameter.moment1.clear();
    parameter.moment2.clear();
    return absl::OkStatus();
  }
  parameter.moment1.resize(parameter.value.size());
  parameter.moment2.resize(parameter.value.size());
  RETURN_IF_ERROR(file.Read(parameter.name + kMoment1, parameter.shape, parameter.moment1));
  return file.Read(parameter.name + kMoment2, parameter.shape, parameter.moment2);
}

absl::Status CheckFits(const Model<float>& model, const CheckpointState& state,
                       const std::string& path) {
  if (!SameFunction(model.config(), state.config)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " was written by a model of another configuration"));
  }
  for (size_t layer = 0; layer < state.layout.layers.size(); ++layer) {
    if (state.layout.layers[layer].ids == model.layout().layers[layer].ids) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(path, " has other experts alive in layer ", layer,
                     " than the model; create the model with the checkpoint's layout"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteCheckpoint(Model<float>& model, const CheckpointState& state,
                             const std::string& path) {
  collective::Communicator& communicator = model.communicator();
  RETURN_IF_ERROR(AgreeOnStatus(communicator, CheckState(model, state)));
  ASSIGN_OR_RETURN(const std::unique_ptr<FolderWriter> folder,
                   FolderWriter::Begin(communicator, path, FolderWriter::Existing::kRefuse));
  const HostParameters host(model);
  const auto write = [&]() -> absl::StatusOr<FileDigest> {
    RETURN_IF_ERROR(host.status());
    return WriteTensors(TensorsOfRank(model),
                        folder->File(RankFileName(communicator.rank(), communicator.size())));
  };
  const absl::StatusOr<FileDigest> mine = write();
  RETURN_IF_ERROR(AgreeOnStatus(communicator, mine.status()));
  ASSIGN_OR_RETURN(std::vector<FileDigest> files, GatherDigests(communicator, *mine));
  absl::Status written = absl::OkStatus();
  if (communicator.rank() == 0) {
    const absl::StatusOr<std::string> text = PrintManifest({state, std::move(files)});
    written = text.ok() ? WriteSyncedFile(folder->File(kManifestName), *text) : text.status();
  }
  return folder->Commit(written);
}

absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& path) {
  ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(path));
  for (const FileDigest& file : manifest.files) {
    const std::string name = path + "/" + file.name;
    struct stat status;
    if (stat(name.c_str(), &status) != 0) {
      return absl::DataLossError(absl::StrCat(SystemError("cannot find", name, errno).message(),
                                              "; use an older checkpoint"));
    }
    if (static_cast<uint64_t>(status.st_size) != file.bytes) {
      return absl::DataLossError(absl::StrCat(name, " has ", status.st_size,
                                              " bytes, the manifest says ", file.bytes,
                                              "; use an older checkpoint"));
    }
  }
  return std::move(manifest.state);
}

absl::Status LoadCheckpoint(Model<float>& model, const std::string& path) {
  ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(path));
  const CheckpointState& state = manifest.state;
  RETURN_IF_ERROR(CheckFits(model, state, path));
  CheckpointFiles files(path, manifest);
  const HostParameters host(model);
  RETURN_IF_ERROR(host.status());
  const std::vector<Parameter<float>*> parameters = model.parameters();
  // All files are verified before the model changes.
  std::vector<const SafetensorsReader*> sources;
  for (const Parameter<float>* parameter : parameters) {
    ASSIGN_OR_RETURN(const int writer, WriterOf(*parameter, state.layout));
    ASSIGN_OR_RETURN(const SafetensorsReader* source, files.OfRank(writer));
    sources.push_back(source);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    RETURN_IF_ERROR(ReadParameter(*sources[i], *parameters[i]));
  }
  ASSIGN_OR_RETURN(const SafetensorsReader* dense, files.OfRank(0));
  for (int layer = 0; layer < model.config().layers; ++layer) {
    if (!model.config().IsMoe(layer)) continue;
    std::vector<float>& bias = model.selection_bias(layer);
    RETURN_IF_ERROR(dense->Read(BiasName(layer), {static_cast<int64_t>(bias.size())}, bias));
  }
  return model.StoreParameters();
}

}  // namespace espalier::model

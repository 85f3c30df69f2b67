// hf_check: imports a checkpoint in a Hugging Face layout, says what the model computes, trains it
// a few steps, prunes it and exports it. tests/gpu/transformers_check.py compares each of these
// with transformers; tests/unit/model/import_test.cc with plain numpy.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <numeric>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"
#include "libs/model/export.h"
#include "libs/model/import.h"
#include "libs/text/tokenizer.h"
#include "libs/train/optimizer.h"
#include "nlohmann/json.hpp"

namespace espalier {
namespace {

using nlohmann::json;
using Sequences = std::vector<std::vector<int32_t>>;

struct Options {
  std::string model, tokens, out, device = "cpu", export_to, format;
  int steps = 0, drop = 0, threads = 2;
  double learning_rate = 1e-3;
  v1::OptimizerSpec optimizer;
};

model::Batch MakeBatch(const Sequences& sequences) {
  model::Batch batch{.starts = {0}};
  for (const std::vector<int32_t>& sequence : sequences) {
    for (size_t i = 0; i < sequence.size(); ++i) {
      batch.tokens.push_back(sequence[i]);
      batch.targets.push_back(i + 1 < sequence.size() ? sequence[i + 1] : -1);
    }
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
  }
  return batch;
}

// Log-probabilities of the whole vocabulary behind every token: one pass for each token of the
// vocabulary as everyone's target.
absl::StatusOr<json> AllLogps(model::Model<float>& model, const Sequences& sequences) {
  model::Batch batch = MakeBatch(sequences);
  const int vocabulary = model.config().vocabulary;
  json rows = json::array();
  std::vector<std::vector<float>> all(batch.tokens.size(), std::vector<float>(vocabulary));
  std::vector<float> logps;
  for (int32_t token = 0; token < vocabulary; ++token) {
    std::fill(batch.targets.begin(), batch.targets.end(), token);
    RETURN_IF_ERROR(model.Forward(batch, &logps, nullptr));
    for (size_t i = 0; i < logps.size(); ++i) all[i][token] = logps[i];
  }
  for (const std::vector<float>& row : all) rows.push_back(row);
  return rows;
}

// Mean cross-entropy of the batch before its update.
absl::StatusOr<double> TrainStep(model::Model<float>& model, train::Optimizer& optimizer,
                                 const Sequences& sequences, const Options& options, int step) {
  const model::Batch batch = MakeBatch(sequences);
  const auto targets = std::count_if(batch.targets.begin(), batch.targets.end(),
                                     [](int32_t target) { return target >= 0; });
  double loss = 0;
  model.ZeroGradients();
  RETURN_IF_ERROR(model.ForwardBackward(
      batch,
      [&](std::span<const float> logps, std::span<float> dlogps) {
        for (size_t i = 0; i < logps.size(); ++i) {
          if (batch.targets[i] < 0) continue;
          loss -= logps[i] / static_cast<double>(targets);
          dlogps[i] = -1.0f / static_cast<float>(targets);
        }
      },
      1.0f));
  RETURN_IF_ERROR(optimizer.ReduceDense());
  RETURN_IF_ERROR(optimizer.MeasureNorms().status());
  RETURN_IF_ERROR(optimizer.Apply(options.optimizer, options.learning_rate, step, 1.0));
  return loss;
}

// Drops, in every MoE layer, the `drop` experts that the sequences are routed to least.
absl::Status Prune(model::Model<float>& model, const Sequences& sequences, int drop) {
  std::vector<float> logps;
  RETURN_IF_ERROR(model.Forward(MakeBatch(sequences), &logps, nullptr));
  model::ExpertLayout layout = model.layout();
  for (size_t l = 0; l < layout.layers.size(); ++l) {
    model::LayerLayout& layer = layout.layers[l];
    if (layer.ids.empty()) continue;
    const model::LayerRouteCounts& counts = model.route_counts()[l];
    std::vector<int> order(layer.ids.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return counts[a] < counts[b]; });
    order.resize(std::min<size_t>(drop, order.size()));
    std::sort(order.begin(), order.end(), std::greater<int>());
    for (const int place : order) {
      layer.ids.erase(layer.ids.begin() + place);
      layer.ranks.erase(layer.ranks.begin() + place);
      layer.masked.erase(layer.masked.begin() + place);
    }
  }
  return model.ApplyLayout(layout).status();
}

absl::StatusOr<json> ReadTokens(const std::string& path) {
  std::ifstream file(path);
  json value = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object() || !value.contains("sequences")) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, R"(: expected {"sequences": [[ids…], …], "batches": [[[ids…], …], …]})"));
  }
  return value;
}

absl::StatusOr<json> Run(const Options& options) {
  ASSIGN_OR_RETURN(const json tokens, ReadTokens(options.tokens));
  const auto sequences = tokens["sequences"].get<Sequences>();
  const auto batches = tokens.value("batches", std::vector<Sequences>());
  if (static_cast<size_t>(options.steps) > batches.size()) {
    return absl::InvalidArgumentError(absl::StrCat("--steps is ", options.steps, ", but ",
                                                   options.tokens, " has ", batches.size(),
                                                   " batches"));
  }
  ASSIGN_OR_RETURN(const model::ImportedModel imported, model::ReadImportedConfig(options.model));
  const auto communicator = collective::MakeSingleCommunicator();
  ASSIGN_OR_RETURN(
      const std::unique_ptr<model::Model<float>> model,
      model::CreateModel(
          imported.config, model::InitialLayout(imported.config, 1), communicator.get(), 1,
          {.device = options.device == "cuda" ? model::Device::kCuda : model::Device::kCpu,
           .threads = options.threads}));
  RETURN_IF_ERROR(model::ImportWeights(*model, options.model));
  json result = {{"family", model::FamilyName(imported.family)}, {"losses", json::array()}};
  ASSIGN_OR_RETURN(result["logps"], AllLogps(*model, sequences));
  train::Optimizer optimizer(*model);
  for (int step = 1; step <= options.steps; ++step) {
    ASSIGN_OR_RETURN(const double loss,
                     TrainStep(*model, optimizer, batches[step - 1], options, step));
    result["losses"].push_back(loss);
  }
  if (options.drop > 0) RETURN_IF_ERROR(Prune(*model, sequences, options.drop));
  ASSIGN_OR_RETURN(result["final_logps"], AllLogps(*model, sequences));
  json experts = json::array();
  for (const model::LayerLayout& layer : model->layout().layers) experts.push_back(layer.ids);
  result["experts"] = experts;
  if (!options.export_to.empty()) {
    const auto family =
        options.format.empty() ? std::optional(imported.family) : model::FamilyOf(options.format);
    if (!family) return absl::InvalidArgumentError("--format is no family: " + options.format);
    RETURN_IF_ERROR(
        model::ExportHuggingFace(*model, *text::MakeByteTokenizer(), options.export_to, *family));
  }
  return result;
}

int Main(int argc, char** argv) {
  CLI::App app("Imports, evaluates, trains, prunes and exports a Hugging Face checkpoint");
  Options options;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  app.add_option("--model", options.model, "Checkpoint to import")->required();
  app.add_option("--tokens", options.tokens, "JSON of sequences and batches")->required();
  app.add_option("--out", options.out, "JSON to write")->required();
  app.add_option("--device", options.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads")->capture_default_str();
  app.add_option("--steps", options.steps, "AdamW steps, one of the batches each")
      ->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "")->capture_default_str();
  app.add_option("--beta1", beta1, "")->capture_default_str();
  app.add_option("--beta2", beta2, "")->capture_default_str();
  app.add_option("--epsilon", epsilon, "")->capture_default_str();
  app.add_option("--weight-decay", weight_decay, "Of matrices")->capture_default_str();
  app.add_option("--drop", options.drop, "Experts to prune in each layer, those used least")
      ->capture_default_str();
  app.add_option("--export", options.export_to, "Folder to export to");
  app.add_option("--format", options.format,
                 "Family of the export; that of the import when absent");
  CLI11_PARSE(app, argc, argv);
  options.optimizer.set_beta1(beta1);
  options.optimizer.set_beta2(beta2);
  options.optimizer.set_epsilon(epsilon);
  options.optimizer.set_weight_decay(weight_decay);
  const absl::StatusOr<json> result = Run(options);
  if (!result.ok()) {
    std::cerr << "hf_check: " << result.status().message() << "\n";
    return 1;
  }
  std::ofstream(options.out) << result->dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }

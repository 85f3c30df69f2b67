// The step is the trainer's own: model, optimizer, norms and clipping; only data and reports are left out.
#include "services/bench/train_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"
#include "libs/observe/energy.h"
#include "libs/train/optimizer.h"

namespace espalier::bench {
namespace {

using Json = nlohmann::ordered_json;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

model::Batch DrawBatch(const TrainBenchOptions& options, int rank, int variant) {
  const Geometry& geometry = options.geometry;
  std::mt19937_64 random(options.seed * 1000003 + rank * 101 + variant);
  model::Batch batch{.starts = {0}};
  for (int i = 0; i < geometry.batch; ++i) {
    for (int at = 0; at < geometry.sequence; ++at) {
      batch.tokens.push_back(static_cast<int32_t>(random() % geometry.config.vocabulary));
      batch.targets.push_back(static_cast<int32_t>(random() % geometry.config.vocabulary));
    }
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
  }
  batch.routes = DrawRoutes(options.routing, geometry.config, geometry.tokens(),
                            options.seed + variant * 7919 + (rank + 1) * 104729);
  return batch;
}

v1::OptimizerSpec OptimizerSpec() {
  v1::OptimizerSpec spec;
  spec.set_beta1(0.9);
  spec.set_beta2(0.95);
  spec.set_epsilon(1e-8);
  spec.set_weight_decay(0.1);
  return spec;
}

// What a prune between two steps costs, and what the steps after it take.
struct PruneResult {
  int experts_removed = 0;
  double seconds = 0, next_step_seconds = 0, step_seconds = 0;
  int64_t parameters = 0, device_bytes = 0;
};

// The layout without the experts of each layer that have the least load.
model::ExpertLayout Pruned(const model::ExpertLayout& layout, const std::vector<model::LayerRouteCounts>& loads,
                           double share, int keep_min) {
  model::ExpertLayout pruned = layout;
  for (size_t l = 0; l < layout.layers.size(); ++l) {
    const model::LayerLayout& before = layout.layers[l];
    const int count = static_cast<int>(before.ids.size());
    const int gone = std::max(0, std::min(static_cast<int>(count * share), count - keep_min));
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return loads[l][a] < loads[l][b]; });
    std::vector<int> kept(order.begin() + gone, order.end());
    std::sort(kept.begin(), kept.end());
    pruned.layers[l] = {};
    for (const int place : kept) {
      pruned.layers[l].ids.push_back(before.ids[place]);
      pruned.layers[l].ranks.push_back(before.ranks[place]);
      pruned.layers[l].masked.push_back(before.masked[place]);
    }
  }
  return pruned;
}

struct RankResult {
  std::vector<double> step_seconds;
  model::PhaseSeconds phases;
  double first_loss = 0, last_loss = 0;
  int64_t parameters = 0, device_bytes = 0;
  PruneResult prune;
  double busiest = 0;  // load of the busiest expert over the mean, of the last step
};

absl::StatusOr<RankResult> RunRank(const TrainBenchOptions& options, int rank,
                                   collective::Communicator& communicator,
                                   const std::function<void()>& at_start,
                                   const std::function<void()>& at_end) {
  model::ModelOptions model_options = options.model;
  model_options.device_index += rank;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<model::Model<float>> model,
      model::CreateModel(options.geometry.config,
                         model::InitialLayout(options.geometry.config, communicator.size()),
                         &communicator, options.seed, model_options));
  model->MeasureOutputNorms(options.output_norms);
  train::Optimizer optimizer(*model);
  constexpr int kBatches = 4;  // rotating, so that nothing is found in a cache that a run would not find there
  std::vector<model::Batch> batches;
  for (int i = 0; i < kBatches; ++i) batches.push_back(DrawBatch(options, rank, i));
  const double targets = static_cast<double>(options.geometry.tokens()) * communicator.size();

  const std::vector<float> slopes(options.geometry.tokens(), static_cast<float>(-1.0 / targets));
  std::vector<float> logps;

  RankResult result;
  result.parameters = model->TotalParameters();
  const v1::OptimizerSpec spec = OptimizerSpec();
  uint64_t updates = 0;
  const auto run_step = [&]() -> absl::StatusOr<double> {
    double loss = 0;
    model->ZeroGradients();
    RETURN_IF_ERROR(model->ForwardBackwardLinear(batches[updates % kBatches], slopes,
                                                 static_cast<float>(1.0 / communicator.size()), &logps));
    for (const float logp : logps) loss -= logp / targets;
    RETURN_IF_ERROR(optimizer.ReduceDense());
    ASSIGN_OR_RETURN(const train::Optimizer::SquaredNorms norms, optimizer.MeasureNorms());
    double expert_norm = norms.experts;
    RETURN_IF_ERROR(communicator.AllReduceSum(std::span<double>(&expert_norm, 1)));
    if (!std::isfinite(norms.dense + expert_norm) || !std::isfinite(loss)) {
      return absl::InternalError(absl::StrCat("loss or gradient of step ", updates, " is not finite"));
    }
    RETURN_IF_ERROR(optimizer.Apply(
        spec, 1e-4, ++updates,
        train::ClipScale(std::sqrt(norms.dense + expert_norm), options.clip_norm)));
    return loss;
  };
  // The device may still be updating weights when a step returns: only whole stretches from wait to wait count.
  const auto wait = [&]() -> absl::Status {
    double dense = 0, experts = 0;
    if (model->device_updates() == nullptr) return absl::OkStatus();
    return model->device_updates()->SquaredNorms(&dense, &experts);
  };
  double last_end = 0;
  for (int step = 0; step < options.warmup + options.steps; ++step) {
    if (step == options.warmup) {
      RETURN_IF_ERROR(wait());
      model->phase_seconds() = {};
      at_start();
      last_end = Now();
    }
    ASSIGN_OR_RETURN(const double loss, run_step());
    if (step == 0) result.first_loss = loss;
    result.last_loss = loss;
    if (step < options.warmup) continue;
    const double end = Now();
    result.step_seconds.push_back(end - last_end);
    last_end = end;
  }
  RETURN_IF_ERROR(wait());
  at_end();
  result.phases = model->phase_seconds();
  result.device_bytes = model->device_bytes();
  int64_t most = 0, sum = 0, count = 0;
  for (const auto& layer : model->route_counts()) {
    for (const int64_t tokens : layer) {
      most = std::max(most, tokens);
      sum += tokens;
      ++count;
    }
  }
  result.busiest = sum > 0 ? static_cast<double>(most) * count / sum : 0;
  if (options.prune_share > 0) {
    const model::ExpertLayout layout =
        Pruned(model->layout(), model->route_counts(), options.prune_share, options.geometry.config.top_k);
    for (size_t l = 0; l < layout.layers.size(); ++l) {
      result.prune.experts_removed += static_cast<int>(model->layout().layers[l].ids.size() - layout.layers[l].ids.size());
    }
    const double before = Now();
    RETURN_IF_ERROR(model->ApplyLayout(layout).status());
    optimizer.ParametersChanged();
    RETURN_IF_ERROR(wait());
    result.prune.seconds = Now() - before;
    result.prune.parameters = model->TotalParameters();
    // Memory is given back beside these.
    const double applied = Now();
    for (int step = 0; step < 3; ++step) RETURN_IF_ERROR(run_step().status());
    RETURN_IF_ERROR(wait());
    result.prune.next_step_seconds = (Now() - applied) / 3;
    result.prune.device_bytes = model->device_bytes();
    const double start = Now();
    for (int step = 0; step < options.steps; ++step) RETURN_IF_ERROR(run_step().status());
    RETURN_IF_ERROR(wait());
    result.prune.step_seconds = (Now() - start) / options.steps;
  }
  return result;
}

}  // namespace

absl::StatusOr<Json> RunTrainBench(const TrainBenchOptions& options) {
  observe::EnergyMeter meter(observe::FindEnergyCounters({}));
  std::vector<std::unique_ptr<collective::Communicator>> communicators;
  if (options.ranks == 1) {
    communicators.push_back(collective::MakeSingleCommunicator());
  } else {
    communicators = collective::MakeInProcessCommunicators(options.ranks);
  }
  std::vector<absl::StatusOr<RankResult>> results(options.ranks, absl::UnknownError("did not run"));
  std::map<std::string, double> energy_before, energy_after;
  double start = 0, end = 0;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      results[rank] = RunRank(
          options, rank, *communicators[rank],
          [&] {
            if (rank != 0) return;
            energy_before = meter.Read();
            start = Now();
          },
          [&] {
            if (rank != 0) return;
            end = Now();
            energy_after = meter.Read();
          });
      if (!results[rank].ok()) communicators[rank]->Abort(results[rank].status());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) RETURN_IF_ERROR(result.status());

  const RankResult& root = *results[0];
  const double step = (end - start) / options.steps;
  const double tokens = static_cast<double>(options.geometry.tokens()) * options.ranks;
  const double flops = FlopsPerToken(options.geometry) * tokens / step / options.ranks;
  Json json;
  json["geometry"] = options.geometry.name;
  json["ranks"] = options.ranks;
  json["device"] = options.model.device == model::Device::kCuda ? "cuda" : "cpu";
  json["precision"] = options.model.precision == model::Precision::kBf16 ? "bf16" : "fp32";
  json["qk_norm"] = options.geometry.config.qk_norm != model::QkNorm::kNone;
  json["recompute"] = options.model.recompute;
  json["parameters"] = root.parameters;
  json["active_parameters"] = ActiveParameters(options.geometry);
  json["tokens_per_step"] = tokens;
  json["steps"] = options.steps;
  json["tokens_per_second"] = tokens / step;
  json["tflops_per_device"] = flops * 1e-12;
  json["mfu"] = flops / options.peak_flops;
  json["step_seconds"] = step;
  json["step_seconds_median_host"] = Median(root.step_seconds);
  const double steps = options.steps;
  json["phases_seconds"] = {{"attention", root.phases.attention / steps},
                            {"router", root.phases.router / steps},
                            {"dispatch", root.phases.dispatch / steps},
                            {"experts", root.phases.experts / steps},
                            {"combine", root.phases.combine / steps},
                            {"head", root.phases.head / steps},
                            {"norms_and_update", std::max(0.0, step - (root.phases.attention + root.phases.router +
                                                                       root.phases.dispatch + root.phases.experts +
                                                                       root.phases.combine + root.phases.head) /
                                                                          steps)}};
  // Several ranks of one process on one machine exchange rows within dispatch and combine, with nothing beside it.
  json["exposed_communication_seconds"] =
      options.ranks == 1 ? 0.0 : (root.phases.dispatch + root.phases.combine) / steps;
  // Of that, and of the reduction of dense gradients: how long rank 0's stream stood still for its peers' flags. 0 through the host.
  json["peer_wait_seconds"] = root.phases.exposed / steps;
  json["device_bytes"] = root.device_bytes;
  json["busiest_expert_over_mean"] = root.busiest;
  json["loss_first"] = root.first_loss;
  json["loss_last"] = root.last_loss;
  if (options.prune_share > 0) {
    json["prune"] = {{"experts_removed", root.prune.experts_removed},
                     {"seconds", root.prune.seconds},
                     {"in_steps", root.prune.seconds / step},
                    {"next_step_seconds", root.prune.next_step_seconds},
                     {"parameters", root.prune.parameters},
                     {"device_bytes", root.prune.device_bytes},
                     {"tokens_per_second", tokens / root.prune.step_seconds}};
  }
  Json energy = Json::object();
  double joules = 0;
  for (const auto& [source, value] : energy_after) {
    energy[source] = value - energy_before[source];
    joules += value - energy_before[source];
  }
  if (meter.known()) {
    json["joules"] = energy;
    json["joules_per_token"] = joules / (tokens * options.steps);
  } else {
    json["joules_per_token"] = nullptr;  // no counter can be read here
  }
  return json;
}

}  // namespace espalier::bench

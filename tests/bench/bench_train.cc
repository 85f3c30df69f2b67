// The trainer's step on one rank: tokens/s, GFLOP/s and the share of the machine's sgemm rate,
// measured in the same run.
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "espalier/v1/run_spec.pb.h"
#include "kernels/matmul.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"
#include "libs/model/checkpoint.h"
#include "libs/model/model.h"
#include "libs/model/random.h"
#include "libs/model/safetensors.h"
#include "libs/observe/log.h"
#include "libs/train/optimizer.h"
#include "nlohmann/json.hpp"

namespace espalier {
namespace {

using nlohmann::json;

struct Options {
  model::ModelConfig config{.vocabulary = 4096,
                            .layers = 8,
                            .width = 512,
                            .heads = 8,
                            .kv_heads = 4,
                            .head_dim = 64,
                            .experts = 8,
                            .top_k = 2,
                            .expert_width = 512};
  int sequence = 256;
  int batch = 8;
  int threads = 2;
  int steps = 10;
  int warmup = 2;
  uint64_t seed = 1;
  double learning_rate = 1e-3;
  double clip_norm = 1.0;
  bool output_norms = false;
  std::string save;
  bool as_json = false;

  int64_t tokens() const { return int64_t{batch} * sequence; }
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Spread {
  double min = 0, median = 0, max = 0;
};

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2], values.back()};
}

// --- Operations that a token must cost ---

// FLOP = 3 x (2 x active product parameters + causal attention): forward once, backward twice.
// Products: projections, router, chosen and shared experts, output head (the embedding is a
// lookup). Attention: q k^T and p v over (sequence + 1) / 2 positions on average.
double FlopsPerToken(const Options& options) {
  const model::ModelConfig& c = options.config;
  const double width = c.width, q_width = double(c.heads) * c.head_dim,
               kv_width = double(c.kv_heads) * c.head_dim;
  double products = width * c.vocabulary, attention = 0;
  for (int layer = 0; layer < c.layers; ++layer) {
    products += 2 * width * q_width + 2 * width * kv_width;
    attention += 2 * 2 * q_width * (options.sequence + 1) / 2.0;
    products += c.IsMoe(layer)
                    ? width * c.experts +
                          3 * width * (double(c.top_k) * c.expert_width + c.shared_expert_width)
                    : 3 * width * c.dense_width;
  }
  return 3 * (2 * products + attention);
}

// --- The machine's rate ---

// Best GFLOP/s of square products, by the BLAS's own threads and by ours, whichever is faster.
double SgemmGflops(base::ThreadPool& pool) {
  constexpr int kSize = 2048, kRepetitions = 4;
  std::vector<float> a(size_t{kSize} * kSize), b(a.size()), c(a.size());
  const model::CounterRandom random(3, "sgemm");
  random.FillNormal(a.data(), static_cast<int64_t>(a.size()), 1.0);
  random.FillNormal(b.data(), static_cast<int64_t>(b.size()), 1.0);
  double best_seconds = 1e30;
  for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
    double start = Now();
    kernels::Matmul(kernels::MatmulArgs<float>{.product = kernels::Product::kNT,
                                               .a = a.data(),
                                               .b = b.data(),
                                               .c = c.data(),
                                               .m = kSize,
                                               .n = kSize,
                                               .k = kSize},
                    pool);
    const double ours = Now() - start;
    openblas_set_num_threads(pool.threads());
    start = Now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kSize, kSize, kSize, 1.0f, a.data(),
                kSize, b.data(), kSize, 0.0f, c.data(), kSize);
    const double theirs = Now() - start;
    openblas_set_num_threads(1);
    if (repetition > 0) best_seconds = std::min({best_seconds, ours, theirs});
  }
  return 2.0 * kSize * kSize * kSize / best_seconds * 1e-9;
}

// --- Steps ---

// Tokens of step `step`: every sequence is drawn one longer, so that each position has a target.
// Skewed like text.
model::Batch MakeBatch(const Options& options, int step) {
  model::Batch batch{.starts = {0}};
  const model::CounterRandom random(options.seed, "tokens." + std::to_string(step));
  uint64_t next = 0;
  for (int i = 0; i < options.batch; ++i) {
    int32_t previous = -1;
    for (int position = 0; position <= options.sequence; ++position) {
      const double u = random.Uniform(next++);
      const int32_t token =
          std::min(static_cast<int32_t>(std::pow(u, 3.0) * options.config.vocabulary),
                   options.config.vocabulary - 1);
      if (previous >= 0) {
        batch.tokens.push_back(previous);
        batch.targets.push_back(token);
      }
      previous = token;
    }
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
  }
  return batch;
}

v1::OptimizerSpec MakeOptimizerSpec() {
  v1::OptimizerSpec spec;
  spec.set_beta1(0.9);
  spec.set_beta2(0.95);
  spec.set_epsilon(1e-8);
  spec.set_weight_decay(0.1);
  return spec;
}

class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Create(const Options& options) {
    auto bench = std::unique_ptr<Bench>(new Bench(options));
    bench->communicator_ = collective::MakeSingleCommunicator();
    ASSIGN_OR_RETURN(bench->model_, model::Model<float>::Create(
                                        options.config, model::InitialLayout(options.config, 1),
                                        bench->communicator_.get(), options.seed, options.threads));
    bench->model_->MeasureOutputNorms(options.output_norms);
    bench->optimizer_ = std::make_unique<train::Optimizer>(*bench->model_);
    return bench;
  }

  model::Model<float>& model() { return *model_; }

  // One update; returns the mean loss before it.
  absl::StatusOr<double> Step(int step) {
    const model::Batch batch = MakeBatch(options_, step);
    const double scale = 1.0 / static_cast<double>(options_.tokens());
    double loss = 0;
    const double start = Now();
    model_->ZeroGradients();
    RETURN_IF_ERROR(model_->ForwardBackward(
        batch,
        [&](std::span<const float> logps, std::span<float> dlogps) {
          for (size_t i = 0; i < logps.size(); ++i) {
            loss -= logps[i] * scale;
            dlogps[i] = static_cast<float>(-scale);
          }
        },
        1.0f));
    const double computed = Now();
    RETURN_IF_ERROR(optimizer_->ReduceDense());
    ASSIGN_OR_RETURN(const train::Optimizer::SquaredNorms norms, optimizer_->MeasureNorms());
    RETURN_IF_ERROR(
        optimizer_->Apply(spec_, options_.learning_rate, ++updates_,
                          train::ClipScale(std::sqrt(norms.dense + norms.experts), options_.clip_norm)));
    const double end = Now();
    step_seconds_.push_back(end - start);
    optimizer_seconds_ += end - computed;
    return loss;
  }

  void ClearTimes() {
    step_seconds_.clear();
    cpu_start_ = std::clock();
    optimizer_seconds_ = 0;
    model_->phase_seconds() = {};
  }

  const std::vector<double>& step_seconds() const { return step_seconds_; }
  // Of all threads, since ClearTimes: with one thread it hardly depends on what else the machine
  // does.
  double CpuSecondsPerStep() const {
    return static_cast<double>(std::clock() - cpu_start_) / CLOCKS_PER_SEC /
           static_cast<double>(step_seconds_.size());
  }

  // Mean seconds of each phase in a step.
  json Phases() {
    const double steps = static_cast<double>(step_seconds_.size());
    const model::PhaseSeconds& s = model_->phase_seconds();
    double total = 0;
    for (const double seconds : step_seconds_) total += seconds;
    const double named =
        s.attention + s.router + s.dispatch + s.experts + s.combine + s.head + optimizer_seconds_;
    return {{"attention", s.attention / steps},
            {"router", s.router / steps},
            {"dispatch", s.dispatch / steps},
            {"experts", s.experts / steps},
            {"combine", s.combine / steps},
            {"head", s.head / steps},
            {"optimizer", optimizer_seconds_ / steps},
            {"other", (total - named) / steps}};
  }

 private:
  explicit Bench(const Options& options) : options_(options) {}

  const Options options_;
  const v1::OptimizerSpec spec_ = MakeOptimizerSpec();
  std::unique_ptr<collective::Communicator> communicator_;
  std::unique_ptr<model::Model<float>> model_;
  std::unique_ptr<train::Optimizer> optimizer_;
  uint64_t updates_ = 0;
  std::vector<double> step_seconds_;
  double optimizer_seconds_ = 0;
  std::clock_t cpu_start_ = 0;
};

// --- Weights and batches for another implementation ---

// A checkpoint of the first weights, and "batches.safetensors" in it: tokens and targets of all
// steps.
absl::Status Save(Bench& bench, const Options& options) {
  model::CheckpointState state{.config = bench.model().config(), .layout = bench.model().layout()};
  RETURN_IF_ERROR(model::WriteCheckpoint(bench.model(), state, options.save));
  const int steps = options.warmup + options.steps;
  const std::vector<int64_t> shape = {steps, options.batch, options.sequence};
  ASSIGN_OR_RETURN(const auto writer,
                   model::SafetensorsWriter::Create(options.save + "/batches.safetensors",
                                                    {{"tokens", model::TensorType::kI64, shape},
                                                     {"targets", model::TensorType::kI64, shape}},
                                                    {}));
  for (const bool targets : {false, true}) {
    for (int step = 0; step < steps; ++step) {
      const model::Batch batch = MakeBatch(options, step);
      const std::vector<int32_t>& source = targets ? batch.targets : batch.tokens;
      const std::vector<int64_t> wide(source.begin(), source.end());
      RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(wide))));
    }
  }
  return writer->Finish().status();
}

json GeometryJson(const Options& options) {
  const model::ModelConfig& c = options.config;
  return {{"width", c.width},
          {"layers", c.layers},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"experts", c.experts},
          {"top_k", c.top_k},
          {"expert_width", c.expert_width},
          {"shared_expert_width", c.shared_expert_width},
          {"vocabulary", c.vocabulary},
          {"rms_eps", c.rms_eps},
          {"rope_theta", c.rope_theta},
          {"sequence", options.sequence},
          {"batch", options.batch},
          {"learning_rate", options.learning_rate},
          {"clip_norm", options.clip_norm},
          {"warmup", options.warmup},
          {"steps", options.steps}};
}

absl::StatusOr<json> Run(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Bench> bench, Bench::Create(options));
  if (!options.save.empty()) RETURN_IF_ERROR(Save(*bench, options));
  const double sgemm_before = SgemmGflops(bench->model().thread_pool());
  std::vector<double> losses;
  for (int step = 0; step < options.warmup + options.steps; ++step) {
    if (step == options.warmup) bench->ClearTimes();
    ASSIGN_OR_RETURN(const double loss, bench->Step(step));
    losses.push_back(loss);
  }
  const double cpu_seconds = bench->CpuSecondsPerStep();
  // The machine may change its pace within a run: the higher rate is the one to be measured
  // against.
  const double sgemm = std::max(sgemm_before, SgemmGflops(bench->model().thread_pool()));
  const Spread step = SpreadOf(bench->step_seconds());
  const double tokens = static_cast<double>(options.tokens());
  const double gflops = FlopsPerToken(options) * tokens / step.median * 1e-9;
  return json{{"geometry", GeometryJson(options)},
              {"parameters", bench->model().TotalParameters()},
              {"threads", options.threads},
              {"tokens_per_second", tokens / step.median},
              {"flops_per_token", FlopsPerToken(options)},
              {"gflops", gflops},
              {"sgemm_gflops", sgemm},
              {"sgemm_share", gflops / sgemm},
              {"step_seconds", {{"min", step.min}, {"median", step.median}, {"max", step.max}}},
              {"cpu_seconds_per_step", cpu_seconds},
              {"phase_seconds", bench->Phases()},
              {"losses", losses}};
}

void Print(const json& result) {
  std::printf("%lld parameters, %d threads\n", result["parameters"].get<long long>(),
              result["threads"].get<int>());
  std::printf("%.0f tokens/s, %.1f GFLOP/s of %.1f by sgemm: %.1f%%\n",
              result["tokens_per_second"].get<double>(), result["gflops"].get<double>(),
              result["sgemm_gflops"].get<double>(), 100 * result["sgemm_share"].get<double>());
  const json& step = result["step_seconds"];
  std::printf("step: median %.1f ms (%.1f to %.1f)\n", 1e3 * step["median"].get<double>(),
              1e3 * step["min"].get<double>(), 1e3 * step["max"].get<double>());
  for (const auto& [phase, seconds] : result["phase_seconds"].items()) {
    std::printf("  %-10s %7.1f ms\n", phase.c_str(), 1e3 * seconds.get<double>());
  }
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  espalier::observe::InitLogging(argv[0]);
  espalier::Options options;
  espalier::model::ModelConfig& config = options.config;
  CLI::App app("Times whole training steps of one rank on synthetic tokens.");
  app.add_option("--width", config.width, "Model width")->capture_default_str();
  app.add_option("--layers", config.layers, "Layers")->capture_default_str();
  app.add_option("--heads", config.heads, "Query heads")->capture_default_str();
  app.add_option("--kv-heads", config.kv_heads, "Key heads")->capture_default_str();
  app.add_option("--head-dim", config.head_dim, "Width of a head")->capture_default_str();
  app.add_option("--experts", config.experts, "Experts of a layer")->capture_default_str();
  app.add_option("--top-k", config.top_k, "Experts of a token")->capture_default_str();
  app.add_option("--expert-width", config.expert_width, "Hidden width of an expert")
      ->capture_default_str();
  app.add_option("--shared-expert-width", config.shared_expert_width,
                 "Hidden width of the shared expert")
      ->capture_default_str();
  app.add_option("--vocab", config.vocabulary, "Vocabulary")->capture_default_str();
  app.add_option("--sequence", options.sequence, "Tokens of a sequence")->capture_default_str();
  app.add_option("--batch", options.batch, "Sequences of a step")->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads")->capture_default_str();
  app.add_option("--steps", options.steps, "Steps timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--warmup", options.warmup, "Steps before them")->capture_default_str();
  app.add_option("--seed", options.seed, "Seed of weights and tokens")->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "Learning rate")->capture_default_str();
  app.add_flag("--output-norms", options.output_norms,
               "Measure what each expert puts out, as runs with prune.score output_norm do");
  app.add_option("--save", options.save,
                 "Write the first weights and all batches to this new folder");
  app.add_flag("--json", options.as_json, "Print one JSON object");
  CLI11_PARSE(app, argc, argv);

  const absl::StatusOr<espalier::json> result = espalier::Run(options);
  if (!result.ok()) {
    std::cerr << "bench_train: " << result.status().message() << "\n";
    return 1;
  }
  if (options.as_json) {
    std::cout << result->dump(1) << "\n";
  } else {
    espalier::Print(*result);
  }
  return 0;
}

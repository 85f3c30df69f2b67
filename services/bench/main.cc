// espalier-bench: measures the trainer on this machine.
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "libs/observe/log.h"
#include "services/bench/train_bench.h"

namespace espalier::bench {
namespace {

void PrintTable(const nlohmann::ordered_json& json) {
  std::printf("geometry %s, %d rank(s), %s %s, %.3f B parameters\n",
              json["geometry"].get<std::string>().c_str(), json["ranks"].get<int>(),
              json["device"].get<std::string>().c_str(),
              json["precision"].get<std::string>().c_str(),
              json["parameters"].get<double>() * 1e-9);
  std::printf("%12.0f tokens/s   %.1f TFLOP/s a device   MFU %.1f%%   step %.2f ms\n",
              json["tokens_per_second"].get<double>(), json["tflops_per_device"].get<double>(),
              100 * json["mfu"].get<double>(), 1e3 * json["step_seconds"].get<double>());
  for (const auto& [phase, seconds] : json["phases_seconds"].items()) {
    std::printf("  %-18s %8.2f ms\n", phase.c_str(), 1e3 * seconds.get<double>());
  }
  std::printf("memory %.2f GiB; loss %.4f -> %.4f; busiest expert %.2f of the mean",
              json["device_bytes"].get<double>() / (1 << 30), json["loss_first"].get<double>(),
              json["loss_last"].get<double>(), json["busiest_expert_over_mean"].get<double>());
  if (json.contains("prune")) {
    const auto& prune = json["prune"];
    std::printf("\nprune of %d experts took %.1f ms (%.2f steps): memory %.2f GiB, %.3f B parameters, %.0f tokens/s",
                prune["experts_removed"].get<int>(), 1e3 * prune["seconds"].get<double>(),
                prune["in_steps"].get<double>(), prune["device_bytes"].get<double>() / (1 << 30),
                prune["parameters"].get<double>() * 1e-9, prune["tokens_per_second"].get<double>());
  }
  if (json["joules_per_token"].is_number()) {
    std::printf("; %.4g J a token", json["joules_per_token"].get<double>());
  }
  std::printf("\n");
}

int Main(int argc, char** argv) {
  CLI::App app("Measures Espalier's trainer on this machine");
  app.require_subcommand(1);
  CLI::App* train = app.add_subcommand("train", "Steps of the trainer: tokens/s, phases, memory, energy");
  std::string geometry = "S", routing = "natural", device = "cuda", precision = "bf16", qk_norm;
  TrainBenchOptions options;
  options.model.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool as_json = false;
  train->add_option("--geometry", geometry, "M, S, tiny or a JSON file of sizes")->capture_default_str();
  train->add_option("--qk-norm", qk_norm, "Normalise queries and keys: none, head or full, as OLMoE does")->check(CLI::IsMember({"none", "head", "full"}));
  train->add_option("--ranks", options.ranks, "Ranks, one device each")->check(CLI::Range(1, 64))->capture_default_str();
  train->add_option("--routing", routing, "natural, balanced, zipf:A or zipfc:A (hot experts on one rank)")->capture_default_str();
  train->add_option("--device", device, "cuda or cpu")->check(CLI::IsMember({"cuda", "cpu"}))->capture_default_str();
  train->add_option("--precision", precision, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}))->capture_default_str();
  train->add_option("--steps", options.steps, "Steps measured")->check(CLI::Range(1, 100000))->capture_default_str();
  train->add_option("--warmup", options.warmup, "Steps before them")->check(CLI::Range(1, 1000))->capture_default_str();
  train->add_option("--clip-norm", options.clip_norm, "Gradient norm that is clipped to; 0: none")->capture_default_str();
  train->add_option("--threads", options.model.threads, "CPU threads of a rank")->check(CLI::Range(1, 1024))->capture_default_str();
  train->add_option("--peak-tflops", "Dense peak of a device, for the MFU (989)")
      ->each([&](const std::string& text) { options.peak_flops = std::stod(text) * 1e12; })
      ->check(CLI::PositiveNumber);
  train->add_option("--prune-share", options.prune_share, "Remove this share of each layer's experts after the steps, and measure again (natural routing)")
      ->check(CLI::Range(0.0, 0.9));
  train->add_flag("--recompute", options.model.recompute, "Keep layers' inputs alone for the backward pass, and compute the rest again");
  train->add_flag("--output-norms", options.output_norms, "Measure what experts put out as well");
  train->add_flag("--json", as_json, "Print JSON");
  CLI11_PARSE(app, argc, argv);

  const auto fail = [](const absl::Status& status) {
    std::cerr << "espalier-bench: " << status.message() << "\n";
    return 1;
  };
  absl::StatusOr<Geometry> read = ReadGeometry(geometry);
  if (!read.ok()) return fail(read.status());
  options.geometry = *std::move(read);
  if (!qk_norm.empty()) {
    if (const absl::Status set = SetQkNorm(qk_norm, &options.geometry); !set.ok()) return fail(set);
  }
  const absl::StatusOr<Routing> wanted = ReadRouting(routing);
  if (!wanted.ok()) return fail(wanted.status());
  options.routing = *wanted;
  options.model.device = device == "cuda" ? model::Device::kCuda : model::Device::kCpu;
  options.model.precision = precision == "bf16" ? model::Precision::kBf16 : model::Precision::kFp32;
  if (options.prune_share > 0 && options.routing.kind != Routing::Kind::kNatural) {
    return fail(absl::InvalidArgumentError("--prune-share needs --routing natural: given routes name experts that would be gone"));
  }
  const auto result = RunTrainBench(options);
  if (!result.ok()) return fail(result.status());
  if (as_json) {
    std::cout << result->dump(2) << "\n";
  } else {
    PrintTable(*result);
  }
  return 0;
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  espalier::observe::InitLogging(argv[0]);
  return espalier::bench::Main(argc, argv);
}

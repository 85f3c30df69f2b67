// bench_history: durable appends per second, bytes stored per value beside the entropy of the same
// data, the time of heatmaps, expiry and backups, and the peak of memory. Loads: drawn ones
// (lognormal around 1000 tokens, noise of a multinomial, slow drift) and those recorded in
// training.
#include <benchmark/benchmark.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "libs/history/store.h"

namespace {

using namespace espalier::history;
namespace fs = std::filesystem;

constexpr char kRecorded[] = "tests/data/expert_loads.jsonl";
constexpr double kMeanTokens = 1000;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "espalier_bench_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string db() const { return path_ + "/db"; }
  std::string copy() const { return path_ + "/copy"; }
  uint64_t bytes(const std::string& extension) const {
    uint64_t sum = 0;
    for (const auto& entry : fs::directory_iterator(db())) {
      if (entry.path().extension() == extension) sum += entry.file_size();
    }
    return sum;
  }

 private:
  std::string path_;
};

// Mean tokens of every expert, as they move from step to step.
class Means {
 public:
  virtual ~Means() = default;
  // Steps come in order.
  virtual const std::vector<std::vector<double>>& At(uint64_t step) = 0;
};

class DrawnMeans : public Means {
 public:
  DrawnMeans(uint32_t layers, uint32_t experts) : mean_(layers, std::vector<double>(experts)) {
    std::lognormal_distribution<double> share(std::log(kMeanTokens) - 0.125, 0.5);
    for (auto& layer : mean_) {
      for (double& mean : layer) mean = share(random_);
    }
  }
  const std::vector<std::vector<double>>& At(uint64_t) override {
    for (auto& layer : mean_) {
      for (double& mean : layer) mean *= 1 + 0.002 * normal_(random_);
    }
    return mean_;
  }

 private:
  std::mt19937_64 random_{7};
  std::normal_distribution<double> normal_;
  std::vector<std::vector<double>> mean_;
};

// Recorded loads are sums over windows of steps: means run from the middle of one to the next.
class RecordedMeans : public Means {
 public:
  RecordedMeans() {
    std::ifstream file(kRecorded);
    std::map<int, std::vector<std::vector<double>>> layers;
    for (std::string line; std::getline(file, line);) {
      const auto window = nlohmann::json::parse(line);
      std::vector<double> loads = window["loads"];
      double sum = 0;
      for (const double load : loads) sum += load;
      for (double& load : loads) load *= kMeanTokens * static_cast<double>(loads.size()) / sum;
      layers[window["layer"]].push_back(std::move(loads));
      window_steps_ = window["steps_to"].get<uint64_t>() - window["steps_from"].get<uint64_t>() + 1;
    }
    for (auto& [layer, windows] : layers) windows_.push_back(std::move(windows));
    mean_.resize(windows_.size());
  }
  bool empty() const { return windows_.empty(); }
  uint64_t steps() const { return (windows_.front().size() - 1) * window_steps_; }
  const std::vector<std::vector<double>>& At(uint64_t step) override {
    const uint64_t window = step / window_steps_;
    const double part =
        static_cast<double>(step % window_steps_) / static_cast<double>(window_steps_);
    for (size_t layer = 0; layer < windows_.size(); ++layer) {
      const auto &from = windows_[layer][window], &to = windows_[layer][window + 1];
      mean_[layer].resize(from.size());
      for (size_t i = 0; i < from.size(); ++i) {
        mean_[layer][i] = from[i] + part * (to[i] - from[i]);
      }
    }
    return mean_;
  }

 private:
  uint64_t window_steps_ = 1;
  std::vector<std::vector<std::vector<double>>> windows_;  // by layer
  std::vector<std::vector<double>> mean_;
};

class Loads {
 public:
  explicit Loads(std::unique_ptr<Means> means) : means_(std::move(means)) {}
  Loads(uint32_t layers, uint32_t experts) : Loads(std::make_unique<DrawnMeans>(layers, experts)) {}

  std::vector<LoadRow> Step(uint64_t step) {
    std::vector<LoadRow> rows;
    for (const std::vector<double>& layer : means_->At(step)) {
      LoadRow row{static_cast<uint32_t>(rows.size()), step, {}};
      for (const double mean : layer) {
        const double count = std::round(mean + std::sqrt(mean) * normal_(random_));
        row.tokens.push_back(static_cast<uint64_t>(std::max(0.0, count)));
        // A Gaussian with the noise's deviation is the least that any code of this step can take.
        bits_ += std::max(0.0, 0.5 * std::log2(2 * M_PI * M_E * mean));
        ++values_;
      }
      rows.push_back(std::move(row));
    }
    return rows;
  }
  double entropy_bytes() const { return bits_ / 8 / values_; }
  double values() const { return values_; }

 private:
  const std::unique_ptr<Means> means_;
  std::mt19937_64 random_{11};
  std::normal_distribution<double> normal_;
  double bits_ = 0, values_ = 0;
};

double PeakMemoryMib() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// 60 layers of 256 experts; argument: steps in one append. Drawing the loads is not timed.
void BM_Append(benchmark::State& state) {
  const uint64_t steps_per_append = state.range(0);
  Folder folder;
  auto store = *Store::Open(folder.db());
  auto history = LoadHistory::Create(store.get());
  Loads loads(60, 256);
  std::vector<std::vector<LoadRow>> drawn;  // drawn ahead, and appended again with later steps
  for (uint64_t step = 0; step < 128; ++step) drawn.push_back(loads.Step(step));
  uint64_t step = 1;
  for (auto _ : state) {
    state.PauseTiming();
    std::vector<LoadRow> rows;
    for (uint64_t i = 0; i < steps_per_append; ++i, ++step) {
      for (LoadRow row : drawn[step % drawn.size()]) {
        row.step = step;
        rows.push_back(std::move(row));
      }
    }
    state.ResumeTiming();
    const auto status = history->Append("run", rows);
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
  }
  state.counters["values_per_second"] =
      benchmark::Counter(static_cast<double>(state.iterations() * steps_per_append * 60 * 256),
                         benchmark::Counter::kIsRate);
  state.counters["peak_memory_mib"] = PeakMemoryMib();
}
BENCHMARK(BM_Append)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMillisecond)->UseRealTime();

// Bytes in the table files once everything is packed; all four resolutions.
void Size(benchmark::State& state, Loads loads, uint64_t steps) {
  for (auto _ : state) {
    Folder folder;
    {
      auto store = *Store::Open(folder.db());
      auto history = LoadHistory::Create(store.get());
      std::vector<LoadRow> rows;
      for (uint64_t step = 0; step < steps; ++step) {
        for (LoadRow& row : loads.Step(step)) rows.push_back(std::move(row));
        if (step % 512 != 511 && step + 1 != steps) continue;
        const auto status = history->Append("run", rows);
        if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
        rows.clear();
      }
    }
    Store::Open(folder.db()).value().reset();  // recovery turns the log into tables
    state.counters["bytes_per_value"] = static_cast<double>(folder.bytes(".sst")) / loads.values();
    state.counters["entropy_bytes_per_value"] = loads.entropy_bytes();
  }
}
// Argument: steps.
void BM_SizeDrawn(benchmark::State& state) { Size(state, Loads(4, 256), state.range(0)); }
BENCHMARK(BM_SizeDrawn)->Arg(16384)->Iterations(1)->Unit(benchmark::kMillisecond);
void BM_SizeRecorded(benchmark::State& state) {
  auto means = std::make_unique<RecordedMeans>();
  if (means->empty()) return state.SkipWithError("run it in the repository: no tests/data here");
  const uint64_t steps = means->steps() / 64 * 64;
  Size(state, Loads(std::move(means)), steps);
}
BENCHMARK(BM_SizeRecorded)->Iterations(1)->Unit(benchmark::kMillisecond);

// One layer over a million steps, and one million more in reach of Expire.
struct Million {
  static constexpr uint64_t kSteps = 1000000;

  explicit Million(uint32_t experts) {
    // Drawn once, appended again with later steps: drawing takes longer than storing.
    constexpr uint64_t kDrawn = 8192;
    Loads loads(1, experts);
    std::vector<LoadRow> drawn, rows;
    for (uint64_t step = 0; step < kDrawn; ++step) drawn.push_back(loads.Step(step).front());
    for (uint64_t step = 1; step <= kSteps; ++step) {
      rows.push_back(drawn[step % kDrawn]);
      rows.back().step = step;
      if (rows.size() < 2048 && step != kSteps) continue;
      if (!history->Append("run", rows).ok()) abort();
      rows.clear();
    }
  }
  static Million& Of(uint32_t experts) {
    static std::map<uint32_t, std::unique_ptr<Million>> made;
    std::unique_ptr<Million>& million = made[experts];
    if (million == nullptr) million = std::make_unique<Million>(experts);
    return *million;
  }
  Folder folder;
  std::unique_ptr<Store> store = *Store::Open(folder.db());
  std::unique_ptr<LoadHistory> history = LoadHistory::Create(store.get());
};

// Arguments: experts, resolution. 4096 fits a heatmap of 512 rows, 256 one of 4096 rows.
void BM_Heatmap(benchmark::State& state) {
  Million& million = Million::Of(static_cast<uint32_t>(state.range(0)));
  size_t rows = 0;
  for (auto _ : state) {
    const auto matrix = million.history->ReadMatrix("run", 0, 1, Million::kSteps,
                                                    static_cast<uint32_t>(state.range(1)));
    if (!matrix.ok()) return state.SkipWithError(std::string(matrix.status().message()).c_str());
    rows = matrix->first_steps.size();
  }
  state.counters["rows"] = static_cast<double>(rows);
}
BENCHMARK(BM_Heatmap)->ArgsProduct({{64, 256}, {4096, 256, 16}})->Unit(benchmark::kMillisecond);

// A backup of a million steps of 256 experts.
void BM_Backup(benchmark::State& state) {
  Million& million = Million::Of(256);
  for (auto _ : state) {
    const auto status = million.store->Backup(million.folder.copy());
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
    state.PauseTiming();
    fs::remove_all(million.folder.copy());
    state.ResumeTiming();
  }
  state.counters["mib"] = static_cast<double>(million.folder.bytes(".sst")) / (1 << 20);
}
BENCHMARK(BM_Backup)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(10);

// Fine rows of all but the last 100,000 of a million steps; then, until the tables have shrunk.
void BM_Expire(benchmark::State& state) {
  Million& million = Million::Of(256);
  const double before = static_cast<double>(million.folder.bytes(".sst")) / (1 << 20);
  for (auto _ : state) {
    const auto status = million.history->Expire("run", 1, Million::kSteps - 100000);
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
  }
  state.counters["mib_before"] = before;
}
BENCHMARK(BM_Expire)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);
void BM_ExpireReclaims(benchmark::State& state) {
  Million& million = Million::Of(256);
  double after = 0, last = -1;
  for (auto _ : state) {
    // Two looks alike, a while apart, with at least half of it gone.
    while (last != after || after > 128) {
      last = after;
      timespec pause{0, 100 << 20};
      nanosleep(&pause, nullptr);
      after = static_cast<double>(million.folder.bytes(".sst")) / (1 << 20);
      if (state.iterations() > 600) break;
    }
  }
  state.counters["mib_after"] = after;
  state.counters["peak_memory_mib"] = PeakMemoryMib();
}
BENCHMARK(BM_ExpireReclaims)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);

}  // namespace

BENCHMARK_MAIN();

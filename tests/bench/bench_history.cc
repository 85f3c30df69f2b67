// bench_history: durable appends per second, bytes stored per value beside the entropy of the same
// data, and the time to read a heatmap. Loads: lognormal shares around 1000 tokens, multinomial
// noise, slow drift.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <random>

#include "libs/history/store.h"

namespace {

using namespace espalier::history;
namespace fs = std::filesystem;

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

class Loads {
 public:
  Loads(uint32_t layers, uint32_t experts) : mean_(layers, std::vector<double>(experts)) {
    std::lognormal_distribution<double> share(std::log(1000) - 0.125, 0.5);
    for (auto& layer : mean_) {
      for (double& mean : layer) mean = share(random_);
    }
  }
  std::vector<LoadRow> Step(uint64_t step) {
    std::normal_distribution<double> normal;
    std::vector<LoadRow> rows;
    for (uint32_t layer = 0; layer < mean_.size(); ++layer) {
      LoadRow row{layer, step, {}};
      for (double& mean : mean_[layer]) {
        mean *= 1 + 0.002 * normal(random_);
        const double count = std::round(mean + std::sqrt(mean) * normal(random_));
        row.tokens.push_back(static_cast<uint64_t>(std::max(0.0, count)));
        // A Gaussian with the noise's deviation is the least that any code of this step can take.
        bits_ += 0.5 * std::log2(2 * M_PI * M_E * mean);
        ++values_;
      }
      rows.push_back(std::move(row));
    }
    return rows;
  }
  double entropy_bytes() const { return bits_ / 8 / values_; }

 private:
  std::mt19937_64 random_{7};
  std::vector<std::vector<double>> mean_;
  double bits_ = 0, values_ = 0;
};

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
}
BENCHMARK(BM_Append)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMillisecond)->UseRealTime();

// Bytes in the table files once everything is packed; all four resolutions. Argument: steps.
void BM_Size(benchmark::State& state) {
  const uint64_t steps = state.range(0);
  for (auto _ : state) {
    Folder folder;
    Loads loads(4, 256);
    {
      auto store = *Store::Open(folder.db());
      auto history = LoadHistory::Create(store.get());
      std::vector<LoadRow> rows;
      for (uint64_t step = 0; step < steps; ++step) {
        for (LoadRow& row : loads.Step(step)) rows.push_back(std::move(row));
        if (step % 512 != 511) continue;
        const auto status = history->Append("run", rows);
        if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
        rows.clear();
      }
    }
    Store::Open(folder.db()).value().reset();  // recovery turns the log into tables
    const double values = static_cast<double>(steps) * 4 * 256;
    state.counters["bytes_per_value"] = static_cast<double>(folder.bytes(".sst")) / values;
    state.counters["entropy_bytes_per_value"] = loads.entropy_bytes();
  }
}
BENCHMARK(BM_Size)->Arg(16384)->Iterations(1)->Unit(benchmark::kMillisecond);

// One layer of 64 experts over a million steps. Argument: resolution.
struct Million {
  Million() {
    Loads loads(1, 64);
    std::vector<LoadRow> rows;
    for (uint64_t step = 1; step <= 1000000; ++step) {
      for (LoadRow& row : loads.Step(step)) rows.push_back(std::move(row));
      if (rows.size() < 8192) continue;
      if (!history->Append("run", rows).ok()) abort();
      rows.clear();
    }
    if (!history->Append("run", rows).ok()) abort();
  }
  Folder folder;
  std::unique_ptr<Store> store = *Store::Open(folder.db());
  std::unique_ptr<LoadHistory> history = LoadHistory::Create(store.get());
};
void BM_Heatmap(benchmark::State& state) {
  static const auto million = std::make_unique<Million>();
  size_t rows = 0;
  for (auto _ : state) {
    const auto blocks = million->history->Read("run", 0, 1, 1000000, state.range(0));
    if (!blocks.ok()) return state.SkipWithError(std::string(blocks.status().message()).c_str());
    rows = blocks->size();
  }
  state.counters["rows"] = static_cast<double>(rows);
}
BENCHMARK(BM_Heatmap)->Arg(4096)->Arg(256)->Arg(16)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();

// bench_reward: traces scored and answers verified a second on one core, with latencies, beside the
// agreement with labelled cases:
//   bench_reward --benchmark_format=json [--cases=FILE]      FILE holds lines {"gold", "answer",
//   "expected"}
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "libs/reward/reward.h"

namespace {

using espalier::reward::ExtractAnswer;
using espalier::reward::Extraction;
using espalier::reward::RewardOptions;
using espalier::reward::ScoreGroup;
using espalier::reward::TraceInput;
using espalier::reward::Verdict;
using espalier::reward::Verification;
using espalier::reward::VerifyAnswer;

constexpr int kGroup = 8;

// As the reasoning task's teacher writes: two to four worked steps, up to three needless re-checks.
std::vector<TraceInput> TaskTraces(int64_t* answer) {
  std::mt19937 random(7);
  const int first = 3 + static_cast<int>(random() % 40);
  std::vector<int> add;
  for (int i = 0; i < 3; ++i) add.push_back(1 + static_cast<int>(random() % 9));
  std::string work;
  int value = first;
  for (const int operand : add) {
    work += std::to_string(value) + " + " + std::to_string(operand) + " = " +
            std::to_string(value + operand) + ". ";
    value += operand;
  }
  *answer = value;
  std::vector<TraceInput> traces;
  for (int i = 0; i < kGroup; ++i) {
    const std::string says = "The answer is " + std::to_string(value + (i % 4 == 3)) + ".";
    std::string text = work + says;
    for (int k = 0; k < i % 4; ++k) text += " Wait, let me check. " + work + says;
    traces.push_back({text, static_cast<int64_t>(text.size() / 3), false});
  }
  return traces;
}

// A whole solution of about 1,200 characters with formulas, as a larger model writes it.
std::vector<TraceInput> LongTraces() {
  std::string text =
      "To determine the value of \\( x \\), we start from the equation and simplify step by "
      "step.\n\n";
  for (int i = 1; text.size() < 1150; ++i) {
    text += std::to_string(i) + ". Multiply both sides by \\(" + std::to_string(i + 1) +
            "\\):\n   \\[\n   x \\cdot \\frac{" + std::to_string(i) + "}{" + std::to_string(i + 1) +
            "} = " + std::to_string(i * 17) +
            "\n   \\]\n   which holds as long as the denominator is not zero.\n";
  }
  text += "\nTherefore, the value of \\( x \\) is \\(\\boxed{\\frac{11}{13}}\\).";
  return std::vector<TraceInput>(kGroup, TraceInput{text, 400, false});
}

void Score(benchmark::State& state, const std::string& reference,
           const std::vector<TraceInput>& traces) {
  const RewardOptions options;
  int64_t correct = 0, bytes = 0;
  for (const TraceInput& trace : traces) bytes += static_cast<int64_t>(trace.text.size());
  for (auto _ : state) {
    for (const auto& score : ScoreGroup(reference, traces, options))
      correct += score.verification.verdict == Verdict::kCorrect;
  }
  if (correct == 0) state.SkipWithError("no trace was found correct");
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(traces.size()));
  state.SetBytesProcessed(state.iterations() * bytes);
}

void BM_ScoreTaskTrace(benchmark::State& state) {
  int64_t answer = 0;
  const std::vector<TraceInput> traces = TaskTraces(&answer);
  Score(state, std::to_string(answer), traces);
}
BENCHMARK(BM_ScoreTaskTrace);

void BM_ScoreLongTrace(benchmark::State& state) { Score(state, "\\frac{11}{13}", LongTraces()); }
BENCHMARK(BM_ScoreLongTrace);

// Extraction and verification alone, without the score.
void BM_VerifyLongTrace(benchmark::State& state) {
  const std::string trace = LongTraces()[0].text;
  int64_t correct = 0;
  for (auto _ : state) {
    correct +=
        VerifyAnswer("\\frac{11}{13}", ExtractAnswer(trace).text).verdict == Verdict::kCorrect;
  }
  if (correct != static_cast<int64_t>(state.iterations()))
    state.SkipWithError("the trace was not found correct");
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(trace.size()));
}
BENCHMARK(BM_VerifyLongTrace);

struct Case {
  std::string reference, answer;
};

// Verifies one after the other; p50_us and p99_us are of single calls.
void Verify(benchmark::State& state, const std::vector<Case>& cases) {
  std::vector<double> took;
  size_t next = 0;
  for (auto _ : state) {
    const Case& one = cases[next++ % cases.size()];
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(VerifyAnswer(one.reference, one.answer));
    took.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  std::sort(took.begin(), took.end());
  state.SetItemsProcessed(state.iterations());
  state.counters["p50_us"] = took[took.size() / 2];
  state.counters["p99_us"] = took[took.size() * 99 / 100];
}

void BM_VerifyNumber(benchmark::State& state) {
  Verify(state,
         {{"14", "14"}, {"1,234", "1234"}, {"1/2", "0.5"}, {"28\\%", "28 percent"}, {"14", "15"}});
}
BENCHMARK(BM_VerifyNumber);

void BM_VerifyExpression(benchmark::State& state) {
  Verify(state, {{"x^2+2x+1", "(x+1)^2"},
                 {"3\\sqrt{13}", "\\sqrt{117}"},
                 {"\\tan^2(y)+1", "\\sec^2(y)"},
                 {"(-\\infty, 3)", "x < 3"},
                 {"1 \\pm \\sqrt{19}", "1 + \\sqrt{19}, 1 - \\sqrt{19}"},
                 {"2x + 4y - 3 = 0", "y = -\\frac{1}{2}x + \\frac{3}{4}"}});
}
BENCHMARK(BM_VerifyExpression);

void BM_VerifyHostile(benchmark::State& state) {
  Verify(state, {{"5", "(10^8)!"},
                 {"x", "(x+y+z+w+1)^{200}"},
                 {"5", "9^{9^{9^{9}}}"},
                 {"5", "\\binom{10000000}{5000000}"},
                 {"\\frac{1}{5000!}", "\\frac{1}{4999!}"},
                 {"5", std::string(400, '(') + "1" + std::string(400, ')')},
                 {"5", std::string(100'000, '9')},
                 {"5", "\\sum_{k=1}^{10^9} \\frac{1}{k}"},
                 {"x", "\\sum_{k=1}^{50} (x+y+k)^{12}"}});
}
BENCHMARK(BM_VerifyHostile);

std::vector<nlohmann::json>* cases = new std::vector<nlohmann::json>;

void BM_LabelledCases(benchmark::State& state) {
  int64_t agreed = 0, judged = 0;
  for (auto _ : state) {
    for (const nlohmann::json& one : *cases) {
      const Extraction extraction = ExtractAnswer(one["answer"].get<std::string>());
      const bool correct = extraction.found &&
                           VerifyAnswer(one["gold"].get<std::string>(), extraction.text).verdict ==
                               Verdict::kCorrect;
      agreed += correct == (one["expected"].get<double>() > 0.5);
      ++judged;
    }
  }
  state.SetItemsProcessed(judged);
  state.counters["cases"] = static_cast<double>(cases->size());
  state.counters["agreement"] =
      static_cast<double>(agreed) / static_cast<double>(std::max<int64_t>(1, judged));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string flag = "--cases=";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind(flag, 0) != 0) continue;
    std::ifstream in(argument.substr(flag.size()));
    for (std::string line; std::getline(in, line);) {
      nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
      if (parsed.is_object() && parsed.contains("gold") && parsed.contains("answer") &&
          parsed.contains("expected")) {
        cases->push_back(std::move(parsed));
      }
    }
    if (cases->empty()) {
      std::cerr << "bench_reward: " << argument.substr(flag.size())
                << " holds no lines {gold, answer, expected}\n";
      return 1;
    }
    std::rotate(argv + i, argv + i + 1, argv + argc);
    --argc, --i;
  }
  if (!cases->empty()) benchmark::RegisterBenchmark("BM_LabelledCases", BM_LabelledCases);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

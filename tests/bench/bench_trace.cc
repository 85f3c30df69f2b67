// What tracing costs a step: the same pretraining with it off and on, in turns, by the processor
// time of the trainer's thread.
//
//   bench_trace [--every 100] [--layers 4] [--width 128] [--experts 16] [--steps 300] [--rounds 5]
//
// Prints JSON. A run on one thread and one rank: what is compared is the work of recording and
// telling, not the noise of links.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "libs/collective/communicator.h"
#include "libs/observe/log.h"
#include "libs/spec/spec.h"
#include "libs/train/step_recorder.h"
#include "libs/train/trainer.h"
#include "nlohmann/json.hpp"

namespace espalier {
namespace {

struct Options {
  uint64_t every = 100;
  uint32_t layers = 4, width = 128, experts = 16, steps = 300;
  int rounds = 5;
};

double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Notes the trainer's processor time at every report; traces are serialized, as a session does to
// send them.
class Clocked final : public train::TrainController {
 public:
  uint64_t HighestContiguousSequence() const override { return 0; }
  v1::Command GetCommand(uint64_t) const override { return {}; }
  void Report(v1::StepReport) override { at.push_back(ThreadSeconds()); }
  void Ack(v1::CommandAck) override {}
  void Event(v1::RunEvent) override {}
  bool Cancelled() const override { return false; }
  void Trace(v1::RankTrace trace) override {
    ++traces;
    bytes += trace.SerializeAsString().size();
    spans += static_cast<size_t>(trace.spans_size());
  }

  std::vector<double> at;
  size_t traces = 0, bytes = 0, spans = 0;
};

class NoScorer final : public train::TraceScorer {
  absl::StatusOr<std::vector<v1::ScoreBatchResponse>> Score(
      const std::vector<v1::ScoreBatchRequest>&) override {
    return absl::UnimplementedError("no rewards here");
  }
};

v1::RunSpec SpecOf(const Options& options) {
  v1::RunSpec spec;
  spec.set_name("bench-trace");
  spec.set_seed(1);
  spec.mutable_workers()->set_count(1);
  v1::ModelSpec* model = spec.mutable_model();
  model->set_layers(options.layers);
  model->set_width(options.width);
  model->set_heads(std::max(1u, options.width / 32));
  model->set_experts(options.experts);
  model->set_top_k(2);
  model->set_expert_width(options.width / 2);
  spec.mutable_data()->set_corpus("corpus.txt");
  spec.mutable_data()->set_tokenizer(v1::TOKENIZER_KIND_BYTES);
  spec.mutable_data()->set_heldout_tokens(1024);
  v1::PretrainStage* stage = spec.add_stages()->mutable_pretrain();
  stage->set_steps(options.steps);
  stage->set_batch_sequences(8);
  stage->set_sequence_length(64);
  stage->mutable_optimizer()->set_learning_rate(1e-3);
  spec::FillDefaults(&spec);
  stage->set_eval_every(0);
  spec.mutable_checkpoints()->set_every_steps(0);
  return spec;
}

absl::StatusOr<Clocked> Run(const Options& options, const std::string& folder, uint64_t every) {
  v1::Assignment assignment;
  assignment.set_run_id("bench");
  assignment.set_epoch(1);
  assignment.add_peers("here");
  *assignment.mutable_spec() = SpecOf(options);
  assignment.set_trace_every(every);
  Clocked clocked;
  NoScorer scorer;
  const auto links = collective::MakeSingleCommunicator();
  const auto outcome =
      train::RunTrainer(assignment, {.data_root = folder, .threads = 1}, *links, clocked, scorer);
  if (!outcome.ok()) return outcome.status();
  return clocked;
}

// Seconds from report to report, but for the first and the last, whose neighbours are the setting
// up and the end of the stage. A step is told after its report: what that takes falls into the
// next.
void AppendSteps(const Clocked& run, uint64_t every, std::vector<double>* plain,
                 std::vector<double>* told) {
  for (size_t i = 2; i + 1 < run.at.size(); ++i) {
    const bool follows_told = every > 0 && i % every == 0;
    (follows_told ? told : plain)->push_back(run.at[i] - run.at[i - 1]);
  }
}

// The quick tenth: other work on the machine only ever makes a step longer.
double Quick(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto tenth = values.begin() + static_cast<ptrdiff_t>(values.size() / 10);
  std::nth_element(values.begin(), tenth, values.end());
  return *tenth;
}

// Microseconds that recording adds to a step of `marks` phases, one in `every` told: the recorder's
// own work alone.
double RecorderMicros(const Options& options, size_t marks) {
  constexpr uint64_t kSteps = 20000;
  v1::Assignment assignment;
  assignment.set_run_id("bench");
  assignment.set_trace_every(options.every);
  Clocked clocked;
  train::StepRecorder recorder;
  recorder.Start(assignment, 0, &clocked);
  const double begin = ThreadSeconds();
  for (uint64_t step = 1; step <= kSteps; ++step) {
    recorder.BeginStep(step, v1::STAGE_KIND_PRETRAIN);
    {
      const train::StepRecorder::Pass pass(recorder, "pass");
      for (size_t i = 0; i < marks; ++i) {
        const int64_t start = model::Timeline::Now();
        recorder.timeline()->Add(
            {.start_nanos = start, .end_nanos = model::Timeline::Now(), .layer = 0});
      }
    }
    for (const char* name : {"data", "gradient_sync", "optimizer", "report"})
      const train::StepRecorder::Phase phase(recorder, name);
    recorder.StepDone();
    recorder.EndStep();
    recorder.Hear(0);
  }
  return 1e6 * (ThreadSeconds() - begin) / kSteps;
}

int Fail(const absl::Status& status) {
  std::cerr << "bench_trace: " << status << "\n";
  return 1;
}

int Main(const Options& options) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / absl::StrCat("bench_trace-", getpid())).string();
  std::filesystem::create_directories(folder);
  std::ofstream corpus(absl::StrCat(folder, "/corpus.txt"));
  for (int i = 0; i < 4000; ++i)
    corpus << "And the " << i * 7919 % 1000 << " of the " << i << " came to the river.\n";
  corpus.close();
  std::vector<double> off, on, told, control;
  size_t traces = 0, bytes = 0, spans = 0;
  for (int round = 0; round < options.rounds; ++round) {
    // In turns; off twice, for what two equal things differ by.
    for (int turn = 0; turn < 3; ++turn) {
      const int kind = (turn + round) % 3;
      const auto run = Run(options, folder, kind == 1 ? options.every : 0);
      if (!run.ok()) return Fail(run.status());
      AppendSteps(*run, kind == 1 ? options.every : 0,
                  kind == 0   ? &off
                  : kind == 1 ? &on
                              : &control,
                  &told);
      traces += run->traces;
      bytes += run->bytes;
      spans += run->spans;
    }
  }
  std::filesystem::remove_all(folder);
  const double per_trace = traces == 0 ? 1 : static_cast<double>(traces);
  const double telling = std::max(0.0, Quick(told) - Quick(on));
  const double step_on = Quick(on) + telling / static_cast<double>(options.every);
  const auto percent = [&](double seconds) { return 100 * (seconds / Quick(off) - 1); };
  std::cout << nlohmann::ordered_json{{"every", options.every},
                                      {"step_ms_off", 1e3 * Quick(off)},
                                      {"step_ms_on", 1e3 * step_on},
                                      {"telling_ms", 1e3 * telling},
                                      {"overhead_percent", percent(step_on)},
                                      {"off_against_off_percent", percent(Quick(control))},
                                      {"recorder_us",
                                       RecorderMicros(options,
                                                      spans / std::max<size_t>(1, traces))},
                                      {"steps_each", off.size()},
                                      {"traces", traces},
                                      {"spans_a_trace", static_cast<double>(spans) / per_trace},
                                      {"bytes_a_trace", static_cast<double>(bytes) / per_trace}}
                   .dump(2)
            << "\n";
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  CLI::App app("What tracing costs a step.");
  espalier::Options options;
  app.add_option("--every", options.every, "One step in so many is traced")->capture_default_str();
  app.add_option("--layers", options.layers)->capture_default_str();
  app.add_option("--width", options.width)->capture_default_str();
  app.add_option("--experts", options.experts)->capture_default_str();
  app.add_option("--steps", options.steps)->capture_default_str();
  app.add_option("--rounds", options.rounds)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);
  return espalier::Main(options);
}

// The tiny model trains in milliseconds a step, so a test can afford several runs.
#include "tests/integration/train_harness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"
#include "libs/model/safetensors.h"
#include "libs/spec/spec.h"
#include "services/reward/convert.h"

namespace espalier::train {

uint64_t MemoryController::HighestContiguousSequence() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

v1::Command MemoryController::GetCommand(uint64_t sequence) const {
  const auto otherwise = plan_.seen_otherwise.find({rank_, sequence});
  if (otherwise != plan_.seen_otherwise.end()) return otherwise->second;
  for (const v1::Command& command : plan_.commands) {
    if (command.sequence() == sequence) return command;
  }
  ADD_FAILURE() << "rank " << rank_ << " asked for command " << sequence << ", which nobody sent";
  return {};
}

void MemoryController::Report(v1::StepReport report) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [when, sequence] : plan_.after_report) {
    if (when.first == rank_ && when.second <= report.last_step()) held_ = std::max(held_, sequence);
  }
  if (plan_.cancel_after_step > 0 && report.last_step() >= plan_.cancel_after_step) {
    cancelled_ = true;
  }
  reports.push_back(std::move(report));
}

void MemoryController::Ack(v1::CommandAck ack) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto next = plan_.after_ack.find(ack.sequence());
  if (next != plan_.after_ack.end()) held_ = std::max(held_, next->second);
  if (plan_.cancel_after_ack > 0 && ack.sequence() >= plan_.cancel_after_ack) cancelled_ = true;
  acks.push_back(std::move(ack));
}

void MemoryController::Event(v1::RunEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  events.push_back(std::move(event));
}

absl::StatusOr<std::vector<v1::ScoreBatchResponse>> LocalScorer::Score(
    const std::vector<v1::ScoreBatchRequest>& groups) {
  if (fail_after_calls >= 0 && calls_++ >= fail_after_calls) {
    return absl::UnavailableError("reward service at 127.0.0.1:1: no answer in time");
  }
  std::vector<v1::ScoreBatchResponse> responses;
  for (const v1::ScoreBatchRequest& group : groups) {
    if (!reward_) {
      ASSIGN_OR_RETURN(responses.emplace_back(), reward::ScoreBatch(group));
      continue;
    }
    v1::ScoreBatchResponse& response = responses.emplace_back();
    for (const v1::Trace& trace : group.traces()) {
      v1::Score* score = response.add_scores();
      score->set_total(reward_(trace));
      score->set_verdict(abstains ? v1::VERDICT_ABSTAIN : v1::VERDICT_CORRECT);
    }
  }
  return responses;
}

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "train_test_XXXXXX").string();
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

bool RunRecord::Ok(TrainOutcome outcome) const {
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    if (!outcomes[rank].ok()) {
      ADD_FAILURE() << "rank " << rank << ": " << outcomes[rank].status();
      return false;
    }
    if (*outcomes[rank] != outcome) return false;
  }
  return !outcomes.empty();
}

std::map<uint64_t, double> RunRecord::Losses() const {
  std::map<uint64_t, double> losses;
  for (const v1::StepReport& report : ranks[0]->reports) {
    losses[report.last_step()] = report.metrics().loss();
  }
  return losses;
}

std::map<uint64_t, double> RunRecord::HeldoutLosses() const {
  std::map<uint64_t, double> losses;
  for (const v1::StepReport& report : ranks[0]->reports) {
    if (report.metrics().has_heldout_loss()) {
      losses[report.last_step()] = report.metrics().heldout_loss();
    }
  }
  return losses;
}

std::vector<v1::RunEvent> RunRecord::Events(const std::string& name) const {
  std::vector<v1::RunEvent> found;
  for (const auto& rank : ranks) {
    for (const v1::RunEvent& event : rank->events) {
      if (event.name() == name) found.push_back(event);
    }
  }
  return found;
}

v1::CommandAck RunRecord::AckOf(int rank, uint64_t sequence) const {
  for (const v1::CommandAck& ack : ranks[rank]->acks) {
    if (ack.sequence() == sequence) return ack;
  }
  ADD_FAILURE() << "rank " << rank << " never acked command " << sequence;
  return {};
}

RunRecord RunOnRanks(const RunRequest& request) {
  v1::Assignment assignment;
  assignment.set_run_id(request.run_id);
  assignment.set_epoch(1);
  *assignment.mutable_spec() = request.spec;
  assignment.set_checkpoint(request.checkpoint);
  for (const v1::Command& command : request.assigned) *assignment.add_commands() = command;
  LocalScorer local_scorer;
  TraceScorer& scorer = request.scorer != nullptr ? *request.scorer : local_scorer;

  RunRecord record;
  record.outcomes.assign(request.ranks, absl::UnknownError("not run"));
  auto communicators = collective::MakeInProcessCommunicators(request.ranks);
  for (int rank = 0; rank < request.ranks && request.wrap_links; ++rank) {
    communicators[rank] = request.wrap_links(rank, std::move(communicators[rank]));
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < request.ranks; ++rank) {
    record.ranks.push_back(std::make_unique<MemoryController>(rank, request.plan));
  }
  for (int rank = 0; rank < request.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      v1::Assignment own = assignment;
      own.set_rank(rank);
      record.outcomes[rank] = RunTrainer(own, {request.data_root, 1}, *communicators[rank],
                                         *record.ranks[rank], scorer);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return record;
}

std::map<std::string, std::vector<float>> TensorsOf(const std::string& path, int ranks) {
  std::map<std::string, std::vector<float>> tensors;
  for (int rank = 0; rank < ranks; ++rank) {
    char name[64] = {};
    std::snprintf(name, sizeof(name), "/rank-%05d-of-%05d.safetensors", rank, ranks);
    const auto reader = model::SafetensorsReader::Open(path + name);
    EXPECT_TRUE(reader.ok()) << reader.status();
    for (const std::string& tensor : (*reader)->names()) {
      const auto info = (*reader)->Info(tensor);
      EXPECT_TRUE(info.ok()) << info.status();
      int64_t size = 1;
      for (const int64_t extent : info->shape) size *= extent;
      std::vector<float>& values = tensors[tensor];
      values.resize(size);
      EXPECT_TRUE((*reader)->Read(tensor, info->shape, values).ok()) << tensor;
    }
  }
  return tensors;
}

v1::RunSpec TinySpec() {
  v1::RunSpec spec;
  spec.set_name("tiny");
  spec.set_seed(7);
  v1::ModelSpec* model = spec.mutable_model();
  model->set_layers(2);
  model->set_width(16);
  model->set_heads(2);
  model->set_experts(6);
  model->set_top_k(2);
  model->set_expert_width(12);
  model->set_init_std(0.1);
  v1::DataSpec* data = spec.mutable_data();
  data->set_corpus("corpus.txt");
  data->set_tokenizer(v1::TOKENIZER_KIND_BYTES);
  data->set_heldout_tokens(256);
  data->set_heldout_fraction(0.1);
  data->mutable_task()->set_steps_min(1);
  data->mutable_task()->set_steps_max(1);
  spec.mutable_checkpoints()->set_every_steps(0);
  return spec;
}

void WriteCorpus(const std::string& folder) {
  const char* words[] = {"the", "tree", "wall",  "ties", "branch", "frame", "and",  "grows",
                         "sun", "over", "apple", "pear", "prune",  "each",  "year", "slowly"};
  std::mt19937 engine(3);
  std::ofstream out(folder + "/corpus.txt");
  for (int line = 0; line < 800; ++line) {
    for (int word = 0; word < 6; ++word) out << words[engine() % 16] << (word == 5 ? ".\n" : " ");
  }
}

namespace {

void SetOptimizer(v1::OptimizerSpec* optimizer, double learning_rate) {
  optimizer->set_learning_rate(learning_rate);
  optimizer->set_final_learning_rate(learning_rate / 2);
  optimizer->set_warmup_steps(2);
}

}  // namespace

v1::PretrainStage* AddPretrain(v1::RunSpec* spec, int steps) {
  v1::PretrainStage* stage = spec->add_stages()->mutable_pretrain();
  stage->set_steps(steps);
  stage->set_batch_sequences(8);
  stage->set_sequence_length(16);
  SetOptimizer(stage->mutable_optimizer(), 3e-3);
  spec::FillDefaults(spec);
  return stage;
}

v1::FinetuneStage* AddFinetune(v1::RunSpec* spec, int steps) {
  v1::FinetuneStage* stage = spec->add_stages()->mutable_finetune();
  stage->set_steps(steps);
  stage->set_batch_traces(6);
  SetOptimizer(stage->mutable_optimizer(), 3e-3);
  spec::FillDefaults(spec);
  return stage;
}

v1::ReinforceStage* AddReinforce(v1::RunSpec* spec, int steps) {
  v1::ReinforceStage* stage = spec->add_stages()->mutable_reinforce();
  stage->set_steps(steps);
  stage->set_prompts(6);
  stage->set_group_size(4);
  stage->set_max_new_tokens(12);
  stage->set_eval_prompts(16);
  SetOptimizer(stage->mutable_optimizer(), 1e-2);
  // Traces of an untrained model seldom end by themselves; they are to count all the same.
  stage->mutable_reward()->set_length_shaping(v1::LENGTH_SHAPING_OVERLONG);
  spec::FillDefaults(spec);
  return stage;
}

v1::ExpertLayout MakeLayout(
    const std::vector<std::pair<std::vector<int>, std::vector<int>>>& layers) {
  v1::ExpertLayout layout;
  for (size_t i = 0; i < layers.size(); ++i) {
    v1::LayerLayout* layer = layout.add_layers();
    layer->set_layer(static_cast<uint32_t>(i));
    for (const int id : layers[i].first) layer->add_experts(id);
    for (const int rank : layers[i].second) layer->add_ranks(rank);
  }
  return layout;
}

void ExpectSameCurve(const std::map<uint64_t, double>& a, const std::map<uint64_t, double>& b,
                     size_t steps, double tolerance) {
  size_t compared = 0;
  for (const auto& [step, loss] : a) {
    const auto other = b.find(step);
    if (other == b.end()) continue;
    ++compared;
    EXPECT_LE(std::abs(loss - other->second), tolerance * std::abs(loss))
        << "step " << step << ": " << loss << " and " << other->second;
  }
  EXPECT_GE(compared, steps);
}

}  // namespace espalier::train

// Harness, FakeWorker and FakeRun: synchronous gRPC clients with a reader thread each.
#include "tests/integration/coordinator_harness.h"

#include <stdlib.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace espalier::coordinator::testing {
namespace {

std::unique_ptr<grpc::ClientContext> WithDeadline() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  return context;
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

v1::RunSpec SmallSpec(const std::string& name, uint32_t workers, uint32_t steps) {
  v1::RunSpec spec;
  spec.set_name(name);
  spec.mutable_workers()->set_count(workers);
  v1::ModelSpec* model = spec.mutable_model();
  model->set_layers(2);
  model->set_width(32);
  model->set_heads(4);
  model->set_experts(8);
  model->set_top_k(2);
  model->set_expert_width(16);
  spec.mutable_data()->set_corpus("corpus.txt");
  v1::PretrainStage* pretrain = spec.add_stages()->mutable_pretrain();
  pretrain->set_steps(steps);
  pretrain->set_batch_sequences(4);
  pretrain->set_sequence_length(32);
  pretrain->mutable_optimizer()->set_learning_rate(1e-3);
  spec.mutable_placement()->set_enabled(false);
  return spec;
}

Harness::Harness(absl::Duration lease, WrapStore wrap) : lease_(lease), wrap_(std::move(wrap)) {
  char path[] = "/tmp/espalier_coordinator_XXXXXX";
  folder_ = mkdtemp(path);
  StartServer();
}

Harness::~Harness() {
  StopServer();
  std::filesystem::remove_all(folder_);
}

void Harness::StartServer() {
  CoordinatorOptions options;
  options.data = folder_ + "/data";
  options.lease = lease_;
  auto store = history::Store::Open(options.data);
  ASSERT_TRUE(store.ok()) << store.status();
  auto wrapped = wrap_ ? wrap_(*std::move(store)) : *std::move(store);
  auto coordinator = Coordinator::Start(options, std::make_unique<Ledger>(std::move(wrapped)));
  ASSERT_TRUE(coordinator.ok()) << coordinator.status();
  coordinator_ = *std::move(coordinator);
  services_.push_back(MakeRunService(coordinator_.get()));
  services_.push_back(MakeFleetService(coordinator_.get()));
  services_.push_back(MakeHistoryService(coordinator_.get()));
  services_.push_back(MakePlanService(coordinator_.get()));
  std::vector<grpc::Service*> services;
  for (const auto& service : services_) services.push_back(service.get());
  auto server = rpc::RpcServer::Start({}, services);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  address_ = server_->address();
  const auto channel = rpc::MakeChannel(address_);
  runs_ = v1::RunService::NewStub(channel);
  history_ = v1::HistoryService::NewStub(channel);
  plans_ = v1::PlanService::NewStub(channel);
}

void Harness::StopServer() {
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  server_.reset();
  services_.clear();
  coordinator_.reset();
}

grpc::Status Harness::Submit(const v1::SubmitRunRequest& request, v1::SubmitRunResponse* response) {
  return runs_->SubmitRun(WithDeadline().get(), request, response);
}

std::string Harness::MustSubmit(const v1::RunSpec& spec) {
  v1::SubmitRunRequest request;
  *request.mutable_spec() = spec;
  v1::SubmitRunResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.run().run_id();
}

v1::Run Harness::Get(const std::string& run_id) {
  v1::GetRunRequest request;
  request.set_run_id(run_id);
  v1::GetRunResponse response;
  const grpc::Status status = runs_->GetRun(WithDeadline().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.run();
}

bool Harness::WaitState(const std::string& run_id, v1::RunState state, absl::Duration timeout) {
  return Eventually([&] { return Get(run_id).state() == state; }, timeout);
}

std::vector<v1::RunEvent> Harness::Events(const std::string& run_id) {
  v1::ListEventsRequest request;
  request.set_run_id(run_id);
  request.set_page_size(1000);
  v1::ListEventsResponse response;
  const grpc::Status status = history_->ListEvents(WithDeadline().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.events().begin(), response.events().end()};
}

bool Harness::HasEvent(const std::string& run_id, const std::string& name) {
  for (const v1::RunEvent& event : Events(run_id)) {
    if (event.name() == name) return true;
  }
  return false;
}

std::vector<v1::Decision> Harness::Decisions(const std::string& run_id) {
  v1::ListDecisionsRequest request;
  request.set_run_id(run_id);
  v1::ListDecisionsResponse response;
  const grpc::Status status = plans_->ListDecisions(WithDeadline().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.decisions().begin(), response.decisions().end()};
}

void FakeWorker::Attach(const std::string& address, bool resume) {
  Break();
  channel_ = rpc::MakeChannel(address);
  context_ = std::make_unique<grpc::ClientContext>();
  stream_ = v1::FleetService::NewStub(channel_)->Attach(context_.get());
  {
    std::lock_guard lock(mutex_);
    closed_ = false;
    beating_ = true;
    welcomes_.clear();
    commands_.clear();
    durable_step_ = 0;
  }
  v1::AttachRequest word;
  v1::Hello* hello = word.mutable_hello();
  hello->set_worker_id(id_);
  hello->set_link_endpoint("127.0.0.1:9/" + id_);
  hello->set_host("host-" + id_);
  hello->set_threads(1);
  hello->set_backend("cpu");
  if (resume) {
    hello->set_run_id(assignment_.run_id());
    hello->set_epoch(assignment_.epoch());
    hello->set_rank(assignment_.rank());
    hello->set_last_applied_sequence(last_applied_);
  }
  Write(word);
  reader_ = std::thread([this] {
    v1::AttachResponse response;
    while (stream_->Read(&response)) {
      std::lock_guard lock(mutex_);
      if (response.has_welcome()) welcomes_.push_back(response.welcome());
      if (response.has_assignment()) assignments_.push_back(response.assignment());
      if (response.has_release()) releases_.push_back(response.release());
      if (response.has_command()) commands_.push_back(response.command());
      if (response.has_report_ack()) {
        durable_step_ = response.report_ack().durable_step();
        ++report_acks_;
      }
      changed_.notify_all();
    }
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  });
  heart_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    while (beating_) {
      changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return !beating_; });
      if (!beating_ || closed_) continue;
      lock.unlock();
      v1::AttachRequest word;
      word.mutable_heartbeat();
      Write(word);
      lock.lock();
    }
  });
}

void FakeWorker::StopHeartbeats() {
  {
    std::lock_guard lock(mutex_);
    beating_ = false;
    changed_.notify_all();
  }
  if (heart_.joinable()) heart_.join();
}

void FakeWorker::Break() {
  StopHeartbeats();
  if (context_ != nullptr) context_->TryCancel();
  if (reader_.joinable()) reader_.join();
  if (stream_ != nullptr) stream_->Finish();
  stream_.reset();
  context_.reset();
}

void FakeWorker::Leave() {
  StopHeartbeats();
  stream_->WritesDone();
  if (reader_.joinable()) reader_.join();
  EXPECT_TRUE(stream_->Finish().ok());
  stream_.reset();
  context_.reset();
}

template <typename T>
std::optional<T> FakeWorker::Take(std::deque<T>* queue, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                    [&] { return !queue->empty() || closed_; });
  if (queue->empty()) return std::nullopt;
  T front = std::move(queue->front());
  queue->pop_front();
  return front;
}

std::optional<v1::Welcome> FakeWorker::WaitWelcome() { return Take(&welcomes_, absl::Seconds(20)); }

std::optional<v1::Assignment> FakeWorker::WaitAssignment(absl::Duration timeout) {
  auto assignment = Take(&assignments_, timeout);
  if (assignment.has_value()) assignment_ = *assignment;
  return assignment;
}

std::optional<v1::Release> FakeWorker::WaitRelease(absl::Duration timeout) {
  return Take(&releases_, timeout);
}

std::optional<v1::Command> FakeWorker::WaitCommand(absl::Duration timeout) {
  return Take(&commands_, timeout);
}

std::optional<v1::Command> FakeWorker::TakeCommand() {
  return Take(&commands_, absl::ZeroDuration());
}

bool FakeWorker::WaitDurable(uint64_t step, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                    [&] { return durable_step_ >= step || closed_; });
  return durable_step_ >= step;
}

uint64_t FakeWorker::durable_step() {
  std::lock_guard lock(mutex_);
  return durable_step_;
}

bool FakeWorker::CatchUp(absl::Duration timeout) {
  uint64_t before = 0;
  {
    std::lock_guard lock(mutex_);
    before = report_acks_;
  }
  v1::AttachRequest word;
  *word.mutable_report() = last_report_;
  Write(word);
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                    [&] { return report_acks_ > before || closed_; });
  return report_acks_ > before;
}

bool FakeWorker::WaitClosed(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return closed_; });
}

void FakeWorker::Write(const v1::AttachRequest& word) {
  std::lock_guard lock(write_mutex_);
  stream_->Write(word);
}

void FakeWorker::Report(v1::StepReport report) {
  report.set_run_id(assignment_.run_id());
  report.set_epoch(assignment_.epoch());
  report.set_rank(assignment_.rank());
  last_report_ = report;
  v1::AttachRequest word;
  *word.mutable_report() = std::move(report);
  Write(word);
}

void FakeWorker::Ack(uint64_t sequence, uint64_t step, const std::string& error,
                     const std::string& path) {
  v1::CommandAck ack;
  ack.set_sequence(sequence);
  ack.set_step(step);
  ack.set_error(error);
  ack.set_path(path);
  Ack(std::move(ack));
}

void FakeWorker::Ack(v1::CommandAck ack) {
  ack.set_run_id(assignment_.run_id());
  ack.set_epoch(assignment_.epoch());
  ack.set_rank(assignment_.rank());
  last_applied_ = ack.sequence();
  v1::AttachRequest word;
  *word.mutable_ack() = std::move(ack);
  Write(word);
}

void FakeWorker::Event(const std::string& name, uint64_t step,
                       const std::map<std::string, std::string>& fields) {
  v1::AttachRequest word;
  v1::RunEvent* event = word.mutable_event();
  event->set_run_id(assignment_.run_id());
  event->set_epoch(assignment_.epoch());
  event->set_rank(assignment_.rank());
  event->set_step(step);
  event->set_name(name);
  for (const auto& [key, value] : fields) (*event->mutable_fields())[key] = value;
  Write(word);
}

void FakeWorker::End(v1::AssignmentEnd::Outcome outcome, const std::string& error) {
  v1::AttachRequest word;
  v1::AssignmentEnd* end = word.mutable_end();
  end->set_run_id(assignment_.run_id());
  end->set_epoch(assignment_.epoch());
  end->set_rank(assignment_.rank());
  end->set_outcome(outcome);
  end->set_error(error);
  Write(word);
}

FakeRun::FakeRun(std::vector<FakeWorker*> workers, std::vector<std::vector<double>> shares)
    : workers_(std::move(workers)), shares_(std::move(shares)) {
  ResetLayout();
}

void FakeRun::ResetLayout() {
  ranks_.clear();
  masked_.assign(shares_.size(), {});
  for (const auto& layer : shares_) {
    std::vector<int> ranks;
    for (size_t expert = 0; expert < layer.size(); ++expert) {
      ranks.push_back(static_cast<int>(expert * workers_.size() / layer.size()));
    }
    ranks_.push_back(ranks);
  }
}

void FakeRun::Steps(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    ++step_;
    for (size_t rank = 0; rank < workers_.size(); ++rank) {
      v1::StepReport report;
      report.set_first_step(step_);
      report.set_last_step(step_);
      report.set_stage(stage);
      report.set_tokens(64);
      report.mutable_duration()->set_nanos(static_cast<int32_t>(step_seconds * 1e9));
      report.mutable_phases()->set_experts_seconds(step_seconds / 2);
      for (size_t layer = 0; layer < shares_.size(); ++layer) {
        const auto share = [&](size_t e) {
          const bool chosen =
              ranks_[layer][e] >= 0 && !masked_[layer].contains(static_cast<int>(e));
          return chosen ? shares_[layer][e] : 0;
        };
        double alive = 0;
        for (size_t e = 0; e < shares_[layer].size(); ++e) alive += share(e);
        v1::LayerLoads* loads = report.add_loads();
        loads->set_layer(static_cast<uint32_t>(layer));
        for (size_t e = 0; e < shares_[layer].size(); ++e) {
          if (ranks_[layer][e] != static_cast<int>(rank)) continue;
          loads->add_experts(static_cast<uint32_t>(e));
          loads->add_tokens(static_cast<uint64_t>(std::llround(100000 * share(e) / alive)));
        }
      }
      if (rank == 0) {
        report.mutable_metrics()->set_loss(5.0 / static_cast<double>(step_));
        report.mutable_metrics()->set_global_tokens(128);
        if (heldout.has_value()) report.mutable_metrics()->set_heldout_loss(*heldout);
      }
      workers_[rank]->Report(std::move(report));
    }
    heldout.reset();
  }
  for (FakeWorker* worker : workers_)
    EXPECT_TRUE(worker->WaitDurable(step_)) << worker->id() << " step " << step_;
  // What was decided on these steps has arrived, too; unless it was that the epoch is over.
  for (FakeWorker* worker : workers_) worker->CatchUp(absl::Seconds(2));
}

void FakeRun::ApplyCommands(const std::string& error) {
  while (true) {
    const auto command = workers_[0]->TakeCommand();
    if (!command.has_value()) return;
    for (size_t rank = 1; rank < workers_.size(); ++rank) {
      const auto other = workers_[rank]->WaitCommand();
      ASSERT_TRUE(other.has_value());
      ASSERT_EQ(other->SerializeAsString(), command->SerializeAsString());
    }
    if (command->has_set_layout() && error.empty()) {
      for (const v1::LayerLayout& layer : command->set_layout().layers()) {
        std::fill(ranks_[layer.layer()].begin(), ranks_[layer.layer()].end(), -1);
        for (int i = 0; i < layer.experts_size(); ++i) {
          ranks_[layer.layer()][layer.experts(i)] = static_cast<int>(layer.ranks(i));
        }
        masked_[layer.layer()] = {layer.masked().begin(), layer.masked().end()};
      }
    }
    applied.push_back(*command);
    v1::CommandAck ack;
    ack.set_sequence(command->sequence());
    ack.set_step(step_);
    ack.set_error(error);
    if (command->checkpoint().pin()) ack.set_path("/checkpoints/step-" + std::to_string(step_));
    for (size_t rank = 0; rank < workers_.size(); ++rank) {
      v1::CommandAck own = ack;
      if (rank == 0 && command->has_set_layout()) {
        own.set_heldout_loss_before(heldout_before);
        own.set_heldout_loss_after(heldout_after);
      }
      if (rank == 0 && command->has_evaluate()) own.set_heldout_loss_after(evaluated);
      workers_[rank]->Ack(std::move(own));
    }
  }
}

std::vector<std::vector<double>> SkewedShares() {
  // Layer 0 and 1 differ in which experts are busy; two of each are next to idle.
  return {{0.30, 0.25, 0.20, 0.12, 0.08, 0.04, 0.006, 0.004},
          {0.004, 0.006, 0.04, 0.08, 0.12, 0.20, 0.25, 0.30}};
}

}  // namespace espalier::coordinator::testing

// Goal: the command line does what its users and scripts rely on: exit codes, one-line errors,
// JSON, and a watch that outlives its coordinator. Method: the real binary against a scripted
// RunService on loopback.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>

#include "espalier/v1/run_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out;  // standard output and error together
};

std::string Binary() {
  const char* folder = std::getenv("ESPALIER_BIN");
  return std::string(folder == nullptr ? "build/release/bin" : folder) + "/espalier";
}

Outcome Espalier(const std::string& arguments) {
  FILE* pipe = popen((Binary() + " " + arguments + " 2>&1").c_str(), "r");
  Outcome outcome;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) outcome.out.append(buffer, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

// Knows one run, "r-1". Each WatchRun call tells two revisions and then breaks off, until
// `revisions_total` were told.
class ScriptedRuns : public v1::RunService::Service {
 public:
  v1::RunState last_state = v1::RUN_STATE_COMPLETED;
  uint64_t revisions_total = 6;
  bool never_ends = false;
  std::atomic<int> watches = 0;
  std::mutex mutex;
  std::vector<uint64_t> resumed_after;
  v1::SubmitRunRequest submitted;

  grpc::Status GetRun(grpc::ServerContext*, const v1::GetRunRequest* request,
                      v1::GetRunResponse* response) override {
    if (request->run_id() != "r-1")
      return {grpc::StatusCode::NOT_FOUND, "no run " + request->run_id()};
    *response->mutable_run() = At(1);
    return grpc::Status::OK;
  }

  grpc::Status SubmitRun(grpc::ServerContext*, const v1::SubmitRunRequest* request,
                         v1::SubmitRunResponse* response) override {
    std::lock_guard lock(mutex);
    submitted = *request;
    if (request->spec().model().top_k() == 500) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "model.top_k: found 500, allowed is at most 8"};
    }
    *response->mutable_run() = At(1);
    return grpc::Status::OK;
  }

  grpc::Status ListRuns(grpc::ServerContext*, const v1::ListRunsRequest* request,
                        v1::ListRunsResponse* response) override {
    *response->add_runs() = At(1);
    if (request->page_token().empty()) response->set_next_page_token("more");
    return grpc::Status::OK;
  }

  grpc::Status WatchRun(grpc::ServerContext* context, const v1::WatchRunRequest* request,
                        grpc::ServerWriter<v1::WatchRunResponse>* writer) override {
    ++watches;
    {
      std::lock_guard lock(mutex);
      resumed_after.push_back(request->after_revision());
    }
    uint64_t revision = request->after_revision();
    for (int k = 0; k < 2 && revision < revisions_total; ++k) {
      v1::WatchRunResponse message;
      *message.mutable_run() = At(++revision);
      writer->Write(message);
    }
    while (never_ends && !context->IsCancelled())
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (revision == revisions_total) return grpc::Status::OK;
    return {grpc::StatusCode::UNAVAILABLE, "going down"};
  }

 private:
  v1::Run At(uint64_t revision) const {
    v1::Run run;
    run.set_run_id("r-1");
    run.set_revision(revision);
    run.set_state(revision == revisions_total && !never_ends ? last_state : v1::RUN_STATE_RUNNING);
    run.mutable_progress()->set_step(revision * 10);
    run.mutable_progress()->set_steps_total(revisions_total * 10);
    run.mutable_progress()->set_loss(3.5);
    run.mutable_summary()->set_wall_seconds(12.5);
    return run;
  }
};

class CliCommands : public testing::Test {
 protected:
  void SetUp() override {
    auto server = rpc::RpcServer::Start({}, {&runs_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    at_ = "--coordinator " + server_->address() + " ";
  }
  ScriptedRuns runs_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::string at_;
};

TEST_F(CliCommands, SaysWhatToDoWhenNobodyListens) {
  server_.reset();
  const Outcome outcome = Espalier(at_ + "run list");
  EXPECT_EQ(3, outcome.code) << outcome.out;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("espalier: cannot reach the coordinator at"),
                                 HasSubstr("--coordinator")));
  EXPECT_EQ(1, std::count(outcome.out.begin(), outcome.out.end(), '\n'));
}

TEST_F(CliCommands, UnknownRunsAreNotFound) {
  for (const char* command : {"run get r-9", "run watch r-9", "run report r-9"}) {
    const Outcome outcome = Espalier(at_ + command);
    EXPECT_EQ(4, outcome.code) << outcome.out;
    EXPECT_THAT(outcome.out, HasSubstr("no run r-9"));
  }
}

TEST_F(CliCommands, WrongUsageAndSpecsExitWithTwo) {
  EXPECT_EQ(2, Espalier(at_ + "run frobnicate").code);
  EXPECT_EQ(2, Espalier(at_ + "run get").code);
  EXPECT_EQ(2, Espalier(at_ + "run submit /no/such/file.yaml").code);
  const Outcome refused = Espalier(at_ + "run submit deploy/runs/tiny.yaml --set=model.top_k=500");
  EXPECT_EQ(2, refused.code);
  EXPECT_THAT(refused.out, AllOf(HasSubstr("model.top_k"), HasSubstr("500")));
  EXPECT_EQ(2, Espalier(at_ + "run submit deploy/runs/tiny.yaml --set=model.top_q=5").code);
}

TEST_F(CliCommands, SubmitSendsTheSpecWithChangesAndAKey) {
  const Outcome outcome = Espalier(
      at_ +
      "--json run submit deploy/runs/tiny.yaml --set model.top_k=3 --set seed=9 --request-id k1");
  ASSERT_EQ(0, outcome.code) << outcome.out;
  EXPECT_EQ("r-1", nlohmann::json::parse(outcome.out)["run"]["run_id"]);
  EXPECT_EQ(3, runs_.submitted.spec().model().top_k());
  EXPECT_EQ(9, runs_.submitted.spec().seed());
  EXPECT_EQ("k1", runs_.submitted.request_id());
}

TEST_F(CliCommands, ListReadsEveryPage) {
  const Outcome outcome = Espalier(at_ + "run list --json");
  ASSERT_EQ(0, outcome.code) << outcome.out;
  EXPECT_EQ(2, nlohmann::json::parse(outcome.out)["runs"].size());
}

TEST_F(CliCommands, WatchReconnectsFromTheLastRevisionUntilTheEnd) {
  const Outcome outcome = Espalier(at_ + "run watch r-1 --json");
  EXPECT_EQ(0, outcome.code) << outcome.out;
  EXPECT_EQ((std::vector<uint64_t>{0, 2, 4}), runs_.resumed_after);
  EXPECT_EQ(6, std::count(outcome.out.begin(), outcome.out.end(), '\n'));
}

TEST_F(CliCommands, AFailedRunExitsWithOne) {
  runs_.last_state = v1::RUN_STATE_FAILED;
  const Outcome outcome = Espalier(at_ + "run submit deploy/runs/tiny.yaml --watch");
  EXPECT_EQ(1, outcome.code) << outcome.out;
  EXPECT_THAT(outcome.out, HasSubstr("failed"));
}

TEST_F(CliCommands, InterruptLeavesTheRunGoingAndSaysSo) {
  runs_.never_ends = true;
  runs_.revisions_total = 2;
  std::thread interrupter([this] {
    for (int i = 0; i < 500 && runs_.watches == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::ifstream file(testing::TempDir() + "/cli.pid");
    pid_t pid = 0;
    file >> pid;
    if (pid > 0) kill(pid, SIGINT);
  });
  // The shell leaves its id, then becomes the binary.
  FILE* pipe = popen(("echo $$ > " + testing::TempDir() + "/cli.pid; exec " + Binary() + " " + at_ +
                      "run watch r-1 2>&1")
                         .c_str(),
                     "r");
  std::string out;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) out.append(buffer, n);
  const int status = pclose(pipe);
  interrupter.join();
  EXPECT_EQ(130, WEXITSTATUS(status)) << out;
  EXPECT_THAT(out, HasSubstr("the run goes on"));
}

TEST_F(CliCommands, ReportWritesTheSummary) {
  const std::string path = testing::TempDir() + "/summary.json";
  ASSERT_EQ(0, Espalier(at_ + "run report r-1 --out " + path).code);
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  EXPECT_DOUBLE_EQ(12.5, json["wall_seconds"].get<double>());
  EXPECT_EQ(5, Espalier(at_ + "run report r-1 --out /no/such/folder/s.json").code);
}

}  // namespace
}  // namespace espalier::cli

// Goal: a run's life as clients and workers see it over real gRPC: bad specs, idempotency, waiting,
// steps, commands, end, watching, paging. Method: a coordinator in the process, scripted workers on
// streams of their own.
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CoordinatorLife, ListsEveryWrongFieldOfABadSpecAndStartsNothing) {
  Harness harness;
  v1::SubmitRunRequest request;
  *request.mutable_spec() = SmallSpec("bad");
  request.mutable_spec()->mutable_model()->set_top_k(9);
  request.mutable_spec()->mutable_model()->set_heads(0);
  request.mutable_spec()->mutable_stages(0)->mutable_pretrain()->set_steps(0);
  v1::SubmitRunResponse response;
  const grpc::Status status = harness.Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("model.top_k"));
  EXPECT_THAT(status.error_message(), HasSubstr("model.heads"));
  EXPECT_THAT(status.error_message(), HasSubstr("stages[0].pretrain.steps"));
  grpc::ClientContext context;
  v1::ListRunsResponse runs;
  ASSERT_TRUE(harness.runs().ListRuns(&context, {}, &runs).ok());
  EXPECT_EQ(runs.runs_size(), 0);
}

TEST(CoordinatorLife, DryRunReturnsTheCompletedSpecAndStartsNothing) {
  Harness harness;
  v1::SubmitRunRequest request;
  *request.mutable_spec() = SmallSpec("dry");
  request.set_dry_run(true);
  v1::SubmitRunResponse response;
  ASSERT_TRUE(harness.Submit(request, &response).ok());
  EXPECT_TRUE(response.run().run_id().empty());
  EXPECT_TRUE(response.run().spec().prune().has_window_steps());
  grpc::ClientContext context;
  v1::ListRunsResponse runs;
  ASSERT_TRUE(harness.runs().ListRuns(&context, {}, &runs).ok());
  EXPECT_EQ(runs.runs_size(), 0);
}

TEST(CoordinatorLife, SubmitTwiceWithOneRequestIdIsOneRunAlsoAfterARestart) {
  Harness harness;
  v1::SubmitRunRequest request;
  *request.mutable_spec() = SmallSpec("once");
  request.set_request_id("req-1");
  v1::SubmitRunResponse first, second, third;
  ASSERT_TRUE(harness.Submit(request, &first).ok());
  ASSERT_TRUE(harness.Submit(request, &second).ok());
  EXPECT_EQ(first.run().run_id(), second.run().run_id());
  harness.Restart();
  ASSERT_TRUE(harness.Submit(request, &third).ok());
  EXPECT_EQ(first.run().run_id(), third.run().run_id());
  EXPECT_EQ(third.run().state(), v1::RUN_STATE_PENDING);
}

TEST(CoordinatorLife, FindsARunByIdPrefixOrNewestOfItsName) {
  Harness harness;
  const std::string older = harness.MustSubmit(SmallSpec("twin"));
  const std::string newer = harness.MustSubmit(SmallSpec("twin"));
  EXPECT_EQ(harness.Get(older).run_id(), older);
  EXPECT_EQ(harness.Get("twin").run_id(), newer);
  EXPECT_EQ(harness.Get(older.substr(0, older.size() - 1)).run_id(), older);
  grpc::ClientContext context;
  v1::GetRunRequest request;
  v1::GetRunResponse response;
  request.set_run_id("r-");
  EXPECT_EQ(harness.runs().GetRun(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext other;
  request.set_run_id("nobody");
  EXPECT_EQ(harness.runs().GetRun(&other, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST(CoordinatorLife, PagesThroughRunsNewestFirstWithoutGapsOrRepeats) {
  Harness harness;
  std::vector<std::string> submitted;
  for (int i = 0; i < 7; ++i)
    submitted.push_back(harness.MustSubmit(SmallSpec(absl::StrCat("run", i))));
  std::vector<std::string> seen;
  v1::ListRunsRequest request;
  request.set_page_size(3);
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListRunsResponse response;
    ASSERT_TRUE(harness.runs().ListRuns(&context, request, &response).ok());
    EXPECT_LE(response.runs_size(), 3);
    for (const v1::Run& run : response.runs()) seen.push_back(run.run_id());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  std::reverse(seen.begin(), seen.end());
  EXPECT_EQ(seen, submitted);
  grpc::ClientContext context;
  v1::ListRunsResponse response;
  request.set_page_token("forged");
  EXPECT_EQ(harness.runs().ListRuns(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(CoordinatorLife, PausesStopsAndResumesOnlyWhatRuns) {
  Harness harness;
  const std::string id = harness.MustSubmit(SmallSpec("idle"));
  v1::PauseRunRequest pause;
  pause.set_run_id(id);
  v1::PauseRunResponse paused;
  grpc::ClientContext context;
  const grpc::Status status = harness.runs().PauseRun(&context, pause, &paused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("pending"));
  v1::StopRunRequest stop;
  stop.set_run_id(id);
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext again;
    v1::StopRunResponse stopped;
    ASSERT_TRUE(harness.runs().StopRun(&again, stop, &stopped).ok());
    EXPECT_EQ(stopped.run().state(), v1::RUN_STATE_STOPPED);
  }
}

TEST(CoordinatorLife, GoesThroughAWholeRun) {
  Harness harness;
  FakeWorker a("a"), b("b");
  a.Attach(harness.address());
  const auto welcome = a.WaitWelcome();
  ASSERT_TRUE(welcome.has_value());
  EXPECT_EQ(welcome->lease().seconds(), 5);
  EXPECT_FALSE(welcome->reattached());
  const std::string id = harness.MustSubmit(SmallSpec("whole", 2, 30));
  EXPECT_EQ(harness.Get(id).state(), v1::RUN_STATE_PENDING);
  b.Attach(harness.address());
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_TRUE(b.WaitAssignment().has_value());
  EXPECT_EQ(a.assignment().run_id(), id);
  EXPECT_EQ(a.assignment().epoch(), 1u);
  EXPECT_EQ(a.assignment().rank(), 0u);
  EXPECT_EQ(b.assignment().rank(), 1u);
  EXPECT_THAT(a.assignment().peers(), ElementsAre("127.0.0.1:9/a", "127.0.0.1:9/b"));
  EXPECT_EQ(a.assignment().link_key(), b.assignment().link_key());
  EXPECT_GE(a.assignment().link_key().size(), 32u);
  EXPECT_TRUE(a.assignment().spec().model().has_router()) << "defaults are filled in";
  EXPECT_EQ(a.assignment().checkpoint(), "");

  a.Event("model_created", 0, {{"params", "1000"}, {"experts", "8,8"}});
  FakeRun run({&a, &b}, SkewedShares());
  run.Steps(20);
  run.heldout = 1.25;
  run.Steps(10);
  const v1::Run now = harness.Get(id);
  EXPECT_EQ(now.state(), v1::RUN_STATE_RUNNING);
  EXPECT_EQ(now.progress().step(), 30u);
  EXPECT_EQ(now.progress().steps_total(), 30u);
  EXPECT_EQ(now.progress().experts_alive(), 16u);
  EXPECT_EQ(now.progress().experts_total(), 16u);
  EXPECT_EQ(now.progress().params(), 1000u);
  EXPECT_DOUBLE_EQ(now.progress().heldout_loss(), 1.25);
  EXPECT_NEAR(now.progress().tokens_per_second(), 1280, 1e-6);
  // Rank 0 holds experts 0..3: 0.87 of layer 0, and rank 1 0.87 of layer 1.
  EXPECT_NEAR(now.progress().imbalance(), 1.74, 1e-3);

  a.Event("export_written", 30, {{"path", "/data/export"}});
  a.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  b.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_COMPLETED));
  const v1::Run done = harness.Get(id);
  EXPECT_EQ(done.export_path(), "/data/export");
  EXPECT_EQ(done.summary().export_path(), "/data/export");
  EXPECT_EQ(done.summary().params_before(), 1000u);
  EXPECT_THAT(done.summary().experts_before(), ElementsAre(8, 8));
  EXPECT_NEAR(done.summary().tokens_per_second_before_prune(), 1280, 1e-6);
  EXPECT_FALSE(done.summary().has_tokens_per_second_after());
  EXPECT_NEAR(done.summary().imbalance_before(), 1.74, 1e-3);
  EXPECT_DOUBLE_EQ(done.summary().heldout_loss_end_pretrain(), 1.25);
  EXPECT_GT(done.summary().wall_seconds(), 0);

  // The workers are idle again, and the next run gets them on the same streams.
  const std::string next = harness.MustSubmit(SmallSpec("next", 2, 30));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  EXPECT_EQ(a.assignment().run_id(), next);
  ASSERT_TRUE(b.WaitAssignment().has_value());

  harness.Restart();
  const v1::Run kept = harness.Get(id);
  EXPECT_EQ(kept.state(), v1::RUN_STATE_COMPLETED);
  EXPECT_EQ(kept.summary().SerializeAsString(), done.summary().SerializeAsString());
}

TEST(CoordinatorLife, RecordsLoadsSeriesEventsAndLayout) {
  Harness harness;
  FakeWorker a("a"), b("b");
  a.Attach(harness.address());
  ASSERT_TRUE(a.WaitWelcome().has_value()) << "ranks go by the order of arrival";
  b.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("recorded", 2, 100));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_TRUE(b.WaitAssignment().has_value());
  FakeRun run({&a, &b}, SkewedShares());
  run.Steps(40);

  v1::GetLoadsRequest loads_request;
  loads_request.set_run_id(id);
  loads_request.set_resolution(1);
  loads_request.add_layers(1);
  loads_request.set_first_step(5);
  loads_request.set_last_step(7);
  v1::GetLoadsResponse loads;
  grpc::ClientContext c1;
  ASSERT_TRUE(harness.history().GetLoads(&c1, loads_request, &loads).ok());
  ASSERT_EQ(loads.layers_size(), 1);
  EXPECT_THAT(loads.layers(0).first_steps(), ElementsAre(5, 6, 7));
  ASSERT_EQ(loads.layers(0).tokens_size(), 24);
  EXPECT_EQ(loads.layers(0).tokens(7), 30000u);
  EXPECT_EQ(loads.layers(0).tokens(0), 400u);

  grpc::ClientContext c2;
  loads_request.clear_layers();
  loads_request.clear_first_step();
  loads_request.clear_last_step();
  loads_request.set_resolution(0);
  loads_request.set_rows_max(4);
  ASSERT_TRUE(harness.history().GetLoads(&c2, loads_request, &loads).ok());
  EXPECT_EQ(loads.resolution(), 16u);
  ASSERT_EQ(loads.layers_size(), 2);
  uint64_t sum = 0;
  for (const uint64_t tokens : loads.layers(0).tokens()) sum += tokens;
  EXPECT_EQ(sum, 40u * 100000u) << "a coarser resolution loses no token";

  grpc::ClientContext c3;
  loads_request.set_resolution(3);
  EXPECT_EQ(harness.history().GetLoads(&c3, loads_request, &loads).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  grpc::ClientContext c4;
  v1::GetSeriesRequest series_request;
  series_request.set_run_id(id);
  series_request.set_points(10);
  v1::GetSeriesResponse series;
  ASSERT_TRUE(harness.history().GetSeries(&c4, series_request, &series).ok());
  EXPECT_EQ(series.points_size(), 10);
  EXPECT_EQ(series.points(9).step(), 40u) << "the newest step is always there";

  grpc::ClientContext c5;
  v1::GetLayoutRequest layout_request;
  layout_request.set_run_id(id);
  v1::GetLayoutResponse layout;
  ASSERT_TRUE(harness.history().GetLayout(&c5, layout_request, &layout).ok());
  EXPECT_THAT(layout.layout().layers(0).ranks(), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));

  for (int i = 0; i < 5; ++i) a.Event("note", 40, {{"i", absl::StrCat(i)}});
  ASSERT_TRUE(Eventually([&] { return harness.Events(id).size() >= 7; }));
  const size_t total = harness.Events(id).size();
  size_t seen = 0;
  v1::ListEventsRequest events_request;
  events_request.set_run_id(id);
  events_request.set_page_size(2);
  do {
    grpc::ClientContext context;
    v1::ListEventsResponse events;
    ASSERT_TRUE(harness.history().ListEvents(&context, events_request, &events).ok());
    seen += events.events_size();
    events_request.set_page_token(events.next_page_token());
  } while (!events_request.page_token().empty());
  EXPECT_EQ(seen, total);
}

TEST(CoordinatorLife, AcksAReportOnlyWhenEveryRankHasReportedIt) {
  Harness harness;
  FakeWorker a("a"), b("b");
  a.Attach(harness.address());
  b.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("slow-rank"));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_TRUE(b.WaitAssignment().has_value());
  v1::StepReport report;
  report.set_first_step(1);
  report.set_last_step(1);
  report.set_stage(v1::STAGE_KIND_PRETRAIN);
  a.Report(report);
  a.Report(report);  // twice: counts once
  EXPECT_FALSE(a.WaitDurable(1, absl::Milliseconds(200)));
  b.Report(report);
  EXPECT_TRUE(a.WaitDurable(1));
  EXPECT_TRUE(b.WaitDurable(1));
  a.Report(report);  // a late repeat is acknowledged, not recorded again
  EXPECT_EQ(harness.Get(id).progress().step(), 1u);
}

TEST(CoordinatorLife, TwoRunsShareTheWorkersInOrder) {
  Harness harness;
  const std::string first = harness.MustSubmit(SmallSpec("first", 2));
  const std::string second = harness.MustSubmit(SmallSpec("second", 2));
  FakeWorker a("a"), b("b"), c("c"), d("d");
  a.Attach(harness.address());
  EXPECT_FALSE(a.WaitAssignment(absl::Milliseconds(200)).has_value())
      << "one worker is too few for either";
  b.Attach(harness.address());
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_TRUE(b.WaitAssignment().has_value());
  EXPECT_EQ(a.assignment().run_id(), first);
  EXPECT_EQ(b.assignment().run_id(), first);
  ASSERT_TRUE(Eventually([&] {
    return harness.Get(second).detail().find("2 idle") != std::string::npos;
  })) << harness.Get(second).detail();
  c.Attach(harness.address());
  d.Attach(harness.address());
  ASSERT_TRUE(c.WaitAssignment().has_value());
  ASSERT_TRUE(d.WaitAssignment().has_value());
  EXPECT_EQ(c.assignment().run_id(), second);

  grpc::ClientContext context;
  v1::ListWorkersRequest request;
  request.set_page_size(3);
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(harness.runs().ListWorkers(&context, request, &workers).ok());
  ASSERT_EQ(workers.workers_size(), 3);
  EXPECT_EQ(workers.workers(0).worker_id(), "a");
  EXPECT_EQ(workers.workers(0).run_id(), first);
  grpc::ClientContext more;
  request.set_page_token(workers.next_page_token());
  ASSERT_TRUE(harness.runs().ListWorkers(&more, request, &workers).ok());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).worker_id(), "d");
}

TEST(CoordinatorLife, PausesResumesExportsAndStopsByCommandsInOneOrder) {
  Harness harness;
  FakeWorker a("a");
  a.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("commanded", 1));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  v1::PauseRunRequest pause;
  pause.set_run_id(id);
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    v1::PauseRunResponse response;
    ASSERT_TRUE(harness.runs().PauseRun(&context, pause, &response).ok());
  }
  auto command = a.WaitCommand();
  ASSERT_TRUE(command.has_value());
  EXPECT_TRUE(command->has_pause());
  EXPECT_EQ(command->sequence(), 1u);
  EXPECT_EQ(harness.Get(id).state(), v1::RUN_STATE_RUNNING) << "nobody has applied it yet";
  a.Ack(1, 4);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_PAUSED));

  v1::ResumeRunRequest resume;
  resume.set_run_id(id);
  grpc::ClientContext c1;
  v1::ResumeRunResponse resumed;
  ASSERT_TRUE(harness.runs().ResumeRun(&c1, resume, &resumed).ok());
  command = a.WaitCommand();
  ASSERT_TRUE(command.has_value());
  EXPECT_TRUE(command->has_resume());
  EXPECT_EQ(command->sequence(), 2u) << "the second pause was not a second command";
  a.Ack(2, 4);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_RUNNING));

  v1::ExportRunResponse exported;
  std::thread exporter([&] {
    grpc::ClientContext context;
    v1::ExportRunRequest request;
    request.set_run_id(id);
    request.set_directory("out");
    EXPECT_TRUE(harness.runs().ExportRun(&context, request, &exported).ok());
  });
  command = a.WaitCommand();
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->export_().directory(), "out");
  a.Ack(3, 6, "", "/data/out");
  exporter.join();
  EXPECT_EQ(exported.path(), "/data/out");
  EXPECT_EQ(exported.step(), 6u);

  grpc::ClientContext short_context;
  short_context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  v1::ExportRunRequest request;
  request.set_run_id(id);
  EXPECT_EQ(harness.runs().ExportRun(&short_context, request, &exported).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(a.WaitCommand().has_value());

  v1::StopRunRequest stop;
  stop.set_run_id(id);
  grpc::ClientContext c2;
  v1::StopRunResponse stopped;
  ASSERT_TRUE(harness.runs().StopRun(&c2, stop, &stopped).ok());
  command = a.WaitCommand();
  ASSERT_TRUE(command.has_value());
  EXPECT_TRUE(command->has_stop());
  a.Event("checkpoint_written", 8, {{"path", "/data/step-8"}});
  a.Ack(command->sequence(), 8, "", "/data/step-8");
  a.End(v1::AssignmentEnd::OUTCOME_STOPPED);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_STOPPED));
  EXPECT_EQ(harness.Get(id).checkpoint(), "/data/step-8");
}

TEST(CoordinatorLife, AWatcherSeesTheEndAndResumesAfterARevision) {
  Harness harness;
  FakeWorker a("a");
  a.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("watched", 1));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  v1::WatchRunRequest request;
  request.set_run_id(id);
  grpc::ClientContext first_context;
  auto first = harness.runs().WatchRun(&first_context, request);
  v1::WatchRunResponse response;
  ASSERT_TRUE(first->Read(&response));
  const uint64_t seen = response.run().revision();
  first_context.TryCancel();
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);

  FakeRun run({&a}, SkewedShares());
  run.Steps(5);
  request.set_after_revision(seen);
  grpc::ClientContext second_context;
  auto second = harness.runs().WatchRun(&second_context, request);
  ASSERT_TRUE(second->Read(&response));
  EXPECT_GT(response.run().revision(), seen);
  a.Event("note", 5, {});
  run.Steps(200);
  a.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  uint64_t last = response.run().revision();
  std::set<std::string> events;
  v1::RunState state = response.run().state();
  while (second->Read(&response)) {
    EXPECT_GT(response.run().revision(), last);
    last = response.run().revision();
    state = response.run().state();
    for (const v1::RunEvent& event : response.events()) events.insert(event.name());
  }
  EXPECT_TRUE(second->Finish().ok());
  EXPECT_EQ(state, v1::RUN_STATE_COMPLETED);
  EXPECT_TRUE(events.contains("note"));
  EXPECT_TRUE(events.contains("run_completed"));

  request.set_after_revision(last);
  grpc::ClientContext third_context;
  auto third = harness.runs().WatchRun(&third_context, request);
  EXPECT_FALSE(third->Read(&response)) << "nothing new";
  EXPECT_TRUE(third->Finish().ok());
  request.set_run_id("nobody");
  grpc::ClientContext fourth_context;
  auto fourth = harness.runs().WatchRun(&fourth_context, request);
  EXPECT_FALSE(fourth->Read(&response));
  EXPECT_EQ(fourth->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST(CoordinatorLife, AWorkersFailureEndsTheRunWithItsMessage) {
  Harness harness;
  FakeWorker a("a"), b("b");
  a.Attach(harness.address());
  b.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("failing"));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_TRUE(b.WaitAssignment().has_value());
  b.End(v1::AssignmentEnd::OUTCOME_FAILED, "data.corpus: corpus.txt does not exist");
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_FAILED));
  EXPECT_THAT(harness.Get(id).detail(), HasSubstr("corpus.txt does not exist"));
  EXPECT_THAT(harness.Get(id).detail(), HasSubstr("rank 1"));
  const auto release = a.WaitRelease();
  ASSERT_TRUE(release.has_value());
  EXPECT_EQ(release->run_id(), id);
}

TEST(CoordinatorLife, TheSummaryTakesReasoningFiguresFromEvents) {
  Harness harness;
  FakeWorker a("a");
  a.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("reasoning", 1));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  a.Event("reinforce_evaluation", 10,
          {{"phase", "before"}, {"accuracy", "0.5"}, {"mean_trace_tokens", "80"}});
  a.Event("reinforce_evaluation", 15,
          {{"phase", "during"}, {"accuracy", "0.1"}, {"mean_trace_tokens", "1"}});
  a.Event("reinforce_evaluation", 20,
          {{"phase", "after"}, {"accuracy", "0.75"}, {"mean_trace_tokens", "40"}});
  ASSERT_TRUE(
      Eventually([&] { return harness.Get(id).summary().has_reasoning_accuracy_after_rl(); }));
  const v1::RunSummary summary = harness.Get(id).summary();
  EXPECT_EQ(summary.reasoning_accuracy_before_rl(), 0.5);
  EXPECT_EQ(summary.reasoning_accuracy_after_rl(), 0.75);
  EXPECT_EQ(summary.mean_trace_tokens_before_rl(), 80);
  EXPECT_EQ(summary.mean_trace_tokens_after_rl(), 40);
}

}  // namespace
}  // namespace espalier::coordinator::testing

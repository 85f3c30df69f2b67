// Goal: what the terminal shows is right, fits, and hides nothing hostile. Method: render known
// messages and look at the strings.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/cli/exit_codes.h"
#include "services/cli/render_experts.h"
#include "services/cli/render_plan.h"
#include "services/cli/render_run.h"
#include "services/cli/render_table.h"
#include "services/cli/summary_json.h"

namespace espalier::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const Style kPlain{.color = false, .unicode = false, .columns = 100};
const Style kRich{.color = true, .unicode = true, .columns = 60};

v1::Run RunningRun() {
  v1::Run run;
  run.set_run_id("r-1");
  run.set_state(v1::RUN_STATE_RUNNING);
  run.mutable_spec()->set_name("quick");
  for (int i = 0; i < 4; ++i) run.mutable_spec()->add_stages();
  v1::RunProgress& progress = *run.mutable_progress();
  progress.set_step(500);
  progress.set_steps_total(2000);
  progress.set_stage_name("pretrain");
  progress.set_stage_step(500);
  progress.set_stage_steps(1000);
  progress.set_loss(3.25);
  progress.set_heldout_loss(3.5);
  progress.set_tokens_per_second(12345);
  progress.set_imbalance(1.234);
  progress.set_experts_alive(90);
  progress.set_experts_total(128);
  progress.set_seconds_left(125);
  progress.set_params(7000000);
  return run;
}

std::string Watched(const WatchView& view, const Style& style) {
  return absl::StrJoin(RenderWatch(view, style), "\n");
}

TEST(Cut, CountsCharactersAndSkipsEscapes) {
  EXPECT_EQ("日本", Cut("日本語", 2));
  EXPECT_EQ(3, ColumnsOf("\x1b[31m日本語\x1b[0m"));
  EXPECT_EQ("\x1b[31m日本\x1b[0m", Cut("\x1b[31m日本語\x1b[0m", 2));
  EXPECT_EQ("", Cut("abc", 0));
  EXPECT_EQ("\x1b[", Cut("\x1b[", 5));
}

TEST(Bar, IsAlwaysAsWideAsAsked) {
  for (const double share : {-1.0, 0.0, 0.001, 0.33, 0.5, 0.999, 1.0, 7.0, std::nan("")}) {
    EXPECT_EQ(20, ColumnsOf(Bar(share, 20, kRich))) << share;
    EXPECT_EQ(20, Bar(share, 20, kPlain).size()) << share;
  }
  EXPECT_EQ("#####.....", Bar(0.5, 10, kPlain));
}

TEST(Sparkline, GoesFromLowestToHighest) {
  EXPECT_EQ("▁█", Sparkline({1, 9}, 10, kRich));
  EXPECT_EQ("", Sparkline({}, 10, kRich));
  EXPECT_EQ(1, ColumnsOf(Sparkline({std::nan(""), 2}, 10, kRich)));
  EXPECT_EQ(10, ColumnsOf(Sparkline(std::vector<double>(1000, 1), 10, kRich)));
}

TEST(Duration, ReadsWell) {
  EXPECT_EQ("59 s", Duration(59.2));
  EXPECT_EQ("2 min 05 s", Duration(125));
  EXPECT_EQ("2 h 07 min", Duration(7620));
  EXPECT_EQ("?", Duration(INFINITY));
}

TEST(RenderWatch, ShowsStageStepLossSpeedImbalanceExpertsAndTimeLeft) {
  WatchView view;
  v1::WatchRunResponse message;
  *message.mutable_run() = RunningRun();
  view.Update(message);
  EXPECT_THAT(Watched(view, kPlain),
              AllOf(HasSubstr("stage 1/4 pretrain"), HasSubstr("500/2000"), HasSubstr("25%"),
                    HasSubstr("50%"), HasSubstr("loss 3.2500"), HasSubstr("held-out 3.5000"),
                    HasSubstr("12.3 k tokens/s"), HasSubstr("1.234"), HasSubstr("90 of 128"),
                    HasSubstr("2 min 05 s left")));
  EXPECT_THAT(Watched(view, kPlain), Not(HasSubstr("\x1b")));
}

TEST(RenderWatch, FitsTheTerminal) {
  WatchView view;
  v1::WatchRunResponse message;
  *message.mutable_run() = RunningRun();
  message.mutable_run()->set_detail(std::string(500, 'x'));
  message.add_events()->set_text(std::string(500, 'y'));
  view.Update(message);
  for (const std::string& line : RenderWatch(view, kRich)) {
    EXPECT_LE(ColumnsOf(line), 60);
    EXPECT_EQ(std::string::npos, line.find('\n'));
  }
}

TEST(RenderWatch, ShowsReinforcementAndALostConnection) {
  WatchView view;
  v1::WatchRunResponse message;
  *message.mutable_run() = RunningRun();
  auto* reinforce = message.mutable_run()->mutable_progress()->mutable_reinforce();
  reinforce->set_accuracy(0.875);
  reinforce->set_mean_trace_tokens(41.5);
  view.Update(message);
  view.notice = "connection lost";
  EXPECT_THAT(Watched(view, kPlain), AllOf(HasSubstr("accuracy 87.5%"), HasSubstr("41.5 tokens"),
                                           HasSubstr("connection lost")));
  EXPECT_THAT(RenderProgressLine(view.run), HasSubstr("accuracy 87.5%"));
}

TEST(RenderWatch, LetsNoTextOfTheRunMoveTheCursor) {
  WatchView view;
  v1::WatchRunResponse message;
  *message.mutable_run() = RunningRun();
  message.mutable_run()->set_detail("bad\x1b[2Jthing\nnext");
  view.Update(message);
  EXPECT_THAT(Watched(view, kPlain), AllOf(HasSubstr("bad?[2Jthing next"), Not(HasSubstr("\x1b"))));
}

TEST(WatchView, KeepsBoundedHistoryAndStartsAnewWithAStage) {
  WatchView view;
  v1::WatchRunResponse message;
  *message.mutable_run() = RunningRun();
  for (int step = 1; step <= 20000; ++step) {
    message.mutable_run()->mutable_progress()->set_step(step);
    message.clear_events();
    message.add_events()->set_step(step);
    view.Update(message);
    ASSERT_LE(view.losses.size(), WatchView::kLossesMax);
  }
  EXPECT_EQ(WatchView::kEventsMax, view.events.size());
  message.mutable_run()->mutable_progress()->set_stage_index(1);
  message.mutable_run()->mutable_progress()->set_step(20001);
  view.Update(message);
  EXPECT_EQ(1, view.losses.size());
}

TEST(RenderReport, ShowsChangesAndLeavesOutWhatIsUnknown) {
  v1::Run run = RunningRun();
  v1::RunSummary& summary = *run.mutable_summary();
  summary.set_params_before(7000000);
  summary.set_params_after(3500000);
  for (const uint32_t count : {20, 24}) summary.add_experts_after(count);
  summary.set_reasoning_accuracy_before_rl(0.8);
  summary.set_reasoning_accuracy_after_rl(0.95);
  const std::string report = RenderReport(run, kPlain);
  EXPECT_THAT(report, AllOf(HasSubstr("7.000 -> 3.500"), HasSubstr("-50.0%"), HasSubstr("20 24"),
                            HasSubstr("80.0 -> 95.0"), Not(HasSubstr("held-out"))));
}

TEST(SummaryJson, HasEveryKeyAndNullForTheUnknown) {
  v1::RunSummary summary;
  summary.set_params_before(uint64_t{1} << 40);
  summary.add_experts_before(32);
  summary.set_export_path("/data/export");
  const auto json = nlohmann::ordered_json::parse(SummaryJson(summary));
  const std::vector<std::string> keys = {"params_before",
                                         "params_after",
                                         "experts_before",
                                         "experts_after",
                                         "heldout_loss_before_prune",
                                         "heldout_loss_end_pretrain",
                                         "tokens_per_second_before_prune",
                                         "tokens_per_second_after",
                                         "imbalance_before",
                                         "imbalance_after",
                                         "experts_moved",
                                         "reasoning_accuracy_before_rl",
                                         "reasoning_accuracy_after_rl",
                                         "mean_trace_tokens_before_rl",
                                         "mean_trace_tokens_after_rl",
                                         "wall_seconds",
                                         "export_path"};
  std::vector<std::string> found;
  for (const auto& [key, value] : json.items()) found.push_back(key);
  EXPECT_EQ(keys, found);
  EXPECT_EQ(uint64_t{1} << 40, json["params_before"].get<uint64_t>());
  EXPECT_TRUE(json["wall_seconds"].is_null());
  EXPECT_EQ(32, json["experts_before"][0]);
}

TEST(RenderExperts, ShowsRanksLoadsAndWhoIsGone) {
  v1::GetLoadsResponse loads;
  v1::LoadMatrix& matrix = *loads.add_layers();
  matrix.set_layer(3);
  matrix.set_experts(4);
  for (const uint64_t tokens : {10, 0, 30, 20, 10, 0, 30, 20}) matrix.add_tokens(tokens);
  v1::GetLayoutResponse layout;
  v1::LayerLayout& layer = *layout.mutable_layout()->add_layers();
  layer.set_layer(3);
  for (const uint32_t expert : {0, 2, 3}) layer.add_experts(expert);
  for (const uint32_t rank : {0, 1, 0}) layer.add_ranks(rank);
  const std::string plain = RenderExperts(loads, layout, kPlain);
  EXPECT_THAT(plain, AllOf(HasSubstr("3 of 4 experts alive"),
                           HasSubstr("rank 0   34  1.000 of the mean, 2 experts"),
                           HasSubstr("rank 1   4  1.000"), Not(HasSubstr("\x1b"))));
  EXPECT_THAT(RenderExperts(loads, layout, kRich), HasSubstr("\x1b[38;5;"));
  EXPECT_THAT(RenderExperts({}, {}, kPlain), HasSubstr("No loads"));
}

TEST(RenderPlan, SaysWhyThereIsNothingToDo) {
  v1::Plan plan;
  plan.set_empty(true);
  plan.set_reason("the loads are not stable");
  EXPECT_THAT(RenderPlan(plan, kPlain), HasSubstr("Nothing to do: the loads are not stable"));
  plan.add_layers()->set_experts_before(32);
  EXPECT_THAT(RenderPlan(plan, kPlain), HasSubstr("32 -> 0"));
}

TEST(RenderTable, AlignsColouredCells) {
  const std::string table =
      RenderTable({{"A", "B"}, {Paint("xx", Tone::kRed, kRich), "1"}, {"yyyy", "2"}}, kRich);
  EXPECT_THAT(table, AllOf(HasSubstr("xx\x1b[0m    1\n"), HasSubstr("yyyy  2\n")));
}

TEST(ErrorText, IsOneLineUnlessItListsFields) {
  EXPECT_EQ("espalier: no run r9 — look\n", ErrorText(absl::NotFoundError("no run r9 — look")));
  EXPECT_EQ("espalier: a.yaml:\n  x: bad\n  y: bad\n",
            ErrorText(absl::InvalidArgumentError("a.yaml:\nx: bad\ny: bad")));
  EXPECT_EQ("espalier: a?[2Jb\n", ErrorText(absl::InternalError("a\x1b[2Jb")));
}

TEST(ExitCodeOf, FollowsTheDocumentedCodes) {
  EXPECT_EQ(0, ExitCodeOf(absl::OkStatus()));
  EXPECT_EQ(2, ExitCodeOf(absl::InvalidArgumentError("")));
  EXPECT_EQ(3, ExitCodeOf(absl::UnavailableError("")));
  EXPECT_EQ(4, ExitCodeOf(absl::NotFoundError("")));
  EXPECT_EQ(5, ExitCodeOf(absl::ResourceExhaustedError("")));
}

}  // namespace
}  // namespace espalier::cli

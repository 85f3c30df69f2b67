// Goal: a step with a gradient that is not finite changes no weight on any rank, is counted and
// reported, and the run goes on. Method: links that put an infinity into what one rank gives to the
// sum of one step's gradients.
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/integration/train_commands_fixture.h"

namespace espalier::train {
namespace {

// Passes everything on, but for one element of the `poisoned`-th sum of floats: the trainer sums
// nothing but dense gradients, once a step for so small a model.
class PoisonedLinks final : public collective::Communicator {
 public:
  PoisonedLinks(std::unique_ptr<collective::Communicator> links, int poisoned)
      : links_(std::move(links)), poisoned_(poisoned) {}

  int rank() const override { return links_->rank(); }
  int size() const override { return links_->size(); }
  absl::Status AllReduceSum(std::span<float> data) override {
    if (++sums_ == poisoned_) data[data.size() / 2] = std::numeric_limits<float>::infinity();
    return links_->AllReduceSum(data);
  }
  absl::Status AllReduceSum(std::span<double> data) override { return links_->AllReduceSum(data); }
  absl::Status AllReduceMin(std::span<int64_t> data) override { return links_->AllReduceMin(data); }
  absl::Status AllReduceSum(std::span<int64_t> data) override { return links_->AllReduceSum(data); }
  absl::Status AllToAllV(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                         std::span<std::byte> recv, std::span<const int64_t> recv_bytes) override {
    return links_->AllToAllV(send, send_bytes, recv, recv_bytes);
  }
  absl::Status AllToAll(std::span<const int64_t> send, std::span<int64_t> recv) override {
    return links_->AllToAll(send, recv);
  }
  absl::Status Broadcast(int root, std::string* data) override {
    return links_->Broadcast(root, data);
  }
  absl::Status Barrier() override { return links_->Barrier(); }
  void Abort(absl::Status reason) override { links_->Abort(std::move(reason)); }
  absl::Status Health() override { return links_->Health(); }

 private:
  std::unique_ptr<collective::Communicator> links_;
  const int poisoned_;
  int sums_ = 0;
};

class TrainSkips : public TrainCommands {
 protected:
  TrainSkips() {
    request_.ranks = 3;
    request_.spec.mutable_checkpoints()->set_every_steps(1);
    request_.spec.mutable_checkpoints()->set_keep(100);
  }

  std::string PathOf(uint64_t step) const {
    return folder_.path() + "/runs/" + request_.run_id + "/checkpoints/" +
           model::CheckpointName(step);
  }
};

TEST_F(TrainSkips, AnInfiniteGradientOfOneRankSkipsItsStepOnAllAndNoOther) {
  const RunRecord plain = RunOnRanks(request_);
  request_.run_id = "poisoned";
  request_.wrap_links = [](int rank, std::unique_ptr<collective::Communicator> links) {
    return std::make_unique<PoisonedLinks>(std::move(links), rank == 1 ? 4 : 0);
  };
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(plain.Ok() && run.Ok());
  // The loss of step 4 is that of the weights before it.
  const auto losses = run.Losses(), expected = plain.Losses();
  for (uint64_t step = 1; step <= 4; ++step) EXPECT_EQ(losses.at(step), expected.at(step)) << step;
  EXPECT_NE(losses.at(5), expected.at(5));
  for (const v1::StepReport& report : run.ranks[0]->reports) {
    EXPECT_EQ(report.metrics().skipped_steps(), report.last_step() >= 4 ? 1u : 0u)
        << report.last_step();
  }
  const auto events = run.Events("step_skipped");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].fields().at("step"), "4");
  // Weights and moments of every rank's own experts, and of what all ranks hold.
  EXPECT_EQ(TensorsOf(PathOf(4), 3), TensorsOf(PathOf(3), 3));
  const auto at4 = TensorsOf(PathOf(4), 3), at5 = TensorsOf(PathOf(5), 3);
  EXPECT_NE(at4.at("model.embed_tokens.weight"), at5.at("model.embed_tokens.weight"));
}

TEST_F(TrainSkips, ARestartKnowsWhatWasSkipped) {
  request_.wrap_links = [](int rank, std::unique_ptr<collective::Communicator> links) {
    return std::make_unique<PoisonedLinks>(std::move(links), rank == 2 ? 2 : 0);
  };
  const RunRecord whole = RunOnRanks(request_);
  ASSERT_TRUE(whole.Ok());
  RunRequest rest = request_;
  rest.wrap_links = nullptr;
  rest.run_id = "rest";
  rest.checkpoint = PathOf(5);
  const RunRecord resumed = RunOnRanks(rest);
  ASSERT_TRUE(resumed.Ok());
  ExpectSameCurve(resumed.Losses(), whole.Losses(), 5, 0.0);
  EXPECT_EQ(resumed.ranks[0]->reports.back().metrics().skipped_steps(), 1u);
}

}  // namespace
}  // namespace espalier::train

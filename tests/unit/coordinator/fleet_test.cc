// Goal: the fleet gives each rank one worker, and gives it back to the same one where it can.
#include "services/coordinator/fleet.h"

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

class SilentLink : public WorkerLink {
 public:
  void Send(v1::AttachResponse) override {}
  void Close(const absl::Status& status) override { closed = status; }
  void Processed() override {}
  absl::Status closed;
};

Worker* Add(Fleet* fleet, const std::string& id, const std::string& backend = "cpu") {
  v1::Hello hello;
  hello.set_worker_id(id);
  hello.set_backend(backend);
  return fleet->Attach(hello, std::make_shared<SilentLink>(), absl::UnixEpoch());
}

TEST(Fleet, ChoosesNobodyWhenTooFewAreIdle) {
  Fleet fleet;
  Add(&fleet, "a");
  Add(&fleet, "b")->run_id = "busy";
  EXPECT_TRUE(fleet.Choose(2, {}).empty());
  EXPECT_EQ(fleet.IdleCount(), 1u);
}

TEST(Fleet, DoesNotMixBackends) {
  Fleet fleet;
  Add(&fleet, "a", "cpu");
  Add(&fleet, "b", "cuda");
  EXPECT_TRUE(fleet.Choose(2, {}).empty());
  Add(&fleet, "c", "cuda");
  const auto chosen = fleet.Choose(2, {});
  ASSERT_EQ(chosen.size(), 2u);
  EXPECT_EQ(chosen[0]->hello.worker_id(), "b");
}

TEST(Fleet, GivesFormerMembersTheirRankAgain) {
  Fleet fleet;
  for (const char* id : {"z", "y", "x", "w"}) Add(&fleet, id);
  const auto chosen = fleet.Choose(3, {"x", "gone", "z"});
  ASSERT_EQ(chosen.size(), 3u);
  EXPECT_EQ(chosen[0]->hello.worker_id(), "x");
  EXPECT_EQ(chosen[1]->hello.worker_id(), "y") << "the longest attached of the rest";
  EXPECT_EQ(chosen[2]->hello.worker_id(), "z");
}

TEST(Fleet, ANewStreamOfAWorkerReplacesTheOldOne) {
  Fleet fleet;
  v1::Hello hello;
  hello.set_worker_id("a");
  auto first = std::make_shared<SilentLink>();
  auto second = std::make_shared<SilentLink>();
  fleet.Attach(hello, first, absl::UnixEpoch());
  Worker* worker = fleet.Attach(hello, second, absl::UnixEpoch());
  EXPECT_FALSE(first->closed.ok());
  EXPECT_EQ(fleet.FindByLink(first.get()), nullptr)
      << "the old stream's end must not count as the worker's";
  EXPECT_EQ(fleet.FindByLink(second.get()), worker);
  EXPECT_EQ(fleet.workers().size(), 1u);
}

TEST(Fleet, NamesTheSilent) {
  Fleet fleet;
  Add(&fleet, "a")->last_heard = absl::FromUnixSeconds(10);
  Add(&fleet, "b")->last_heard = absl::FromUnixSeconds(20);
  EXPECT_EQ(fleet.Silent(absl::FromUnixSeconds(15)), std::vector<std::string>{"a"});
}

}  // namespace
}  // namespace espalier::coordinator

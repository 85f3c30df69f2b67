// Goal: what a rank said is kept until it is durable, and said again in order. Method: a session
// alone, no network.
#include "services/worker/session.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/worker/worker.h"

namespace espalier::worker {
namespace {

using testing::HasSubstr;

v1::Assignment MakeAssignment() {
  v1::Assignment assignment;
  assignment.set_run_id("r-1");
  assignment.set_epoch(3);
  assignment.set_rank(1);
  return assignment;
}

v1::Command MakeCommand(uint64_t sequence) {
  v1::Command command;
  command.set_sequence(sequence);
  return command;
}

v1::StepReport MakeReport(uint64_t step) {
  v1::StepReport report;
  report.set_first_step(step);
  report.set_last_step(step);
  return report;
}

// "r5" a report of step 5, "a2" an ack of command 2, "end".
std::string Name(const v1::AttachRequest& word) {
  if (word.has_report()) return "r" + std::to_string(word.report().last_step());
  if (word.has_ack()) return "a" + std::to_string(word.ack().sequence());
  if (word.has_event()) return "e";
  return word.has_end() ? "end" : "?";
}

std::vector<std::string> SendAll(Session& session) {
  std::vector<std::string> names;
  while (auto word = session.NextToSend()) names.push_back(Name(*word));
  return names;
}

TEST(Session, CommandsCountOnceNoneIsMissing) {
  Session session(MakeAssignment(), [] {});
  session.AddCommand(MakeCommand(2));
  EXPECT_EQ(session.HighestContiguousSequence(), 0u);
  session.AddCommand(MakeCommand(1));
  session.AddCommand(MakeCommand(1));
  EXPECT_EQ(session.HighestContiguousSequence(), 2u);
  EXPECT_EQ(session.GetCommand(2).sequence(), 2u);
}

TEST(Session, SignsWhatItSays) {
  Session session(MakeAssignment(), [] {});
  session.Report(MakeReport(1));
  const auto word = session.NextToSend();
  EXPECT_EQ(word->report().run_id(), "r-1");
  EXPECT_EQ(word->report().epoch(), 3u);
  EXPECT_EQ(word->report().rank(), 1u);
}

TEST(Session, ABrokenStreamRepeatsWhatIsNotDurableInOrder) {
  Session session(MakeAssignment(), [] {});
  session.Report(MakeReport(1));
  v1::CommandAck ack;
  ack.set_sequence(7);
  session.Ack(ack);
  session.Report(MakeReport(2));
  session.Event(v1::RunEvent());
  session.Report(MakeReport(3));
  EXPECT_THAT(SendAll(session), testing::ElementsAre("r1", "a7", "r2", "e", "r3"));
  session.SetDurable(2);
  session.SendAgain();
  EXPECT_THAT(SendAll(session), testing::ElementsAre("e", "r3"));
  session.End(v1::AssignmentEnd::OUTCOME_COMPLETED, "");
  session.SetDurable(3);
  EXPECT_THAT(SendAll(session), testing::ElementsAre("end"));
  v1::Hello hello;
  session.Introduce(&hello);
  EXPECT_EQ(hello.last_applied_sequence(), 7u);
  EXPECT_EQ(hello.epoch(), 3u);
}

TEST(Session, WhatIsNotSentYetIsNotDropped) {
  Session session(MakeAssignment(), [] {});
  session.Report(MakeReport(1));
  session.SetDurable(1);
  EXPECT_THAT(SendAll(session), testing::ElementsAre("r1"));
}

TEST(Session, CancelEndsTheLinksWheneverTheyComeUp) {
  for (const bool links_first : {true, false}) {
    Session session(MakeAssignment(), [] {});
    const auto links = collective::MakeSingleCommunicator();
    if (links_first) session.SetLinks(links.get());
    session.Cancel("told to");
    if (!links_first) session.SetLinks(links.get());
    EXPECT_TRUE(session.Cancelled());
    EXPECT_FALSE(links->Barrier().ok());
  }
}

TEST(Worker, SharesTheCoresAmongTheRanksOfItsHost) {
  const std::vector<std::string> peers = {"a:1", "a:2", "b:1", "a:3"};
  EXPECT_EQ(ThreadsFor(0, 0, 8, peers, 0), 2);
  EXPECT_EQ(ThreadsFor(0, 0, 8, peers, 2), 8);
  EXPECT_EQ(ThreadsFor(0, 0, 2, peers, 0), 1);
  EXPECT_EQ(ThreadsFor(0, 5, 8, peers, 0), 5);
  EXPECT_EQ(ThreadsFor(3, 5, 8, peers, 0), 3);
}

TEST(Worker, WrongFlagsAreNamed) {
  WorkerOptions options;
  EXPECT_TRUE(options.Validate().ok());
  options.coordinator = "nowhere";
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--coordinator"));
  options = {.listen_links = "0.0.0.0:7100"};
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--advertise"));
  options = {.data_root = "/no/such/folder"};
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("/no/such/folder"));
  options = {.threads = -1};
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--threads"));
}

}  // namespace
}  // namespace espalier::worker

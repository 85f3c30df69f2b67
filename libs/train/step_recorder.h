// StepRecorder: what one rank did in a step and when, kept for every step and told only of those
// that are sampled.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "espalier/v1/fleet_service.pb.h"
#include "libs/model/timeline.h"
#include "libs/observe/span.h"
#include "libs/observe/step_sampler.h"
#include "libs/observe/trace_context.h"
#include "libs/train/controller.h"

namespace espalier::train {

// Used from the trainer's thread; spans of calls come from anywhere. A step is judged when it ends:
// one in N and those with a command are told at once, a slow one when the next step's exchange has
// told every rank.
class StepRecorder {
 public:
  // Phases of one step beyond these are left out, and counted.
  static constexpr size_t kEntriesMax = 4096;

  // Records nothing until Start.
  StepRecorder();
  ~StepRecorder();
  void Start(const v1::Assignment& assignment, uint32_t rank, TrainController* controller);
  bool on() const { return sampler_.on(); }

  void BeginStep(uint64_t step, v1::StageKind stage);
  // The step's own work is done, commands and reports follow: its time is judged.
  void StepDone();
  void EndStep();
  // A command is applied after this step, so that it is told.
  void NoteCommand() { has_command_ = true; }

  // -1 where this rank saw that the step before was slow, else 0: the step's exchange takes the
  // least of all ranks', and Hear gets that.
  int64_t SlowVote() const;
  void Hear(int64_t least);

  // Times of the phases of the model, for it to fill in within a pass; null while nothing is
  // recorded.
  model::Timeline* timeline() { return in_step_ ? &timeline_ : nullptr; }
  bool in_step() const { return in_step_; }
  // By the clock of this step.
  int64_t Now() const { return clock_.Now(); }

  // A phase of the step; phases begun within it lie beneath it. Nothing outside a step.
  class Phase {
   public:
    Phase(StepRecorder& recorder, const char* name);
    ~Phase() { End(); }
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    // Before the lifetime ends. Repeating it changes nothing.
    void End();
    void Set(const char* key, observe::AttributeValue value);
    void Link(const observe::SpanContext& span);
    // For calls that belong to the phase; invalid outside a step.
    observe::CurrentTrace current() const;

   protected:
    StepRecorder& recorder_;
    int index_ = -1;
  };
  // Forward and backward passes: what the model marks meanwhile lies beneath.
  class Pass : public Phase {
   public:
    Pass(StepRecorder& recorder, const char* name);
    ~Pass() { End(); }
    void End();

   private:
    size_t marks_begin_ = 0;
  };

 private:
  struct Entry {
    const char* name = "";
    int parent = -1;
    int64_t start = 0, end = 0;  // of the steady clock
    size_t marks_begin = 0, marks_end = 0;
    std::vector<observe::Attribute> attributes;
    std::vector<observe::SpanContext> links;
  };
  struct Step {
    uint64_t number = 0;
    v1::StageKind stage = v1::STAGE_KIND_UNSPECIFIED;
    int64_t start = 0, end = 0;
    observe::TraceClock clock;
    TraceClockFacts facts;
    std::vector<Entry> entries;
    std::vector<model::PhaseMark> marks;
    std::vector<observe::Span> calls;
    uint64_t left_out = 0;
    bool slow = false, told = true;
  };
  class Calls;

  int Open(const char* name);
  void Close(int index);
  void Tell(const Step& step, v1::TraceReason reason);
  observe::SpanId IdOf(int index) const { return observe::ChildOf(root_, index); }

  observe::StepSampler sampler_{0};
  TrainController* controller_ = nullptr;
  std::string run_;
  uint64_t epoch_ = 0;
  uint32_t rank_ = 0;
  bool in_step_ = false, has_command_ = false;
  v1::StageKind stage_ = v1::STAGE_KIND_UNSPECIFIED;
  observe::TraceId trace_;
  observe::SpanId root_ = 0;
  observe::TraceClock clock_;
  int open_ = -1;  // innermost phase
  model::Timeline timeline_;
  uint64_t entries_left_out_ = 0;
  Step step_, before_;            // the one under way, and the last
  std::shared_ptr<Calls> calls_;  // shared with calls that end late
};

}  // namespace espalier::train

// A run on the terminal: the live display, one plain line of progress, and the final report.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "espalier/v1/run_service.pb.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

// What the display remembers between messages. Not thread-safe.
struct WatchView {
  static constexpr size_t kLossesMax = 4096;
  static constexpr size_t kEventsMax = 6;

  v1::Run run;
  std::vector<double> losses;  // of the stage; thinned by halves when too many
  std::deque<v1::RunEvent> events;
  std::string notice;  // such as a lost connection

  // Takes a message in. Figures of a stage start anew with it.
  void Update(const v1::WatchRunResponse& message);

 private:
  uint64_t last_step_ = 0;
  uint32_t last_stage_ = 0;
};

bool HasEnded(v1::RunState state);

// Lines of the live display, each at most style.columns wide.
std::vector<std::string> RenderWatch(const WatchView& view, const Style& style);
// One line for logs and pipes.
std::string RenderProgressLine(const v1::Run& run);
// What a run's page says, and the closing report.
std::string RenderRun(const v1::Run& run, const Style& style);
std::string RenderReport(const v1::Run& run, const Style& style);

}  // namespace espalier::cli

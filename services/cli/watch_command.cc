// run watch: one thread reads the stream (and reconnects from the last revision), the main one
// redraws and listens for Ctrl-C.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/cli/render_run.h"
#include "services/cli/render_table.h"

namespace espalier::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRedrawInterval = std::chrono::milliseconds(250);
constexpr auto kPlainInterval = std::chrono::seconds(5);
constexpr auto kBackoffMin = std::chrono::milliseconds(250);
constexpr auto kBackoffMax = std::chrono::milliseconds(4000);
constexpr auto kReconnectMax = std::chrono::seconds(120);
constexpr size_t kQueueMax = 1024;

volatile std::sig_atomic_t interrupted = 0;

// Takes Ctrl-C for the life of the object.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ {};
};

bool IsTransient(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::CANCELLED ||
         code == grpc::StatusCode::DEADLINE_EXCEEDED || code == grpc::StatusCode::INTERNAL;
}

// Reads WatchRun on a thread of its own. Thread-safe.
class Follower {
 public:
  Follower(const std::string& address, const std::string& run_id)
      : address_(address), run_id_(run_id), thread_([this] { Run(); }) {}

  ~Follower() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      if (context_ != nullptr) context_->TryCancel();
    }
    changed_.notify_all();
    thread_.join();
  }

  // Waits up to `wait` for news and takes it; `notice` says whether the connection is down.
  std::deque<v1::WatchRunResponse> Take(std::chrono::milliseconds wait, std::string* notice) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, wait, [this] { return !queue_.empty() || end_.has_value(); });
    *notice = notice_;
    return std::move(queue_);
  }

  // Why no more will come, once it is so.
  std::optional<absl::Status> end() {
    std::lock_guard lock(mutex_);
    return queue_.empty() ? end_ : std::nullopt;
  }

 private:
  void Run() {
    auto backoff = std::chrono::milliseconds(kBackoffMin);
    Clock::time_point heard = Clock::now();
    while (true) {
      const uint64_t before = revision_;
      const grpc::Status status = ReadStream();
      if (revision_ != before) {
        backoff = kBackoffMin;
        heard = Clock::now();
      }
      std::unique_lock lock(mutex_);
      if (stopping_) return;
      if (ended_ || (!status.ok() && !IsTransient(status.error_code())) ||
          Clock::now() - heard > kReconnectMax) {
        end_ = ended_ ? absl::OkStatus()
                      : CallError(
                            status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "") : status,
                            "coordinator", address_);
        changed_.notify_all();
        return;
      }
      notice_ = "connection lost, trying again; the run goes on without us";
      changed_.wait_for(lock, backoff, [this] { return stopping_; });
      if (stopping_) return;
      backoff = std::min<std::chrono::milliseconds>(backoff * 2, kBackoffMax);
    }
  }

  grpc::Status ReadStream() {
    grpc::ClientContext context;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return grpc::Status::CANCELLED;
      context_ = &context;
    }
    v1::RunService::Stub stub(rpc::MakeChannel(address_));
    v1::WatchRunRequest request;
    request.set_run_id(run_id_);
    request.set_after_revision(revision_);
    const auto reader = stub.WatchRun(&context, request);
    v1::WatchRunResponse message;
    while (reader->Read(&message)) Push(message);
    const grpc::Status status = reader->Finish();
    std::lock_guard lock(mutex_);
    context_ = nullptr;
    return status;
  }

  void Push(const v1::WatchRunResponse& message) {
    std::lock_guard lock(mutex_);
    revision_ = message.run().revision();
    ended_ = HasEnded(message.run().state());
    notice_.clear();
    if (queue_.size() == kQueueMax) queue_.pop_front();  // each message holds the whole run
    queue_.push_back(message);
    changed_.notify_all();
  }

  const std::string address_, run_id_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::WatchRunResponse> queue_;
  std::string notice_;
  std::optional<absl::Status> end_;
  grpc::ClientContext* context_ = nullptr;  // of the call in flight
  bool stopping_ = false;
  bool ended_ = false;     // reader thread only
  uint64_t revision_ = 0;  // reader thread only
  std::thread thread_;     // last: starts when the rest is there
};

// Draws over what it drew before.
class Screen {
 public:
  void Draw(const std::vector<std::string>& lines) {
    std::string text = height_ > 0 ? absl::StrCat("\x1b[", height_, "A\r\x1b[J") : "";
    for (const std::string& line : lines) absl::StrAppend(&text, line, "\n");
    height_ = lines.size();
    Write(text);
  }

 private:
  size_t height_ = 0;
};

// Prints what came, in the form that the context asks for.
class Printer {
 public:
  explicit Printer(const Context& context) : context_(context) {}

  void Show(const std::deque<v1::WatchRunResponse>& messages, const std::string& notice) {
    for (const v1::WatchRunResponse& message : messages) {
      view_.Update(message);
      if (context_.json) Write(ToJson(message, /*pretty=*/false));
      if (!context_.json && !context_.terminal) {
        for (const v1::RunEvent& event : message.events())
          Write(RenderEvent(event, context_.style) + "\n");
      }
    }
    if (context_.json) return;
    const bool news = notice != view_.notice;
    view_.notice = notice;
    if (context_.terminal) {
      if (news || !messages.empty()) screen_.Draw(RenderWatch(view_, context_.style));
      return;
    }
    if (news && !notice.empty()) Write(notice + "\n");
    const bool changed = shown_state_ != view_.run.state();
    if (view_.run.run_id().empty() || (!changed && Clock::now() - shown_ < kPlainInterval)) return;
    if (!changed && messages.empty()) return;
    shown_state_ = view_.run.state();
    shown_ = Clock::now();
    Write(RenderProgressLine(view_.run) + "\n");
  }

  const v1::Run& run() const { return view_.run; }

 private:
  const Context& context_;
  WatchView view_;
  Screen screen_;
  v1::RunState shown_state_ = v1::RUN_STATE_UNSPECIFIED;
  Clock::time_point shown_{};
};

}  // namespace

absl::StatusOr<int> WatchRun(const Context& context, const std::string& run_id) {
  // Asked once first: a wrong name or address is an error at once, not something to wait for.
  v1::RunService::Stub stub(rpc::MakeChannel(context.coordinator));
  v1::GetRunRequest request;
  request.set_run_id(run_id);
  ASSIGN_OR_RETURN(
      const v1::GetRunResponse found,
      Call(stub, &v1::RunService::Stub::GetRun, request, "coordinator", context.coordinator));
  const InterruptGuard guard;
  Follower follower(context.coordinator, found.run().run_id());
  Printer printer(context);
  while (interrupted == 0) {
    std::string notice;
    const auto messages = follower.Take(kRedrawInterval, &notice);
    printer.Show(messages, notice);
    const auto end = follower.end();
    if (!end.has_value()) continue;
    RETURN_IF_ERROR(*end);
    return printer.run().state() == v1::RUN_STATE_FAILED ? kExitRunFailed : kExitOk;
  }
  std::fprintf(stderr,
               "\nespalier: stopped watching, the run goes on — `espalier run watch %s` shows it "
               "again, `espalier run stop %s` ends it\n",
               found.run().run_id().c_str(), found.run().run_id().c_str());
  return kExitInterrupted;
}

}  // namespace espalier::cli

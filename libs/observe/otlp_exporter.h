// OtlpExporter: sends finished spans to an OpenTelemetry collector over gRPC, in batches, from a
// thread of its own.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "libs/observe/metrics.h"
#include "libs/observe/span.h"

namespace espalier::observe {

struct OtlpOptions {
  std::string service;         // service.name of the resource
  std::string instance;        // service.instance.id
  Metrics* metrics = nullptr;  // counts into; must know TraceMetricTable and outlive the exporter
  // A batch leaves when it is full or when its oldest span has waited so long.
  size_t batch_spans_max = 512;
  absl::Duration batch_wait = absl::Seconds(1);
  absl::Duration call_timeout = absl::Seconds(10);
  absl::Duration retry_first = absl::Milliseconds(200);
  absl::Duration retry_max = absl::Seconds(5);
  // What the destructor may take to send what is left.
  absl::Duration goodbye = absl::Seconds(2);
};

std::span<const MetricSpec> TraceMetricTable();

// Thread-safe. Add never waits for the network: spans beyond kWaitingMax are dropped and counted. A
// collector that is away is tried again with the same batch; one that refuses it loses it.
class OtlpExporter final : public SpanSink {
 public:
  static constexpr size_t kWaitingMax = 16384;

  OtlpExporter(std::shared_ptr<grpc::Channel> channel, OtlpOptions options);
  ~OtlpExporter() override;
  OtlpExporter(const OtlpExporter&) = delete;
  OtlpExporter& operator=(const OtlpExporter&) = delete;

  void Add(std::vector<Span> spans) override;
  // Counts spans that were dropped before they came here.
  void CountDropped(const char* reason, size_t count);

 private:
  enum class Sent { kDone, kRetry };
  void Loop();
  // Takes the next batch; empty when it is time to leave.
  std::vector<Span> NextBatch();
  Sent Send(const std::vector<Span>& batch);
  // Sleeps, or returns early when it is time to leave; true when there is time for another attempt.
  bool Pause(absl::Duration time);

  const OtlpOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;  // gRPC's own type of handle
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Span> waiting_;                      // guarded by mutex_
  absl::Time leave_at_ = absl::InfiniteFuture();  // guarded by mutex_
  bool away_said_ = false;                        // of the thread
  std::thread thread_;
};

}  // namespace espalier::observe

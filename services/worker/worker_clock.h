// WorkerClock: how far this machine's clock is from the coordinator's, by the round trips of hellos
// and heartbeats.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/observe/step_sampler.h"
#include "libs/train/controller.h"

namespace espalier::worker {

// Thread-safe.
class WorkerClock {
 public:
  // A reply has just come.
  void Hear(const v1::ClockReply& reply) {
    const int64_t now = absl::GetCurrentTimeNanos();
    absl::MutexLock lock(&mutex_);
    offset_.Add(static_cast<int64_t>(reply.sent_unix_nanos()),
                static_cast<int64_t>(reply.received_unix_nanos()),
                static_cast<int64_t>(reply.replied_unix_nanos()), now);
  }
  train::TraceClockFacts facts() const {
    absl::MutexLock lock(&mutex_);
    return {offset_.nanos(), offset_.error()};
  }

 private:
  mutable absl::Mutex mutex_;
  observe::ClockOffset offset_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace espalier::worker

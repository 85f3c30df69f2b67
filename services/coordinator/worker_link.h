// WorkerLink: how the coordinator speaks to one attached worker; the stream behind it may end at
// any time.
#pragma once

#include "absl/status/status.h"
#include "espalier/v1/fleet_service.pb.h"

namespace espalier::coordinator {

// Thread-safe; nothing blocks. Owned by the stream (while it lives) and by the coordinator (while
// it may speak).
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  // Queues a word. A worker that does not read (queue full) is cut off; words to an ended stream
  // are dropped.
  virtual void Send(v1::AttachResponse word) = 0;
  // Ends the stream with `status`; queued words are dropped.
  virtual void Close(const absl::Status& status) = 0;
  // One word of the worker was handled: the stream may read on.
  virtual void Processed() = 0;
};

}  // namespace espalier::coordinator

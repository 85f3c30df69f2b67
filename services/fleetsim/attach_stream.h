// AttachStream: one worker's stream to the coordinator, without a thread of its own.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "espalier/v1/fleet_service.grpc.pb.h"

namespace espalier::fleetsim {

// Thread-safe; nothing blocks. The callbacks come from gRPC's threads: `heard` for each word, then
// `ended` once, last. The stream keeps itself alive until then.
class AttachStream {
 public:
  using Heard = std::function<void(v1::AttachResponse)>;
  using Ended = std::function<void(absl::Status)>;

  static std::shared_ptr<AttachStream> Open(v1::FleetService::Stub* stub, Heard heard, Ended ended);
  virtual ~AttachStream() = default;
  // Queued behind what is being written; dropped once the stream has ended.
  virtual void Send(v1::AttachRequest word) = 0;
  // Words that are queued and not yet written.
  virtual size_t backlog() const = 0;
  // Ends the stream in good order after what is queued: the worker leaves.
  virtual void Close() = 0;
  // Breaks the stream off, as a network does.
  virtual void Cut() = 0;
};

}  // namespace espalier::fleetsim

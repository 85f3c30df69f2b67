// HttpDoor: the engine for trainers that speak HTTP and JSON instead of gRPC.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/reward/engine.h"

namespace espalier::reward {

inline constexpr size_t kHttpBodyBytesMax = 48 << 20;
// Requests that are scored at the same time; others are told to come again.
inline constexpr int kHttpInFlightMax = 64;
// What no trainer waits for any more.
inline constexpr int kHttpDeadlineSeconds = 120;

struct HttpOptions {
  std::string address;    // host:port; port 0 takes a free one
  bool insecure = false;  // beyond loopback
  std::string tokens;     // file of bearer tokens, as gRPC's; empty: none are asked for
};

// POST /get_reward, /score, /verify; GET /healthz, /stats. Serves until it is destroyed, which
// cancels what is being scored and waits for the rest.
class HttpDoor {
 public:
  // InvalidArgument: not loopback without `insecure`, or bad tokens. Unavailable: the port is in
  // use. `engine` must outlive the door.
  static absl::StatusOr<std::unique_ptr<HttpDoor>> Open(const HttpOptions& options,
                                                        ScoreEngine* engine);
  virtual ~HttpDoor() = default;
  virtual std::string address() const = 0;  // host:port as bound
};

}  // namespace espalier::reward

// Fleet: the workers that are attached, their leases, and who serves which rank.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"
#include "espalier/v1/fleet_service.pb.h"
#include "services/coordinator/worker_link.h"

namespace espalier::coordinator {

struct Worker {
  v1::Hello hello;
  std::shared_ptr<WorkerLink> link;  // null while its stream is broken and its lease runs
  absl::Time last_heard;
  uint64_t attach_order = 0;
  // Its assignment; run_id is empty while it is idle.
  std::string run_id;
  uint64_t epoch = 0;
  uint32_t rank = 0;
  bool assignment_sent = false;
  // Highest command that was sent to it in this assignment.
  uint64_t sent_sequence = 0;
  // Newest epoch that it was told to leave, so that each stale word is not answered again.
  std::string released_run;
  uint64_t released_epoch = 0;

  bool idle() const { return run_id.empty() && link != nullptr; }
  std::string Describe() const;  // "worker w1 on host a"
};

// Not thread-safe: belongs to the executor's thread. Pointers stay valid until the worker is
// removed.
class Fleet {
 public:
  // Takes the worker in, or its new stream; an older stream of the same worker is closed.
  Worker* Attach(const v1::Hello& hello, std::shared_ptr<WorkerLink> link, absl::Time now);
  Worker* Find(const std::string& worker_id);
  // The worker that speaks over `link` now; null when the stream was replaced or closed.
  Worker* FindByLink(const WorkerLink* link);
  // The stream is gone; the worker stays until its lease ends.
  void Detach(Worker* worker);
  void Remove(Worker* worker);
  // Workers not heard of since `deadline`.
  std::vector<std::string> Silent(absl::Time deadline) const;
  size_t IdleCount() const;
  // `count` idle workers of one backend, by rank; those in `former` (worker ids by rank) get their
  // rank back. Empty when there are not enough.
  std::vector<Worker*> Choose(uint32_t count, const std::vector<std::string>& former);
  const std::map<std::string, std::unique_ptr<Worker>>& workers() const { return workers_; }

 private:
  std::map<std::string, std::unique_ptr<Worker>> workers_;
  std::unordered_map<const WorkerLink*, Worker*> by_link_;
  uint64_t attach_count_ = 0;
};

}  // namespace espalier::coordinator

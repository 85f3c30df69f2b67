// Fleet: bookkeeping of attached workers.
#include "services/coordinator/fleet.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"

namespace espalier::coordinator {

std::string Worker::Describe() const {
  return absl::StrCat("worker ", hello.worker_id(), " on host ", hello.host());
}

Worker* Fleet::Attach(const v1::Hello& hello, std::shared_ptr<WorkerLink> link, absl::Time now) {
  std::unique_ptr<Worker>& slot = workers_[hello.worker_id()];
  if (slot == nullptr) {
    slot = std::make_unique<Worker>();
    slot->attach_order = ++attach_count_;
  }
  if (slot->link != nullptr) {
    by_link_.erase(slot->link.get());
    slot->link->Close(
        absl::AbortedError(absl::StrCat("worker ", hello.worker_id(), " attached again")));
  }
  slot->hello = hello;
  slot->link = std::move(link);
  slot->last_heard = now;
  by_link_[slot->link.get()] = slot.get();
  return slot.get();
}

Worker* Fleet::Find(const std::string& worker_id) {
  const auto it = workers_.find(worker_id);
  return it == workers_.end() ? nullptr : it->second.get();
}

Worker* Fleet::FindByLink(const WorkerLink* link) {
  const auto it = by_link_.find(link);
  return it == by_link_.end() ? nullptr : it->second;
}

void Fleet::Detach(Worker* worker) {
  by_link_.erase(worker->link.get());
  worker->link = nullptr;
}

void Fleet::Remove(Worker* worker) {
  if (worker->link != nullptr) by_link_.erase(worker->link.get());
  workers_.erase(std::string(worker->hello.worker_id()));
}

std::vector<std::string> Fleet::Silent(absl::Time deadline) const {
  std::vector<std::string> silent;
  for (const auto& [id, worker] : workers_) {
    if (worker->last_heard < deadline) silent.push_back(id);
  }
  return silent;
}

size_t Fleet::IdleCount() const {
  return std::count_if(workers_.begin(), workers_.end(),
                       [](const auto& entry) { return entry.second->idle(); });
}

std::vector<Worker*> Fleet::Choose(uint32_t count, const std::vector<std::string>& former) {
  // Ranks of one run speak to each other over the same kind of link, so backends do not mix.
  std::map<std::string, std::vector<Worker*>> by_backend;
  for (const auto& [id, worker] : workers_) {
    if (worker->idle()) by_backend[worker->hello.backend()].push_back(worker.get());
  }
  for (auto& [backend, idle] : by_backend) {
    if (idle.size() < count) continue;
    std::sort(idle.begin(), idle.end(),
              [](const Worker* a, const Worker* b) { return a->attach_order < b->attach_order; });
    std::vector<Worker*> chosen(count, nullptr);
    std::unordered_set<const Worker*> taken;
    for (uint32_t rank = 0; rank < count && rank < former.size(); ++rank) {
      Worker* const worker = Find(former[rank]);
      if (worker == nullptr || !worker->idle() || worker->hello.backend() != backend) continue;
      // An id that is named twice has one rank.
      if (taken.insert(worker).second) chosen[rank] = worker;
    }
    auto next = idle.begin();
    for (Worker*& worker : chosen) {
      if (worker != nullptr) continue;
      while (taken.contains(*next)) ++next;
      worker = *next++;
    }
    return chosen;
  }
  return {};
}

}  // namespace espalier::coordinator

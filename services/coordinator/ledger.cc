// Ledger: keys and serialization of the coordinator's tables.
#include "services/coordinator/ledger.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"

namespace espalier::coordinator {
namespace {

using history::Key;
using history::KeyEnd;
using history::Table;

template <typename Message>
absl::StatusOr<Message> Parse(const std::string& value, const char* what) {
  Message message;
  if (!message.ParseFromString(value)) {
    return absl::DataLossError(
        absl::StrCat("a stored ", what, " cannot be read; restore the directory from a backup"));
  }
  return message;
}

// Scans and parses; stops after `limit` messages.
template <typename Message>
absl::StatusOr<std::vector<Message>> Collect(const history::Store& store, Table table,
                                             const std::string& begin, const std::string& end,
                                             bool reverse, size_t limit, const char* what) {
  std::vector<Message> messages;
  absl::Status bad;
  RETURN_IF_ERROR(
      store.Scan(table, begin, end, reverse, [&](const std::string&, const std::string& value) {
        if (messages.size() >= limit) return false;
        auto message = Parse<Message>(value, what);
        if (!message.ok()) {
          bad = message.status();
          return false;
        }
        messages.push_back(*std::move(message));
        return messages.size() < limit;
      }));
  RETURN_IF_ERROR(bad);
  return messages;
}

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

// Step and rank in one number: a step's ranks lie beside each other.
constexpr int kRankBits = 20;
uint64_t TraceNumber(uint64_t step, uint32_t rank) { return step << kRankBits | rank; }

// The number is the key's big-endian tail.
uint64_t NumberOf(const std::string& key) {
  uint64_t number = 0;
  for (size_t i = key.size() - sizeof(number); i < key.size(); ++i) {
    number = number << 8 | static_cast<unsigned char>(key[i]);
  }
  return number;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& directory) {
  ASSIGN_OR_RETURN(auto store, history::Store::Open(directory));
  return std::make_unique<Ledger>(std::move(store));
}

Ledger::Ledger(std::unique_ptr<history::Store> store)
    : store_(std::move(store)), history_(history::LoadHistory::Create(store_.get())) {}

void Ledger::PutRun(const RunRecord& record) {
  writes_.push_back({Table::kRuns, Key(record.run().run_id()), record.SerializeAsString()});
}

void Ledger::PutRequest(const std::string& scope, const std::string& request_id,
                        const std::string& id) {
  writes_.push_back({Table::kRequests, Key(scope, request_id), id});
}

void Ledger::PutCommand(const std::string& run_id, const v1::Command& command) {
  writes_.push_back(
      {Table::kCommands, Key(run_id, command.sequence()), command.SerializeAsString()});
}

void Ledger::PutDecision(const v1::Decision& decision) {
  writes_.push_back({Table::kDecisions, Key(decision.run_id(), decision.decision_id()),
                     decision.SerializeAsString()});
}

void Ledger::PutEvent(uint64_t number, const v1::RunEvent& event) {
  writes_.push_back({Table::kEvents, Key(event.run_id(), number), event.SerializeAsString()});
}

void Ledger::PutPoint(const std::string& run_id, const v1::SeriesPoint& point) {
  writes_.push_back({Table::kSeries, Key(run_id, point.step()), point.SerializeAsString()});
}

void Ledger::PutTrace(const std::string& run_id, const v1::RankTrace& trace) {
  writes_.push_back({Table::kTraces, Key(run_id, TraceNumber(trace.step(), trace.rank())),
                     trace.SerializeAsString()});
}

void Ledger::DropTrace(const std::string& run_id, uint64_t step) {
  writes_.push_back({.table = Table::kTraces,
                     .key = Key(run_id, TraceNumber(step, 0)),
                     .end = Key(run_id, TraceNumber(step + 1, 0))});
}

absl::StatusOr<std::vector<v1::RankTrace>> Ledger::ReadTrace(const std::string& run_id,
                                                             uint64_t step) const {
  return Collect<v1::RankTrace>(*store_, Table::kTraces, Key(run_id, TraceNumber(step, 0)),
                                Key(run_id, TraceNumber(step + 1, 0)), false, kNoLimit, "trace");
}

absl::StatusOr<std::map<uint64_t, uint64_t>> Ledger::TracedSteps(const std::string& run_id) const {
  std::map<uint64_t, uint64_t> steps;
  RETURN_IF_ERROR(store_->Scan(Table::kTraces, Key(run_id, 0), KeyEnd(run_id), false,
                               [&](const std::string& key, const std::string& value) {
                                 steps[NumberOf(key) >> kRankBits] += value.size();
                                 return true;
                               }));
  return steps;
}

void Ledger::PutLoads(const std::string& run_id, std::vector<history::LoadRow> rows) {
  auto& all = loads_[run_id];
  for (history::LoadRow& row : rows) all.push_back(std::move(row));
}

void Ledger::TruncateAfter(const std::string& run_id, uint64_t step) {
  // Rows gathered but not yet flushed are of the epoch that ended: they go the same way.
  loads_.erase(run_id);
  loads_.erase(NormsOf(run_id));
  const std::string begin = Key(run_id, step + 1), end = KeyEnd(run_id);
  std::erase_if(writes_, [&](const history::Store::Write& write) {
    return write.table == Table::kSeries && write.key >= begin && write.key < end;
  });
  truncate_[run_id] = step;
  truncate_[NormsOf(run_id)] = step;
}

absl::Status Ledger::Expire(const std::string& run_id, uint64_t newest, uint64_t retain_steps,
                            uint64_t limit) {
  for (const uint32_t resolution : history::LoadHistory::kResolutions) {
    const uint64_t kept = retain_steps * resolution;
    if (newest <= kept) break;
    const uint64_t step = std::min(newest - kept, limit);
    RETURN_IF_ERROR(history_->Expire(run_id, resolution, step));
    RETURN_IF_ERROR(history_->Expire(NormsOf(run_id), resolution, step));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> Ledger::FirstKept(const std::string& run_id) const {
  std::vector<uint64_t> first;
  for (const uint32_t resolution : history::LoadHistory::kResolutions) {
    ASSIGN_OR_RETURN(const uint64_t step, history_->FirstKept(run_id, resolution));
    first.push_back(step);
  }
  return first;
}

absl::Status Ledger::AppendAll(const std::map<std::string, std::vector<history::LoadRow>>& loads) {
  std::vector<absl::Status> outcomes(loads.size());
  std::atomic<size_t> next = 0;
  const auto append = [&] {
    for (size_t i = next++; i < loads.size(); i = next++) {
      const auto& [run_id, rows] = *std::next(loads.begin(), static_cast<int64_t>(i));
      outcomes[i] = history_->Append(run_id, rows);
    }
  };
  std::vector<std::thread> helpers;
  while (helpers.size() + 1 < std::min(loads.size(), kAppendersMax)) helpers.emplace_back(append);
  append();
  for (std::thread& helper : helpers) helper.join();
  for (const absl::Status& outcome : outcomes) RETURN_IF_ERROR(outcome);
  return absl::OkStatus();
}

absl::Status Ledger::Flush() {
  auto writes = std::exchange(writes_, {});
  auto loads = std::exchange(loads_, {});
  auto truncate = std::exchange(truncate_, {});
  auto after = std::exchange(after_, {});
  const absl::Status status = [&]() -> absl::Status {
    for (const auto& [run_id, step] : truncate) {
      RETURN_IF_ERROR(history_->TruncateAfter(run_id, step));
      std::vector<history::Store::Write> gone;
      RETURN_IF_ERROR(store_->Scan(Table::kSeries, Key(run_id, step + 1), KeyEnd(run_id), false,
                                   [&](const std::string& key, const std::string&) {
                                     gone.push_back({Table::kSeries, key, std::nullopt});
                                     return true;
                                   }));
      // Before the rest: points that this very batch writes again must survive.
      writes.insert(writes.begin(), gone.begin(), gone.end());
    }
    RETURN_IF_ERROR(AppendAll(loads));
    if (writes.empty()) return absl::OkStatus();
    return store_->Commit(std::move(writes));
  }();
  if (!status.ok()) LOG(ERROR) << "ledger_flush_failed cause=" << status;
  for (const AfterFlush& callback : after) callback(status);
  return status;
}

absl::StatusOr<std::vector<RunRecord>> Ledger::ReadRuns() const {
  return Collect<RunRecord>(*store_, Table::kRuns, "", "", false, kNoLimit, "run");
}

absl::StatusOr<std::string> Ledger::FindRequest(const std::string& scope,
                                                const std::string& request_id) const {
  return store_->Get(Table::kRequests, Key(scope, request_id));
}

absl::StatusOr<std::vector<v1::Command>> Ledger::ReadCommands(const std::string& run_id,
                                                              uint64_t first) const {
  return Collect<v1::Command>(*store_, Table::kCommands, Key(run_id, first), KeyEnd(run_id), false,
                              kNoLimit, "command");
}

absl::StatusOr<v1::Command> Ledger::ReadCommand(const std::string& run_id,
                                                uint64_t sequence) const {
  ASSIGN_OR_RETURN(const std::string value, store_->Get(Table::kCommands, Key(run_id, sequence)));
  return Parse<v1::Command>(value, "command");
}

absl::StatusOr<v1::Decision> Ledger::ReadDecision(const std::string& run_id,
                                                  const std::string& id) const {
  ASSIGN_OR_RETURN(const std::string value, store_->Get(Table::kDecisions, Key(run_id, id)));
  return Parse<v1::Decision>(value, "decision");
}

absl::StatusOr<std::vector<v1::Decision>> Ledger::ReadDecisions(const std::string& run_id,
                                                                const std::string& before,
                                                                size_t limit) const {
  const std::string end = before.empty() ? KeyEnd(run_id) : Key(run_id, before);
  return Collect<v1::Decision>(*store_, Table::kDecisions, Key(run_id), end, true, limit,
                               "decision");
}

absl::StatusOr<std::vector<v1::RunEvent>> Ledger::ReadEvents(const std::string& run_id,
                                                             uint64_t first, size_t limit,
                                                             uint64_t* next) const {
  // Event numbers have no gaps: they are given out by one thread and flushed in order.
  ASSIGN_OR_RETURN(auto events, Collect<v1::RunEvent>(*store_, Table::kEvents, Key(run_id, first),
                                                      KeyEnd(run_id), false, limit, "event"));
  *next = first + events.size();
  return events;
}

absl::StatusOr<uint64_t> Ledger::NextEvent(const std::string& run_id) const {
  std::string last;
  RETURN_IF_ERROR(store_->Scan(Table::kEvents, Key(run_id, 1), KeyEnd(run_id), true,
                               [&](const std::string& key, const std::string&) {
                                 last = key;
                                 return false;
                               }));
  if (last.empty()) return uint64_t{1};
  return NumberOf(last) + 1;
}

absl::Status Ledger::ScanPoints(const std::string& run_id, uint64_t first, uint64_t last,
                                const std::function<void(const v1::SeriesPoint&)>& visit) const {
  absl::Status bad;
  const std::string end =
      last == std::numeric_limits<uint64_t>::max() ? KeyEnd(run_id) : Key(run_id, last + 1);
  RETURN_IF_ERROR(store_->Scan(Table::kSeries, Key(run_id, first), end, false,
                               [&](const std::string&, const std::string& value) {
                                 auto point = Parse<v1::SeriesPoint>(value, "point");
                                 bad = point.status();
                                 if (point.ok()) visit(*point);
                                 return bad.ok();
                               }));
  return bad;
}

absl::StatusOr<std::vector<history::LoadBlock>> Ledger::ReadLoads(const std::string& run_id,
                                                                  uint32_t layer, uint64_t first,
                                                                  uint64_t last,
                                                                  uint32_t resolution) const {
  return history_->Read(run_id, layer, first, last, resolution);
}

absl::StatusOr<history::LoadMatrix> Ledger::ReadMatrix(const std::string& run_id, uint32_t layer,
                                                       uint64_t first, uint64_t last,
                                                       uint32_t resolution) const {
  return history_->ReadMatrix(run_id, layer, first, last, resolution);
}

}  // namespace espalier::coordinator

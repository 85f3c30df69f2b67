// StreamCall: one ScoreStream, each batch of which is answered once, as soon as it is scored.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "espalier/v1/reward_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "services/reward/engine.h"

namespace espalier::reward {

class StreamCall;

// The open streams of a service, to be told of a drain. Thread-safe.
class OpenStreams {
 public:
  void Add(std::shared_ptr<StreamCall> stream);
  void Remove(StreamCall* stream);
  void DrainAll();

 private:
  std::mutex mutex_;
  std::unordered_map<StreamCall*, std::shared_ptr<StreamCall>> streams_;  // guarded by mutex_
};

// Owned by `open` until OnDone, and by a drain while it tells. gRPC's reactions, the pool's threads
// and a drain come at any time, each in a thread of its own.
class StreamCall final
    : public grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse> {
 public:
  // Has entered the engine's gate; leaves it in OnDone. All outlive it.
  StreamCall(ScoreEngine* engine, OpenStreams* open, absl::Time deadline);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  // No more batches are read; the stream ends when all that were read are answered.
  void Drain();

 private:
  struct Batch {
    v1::ScoreStreamRequest request;
    v1::ScoreStreamResponse response;
    size_t bytes = 0;
    bool own_id = false;  // false of a duplicate, which never held its id
    absl::Time read, scored;
  };

  void Score(std::shared_ptr<Batch> batch);
  void Scored(std::shared_ptr<Batch> batch, absl::StatusOr<v1::ScoreBatchResponse> scores);
  // The rest is called with mutex_ held; FinishWhenIdle lets go of it.
  void ReadNext();
  void WriteNext();
  void Break(grpc::Status why);
  void FinishWhenIdle(std::unique_lock<std::mutex>* lock);

  ScoreEngine* const engine_;
  OpenStreams* const open_;
  const std::shared_ptr<CallControl> control_;  // also of the jobs
  ScorePool::Line line_;
  std::mutex mutex_;
  v1::ScoreStreamRequest incoming_;             // of the read in progress
  std::deque<std::shared_ptr<Batch>> answers_;  // guarded by mutex_, as all below; to be written
  std::unordered_set<uint64_t> ids_;            // in flight
  size_t in_flight_ = 0;                        // batches read and not yet written
  size_t bytes_in_flight_ = 0;
  size_t scoring_ = 0;
  bool reading_ = true;
  bool writing_ = false;
  bool reads_over_ = false;
  bool draining_ = false;
  bool finished_ = false;
  grpc::Status broken_;  // not OK: nobody can be answered any more
};

}  // namespace espalier::reward

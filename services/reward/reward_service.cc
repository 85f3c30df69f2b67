// Scoring is bounded work of microseconds to milliseconds, so it runs right on gRPC's threads.
#include "services/reward/reward_service.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/server.h"
#include "services/reward/convert.h"

namespace espalier::reward_service {
namespace {

absl::Status CheckText(const char* field, const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": ", text.size(), " bytes, must be at most ", bytes_max));
}

absl::Status ScoreBatch(const v1::ScoreBatchRequest& request, v1::ScoreBatchResponse* response) {
  reward::RewardOptions options;
  RETURN_IF_ERROR(ToOptions(request.reward(), &options));
  if (request.reference().empty()) {
    return absl::InvalidArgumentError("reference: empty, must be the correct answer");
  }
  RETURN_IF_ERROR(CheckText("reference", request.reference(), kReferenceBytesMax));
  if (request.traces_size() == 0 || request.traces_size() > kTracesMax) {
    return absl::InvalidArgumentError(absl::StrCat("traces: ", request.traces_size(),
                                                   " items, must be 1 to ", kTracesMax));
  }
  std::vector<reward::TraceInput> traces;
  traces.reserve(request.traces_size());
  for (int i = 0; i < request.traces_size(); ++i) {
    const v1::Trace& trace = request.traces(i);
    RETURN_IF_ERROR(
        CheckText(absl::StrCat("traces[", i, "].text").c_str(), trace.text(), kTraceBytesMax));
    traces.push_back({trace.text(), trace.token_count(), trace.truncated()});
  }
  const std::vector<reward::TraceScore> scores =
      reward::ScoreGroup(request.reference(), traces, options);
  for (int i = 0; i < request.traces_size(); ++i) {
    *response->add_scores() = ToProto(request.traces(i), scores[i]);
  }
  return absl::OkStatus();
}

absl::Status ScoreTrace(const v1::ScoreTraceRequest& request, v1::ScoreTraceResponse* response) {
  v1::ScoreBatchRequest batch;
  batch.set_reference(request.reference());
  *batch.add_traces() = request.trace();
  *batch.mutable_reward() = request.reward();
  v1::ScoreBatchResponse scored;
  RETURN_IF_ERROR(ScoreBatch(batch, &scored));
  *response->mutable_score() = std::move(*scored.mutable_scores(0));
  return absl::OkStatus();
}

absl::Status VerifyAnswer(const v1::VerifyAnswerRequest& request,
                          v1::VerifyAnswerResponse* response) {
  RETURN_IF_ERROR(CheckText("reference", request.reference(), kReferenceBytesMax));
  RETURN_IF_ERROR(CheckText("answer", request.answer(), kTraceBytesMax));
  const reward::Extraction extraction = reward::ExtractAnswer(request.answer());
  if (!extraction.found) {
    response->set_verdict(v1::VERDICT_WRONG);
    response->set_reason("no answer was found");
    response->set_rule("no_answer");
    return absl::OkStatus();
  }
  const reward::Verification verification =
      reward::VerifyAnswer(request.reference(), extraction.text);
  response->set_verdict(ToProto(verification.verdict));
  response->set_reason(verification.reason);
  response->set_rule(verification.rule);
  response->set_canonical_reference(verification.canonical_reference);
  response->set_canonical_answer(verification.canonical_answer);
  response->set_extracted(extraction.text);
  response->mutable_extracted_span()->set_begin(static_cast<uint32_t>(extraction.begin));
  response->mutable_extracted_span()->set_end(static_cast<uint32_t>(extraction.end));
  return absl::OkStatus();
}

// Answers batches in order: reads one, scores it, writes the answer, reads the next. Its reactions follow one another, except
// OnCancel, which only OnReadDone and OnWriteDone act on: they fail then.
class StreamCall : public grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse> {
 public:
  StreamCall() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    response_.Clear();
    response_.set_batch_id(request_.batch_id());
    const absl::Status scored = ScoreBatch(request_.batch(), response_.mutable_batch());
    if (!scored.ok()) {
      response_.clear_batch();
      response_.set_error(std::string(scored.message()));
    }
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  v1::ScoreStreamRequest request_;
  v1::ScoreStreamResponse response_;
};

class RewardServiceImpl : public v1::RewardService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ScoreTrace(grpc::CallbackServerContext* context,
                                       const v1::ScoreTraceRequest* request,
                                       v1::ScoreTraceResponse* response) override {
    return Answer(context, reward_service::ScoreTrace(*request, response));
  }
  grpc::ServerUnaryReactor* ScoreBatch(grpc::CallbackServerContext* context,
                                       const v1::ScoreBatchRequest* request,
                                       v1::ScoreBatchResponse* response) override {
    return Answer(context, reward_service::ScoreBatch(*request, response));
  }
  grpc::ServerUnaryReactor* VerifyAnswer(grpc::CallbackServerContext* context,
                                         const v1::VerifyAnswerRequest* request,
                                         v1::VerifyAnswerResponse* response) override {
    return Answer(context, reward_service::VerifyAnswer(*request, response));
  }
  grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse>* ScoreStream(
      grpc::CallbackServerContext*) override {
    return new StreamCall();
  }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
};

}  // namespace

std::unique_ptr<grpc::Service> MakeRewardService() { return std::make_unique<RewardServiceImpl>(); }

}  // namespace espalier::reward_service

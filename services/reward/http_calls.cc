// Proto JSON in both directions, and a wait for the engine in between.
#include "services/reward/http_calls.h"

#include <future>
#include <utility>

#include "services/reward/proto_json.h"

namespace espalier::reward {
namespace {

template <typename Request, typename Response>
HttpReply Call(ScoreEngine* engine, std::shared_ptr<const CallControl> control,
               const std::string& body) {
  Request request;
  const absl::Status parsed = FromJson(body, &request);
  if (!parsed.ok()) {
    engine->stats().Count(Outcome::kInvalid);
    return ErrorReply(parsed);
  }
  ScorePool::Line line;
  // Shared with the engine's thread, which may still be in set_value when this one goes on.
  auto promise = std::make_shared<std::promise<absl::StatusOr<Response>>>();
  auto future = promise->get_future();
  engine->Answer(request, std::move(control), &line, [promise](absl::StatusOr<Response> result) {
    promise->set_value(std::move(result));
  });
  const absl::StatusOr<Response> response = future.get();
  if (!response.ok()) return ErrorReply(response.status());
  return {200, ToJson(*response)};
}

}  // namespace

HttpReply ScoreCall(ScoreEngine* engine, std::shared_ptr<const CallControl> control,
                    const std::string& body) {
  return Call<v1::ScoreBatchRequest, v1::ScoreBatchResponse>(engine, std::move(control), body);
}

HttpReply VerifyCall(ScoreEngine* engine, std::shared_ptr<const CallControl> control,
                     const std::string& body) {
  return Call<v1::VerifyAnswerRequest, v1::VerifyAnswerResponse>(engine, std::move(control), body);
}

}  // namespace espalier::reward

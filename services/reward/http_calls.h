// The calls of the HTTP door, free of HTTP itself: a body in, a reply out.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "services/reward/engine.h"
#include "services/reward/http_reply.h"

namespace espalier::reward {

// Traces of one get_reward, and the groups of them that are scored at the same time.
inline constexpr size_t kQueriesMax = 8192;
inline constexpr size_t kGroupsInFlightMax = 32;

using HttpParameters = std::map<std::string, std::string>;  // of the URL, decoded

// Each blocks until the engine has answered; `control` may end it earlier. Any thread.
// Body and reply are espalier.v1.ScoreBatchRequest and ScoreBatchResponse in proto JSON.
HttpReply ScoreCall(ScoreEngine* engine, std::shared_ptr<const CallControl> control,
                    const std::string& body);
// VerifyAnswerRequest and VerifyAnswerResponse.
HttpReply VerifyCall(ScoreEngine* engine, std::shared_ptr<const CallControl> control,
                     const std::string& body);
// What OpenRLHF sends to a remote reward model: {"query": [prompt + response, …], "prompts": […],
// "labels": [reference, …]}; it gets {"rewards": […], "scores": […], "extra_logs": {name: […]}}.
// Queries with the same prompt and label are a group. Parameters are fields of RewardSpec
// ("preset=dapo-overlong/1&length_max=4096"), and "prompts=keep" scores queries with their prompts.
HttpReply GetRewardCall(ScoreEngine* engine, std::shared_ptr<CallControl> control,
                        const HttpParameters& parameters, const std::string& body);

}  // namespace espalier::reward

// Goal: an HTTP error names its field, and what trainers append to a response is cut off, no more.
#include "services/reward/http_reply.h"

#include <string>

#include "espalier/v1/reward_service.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/reward/proto_json.h"
#include "services/reward/trim_response.h"

namespace espalier::reward {
namespace {

using testing::HasSubstr;

TEST(HttpReply, NamesTheFieldOnlyWhereThereIsOne) {
  const auto field = [](const std::string& message) {
    const HttpReply reply = ErrorReply(absl::InvalidArgumentError(message));
    EXPECT_EQ(400, reply.code);
    const auto error = nlohmann::json::parse(reply.body)["error"];
    EXPECT_EQ(message, error["message"]);
    return error.value("field", "");
  };
  EXPECT_EQ("reward.reflection_max", field("reward.reflection_max: found -1, allowed is more"));
  EXPECT_EQ("traces[1].text", field("traces[1].text: found 3 bytes"));
  EXPECT_EQ("", field("no colon"));
  EXPECT_EQ("", field("many words before a colon: no field"));
}

TEST(HttpReply, BusyAndDrainingSayWhenToComeAgain) {
  EXPECT_EQ(429, ErrorReply(absl::ResourceExhaustedError("busy")).code);
  EXPECT_GT(ErrorReply(absl::ResourceExhaustedError("busy")).retry_after_seconds, 0);
  EXPECT_EQ(503, ErrorReply(absl::UnavailableError("draining")).code);
  EXPECT_GT(ErrorReply(absl::UnavailableError("draining")).retry_after_seconds, 0);
  EXPECT_EQ(504, ErrorReply(absl::DeadlineExceededError("late")).code);
}

TEST(ProtoJson, NamesTheMember) {
  const auto complaint = [](const char* json) {
    v1::ScoreBatchRequest request;
    return std::string(FromJson(json, &request).message());
  };
  EXPECT_EQ("", complaint(R"({"reference": "14", "traces": [{"text": "x", "token_count": 3}]})"));
  EXPECT_THAT(complaint(R"({"traces": [{"text": "x", "token_count": "many"}]})"),
              HasSubstr("traces[0].token_count: "));
  EXPECT_THAT(complaint(R"({"traces": [{"txt": "x"}]})"), HasSubstr("traces[0].txt: there is no"));
  EXPECT_THAT(complaint(R"({"refrence": "14"})"), HasSubstr("refrence: there is no such field"));
  EXPECT_THAT(complaint("{"), HasSubstr("body: "));
  EXPECT_THAT(complaint(""), HasSubstr("body: "));
  EXPECT_THAT(complaint("[1, 2]"), HasSubstr("body"));
  EXPECT_THAT(complaint("{\"reference\": \"\xff\xfe\"}"), HasSubstr("body"));
  EXPECT_THAT(complaint(std::string(100'000, '[').c_str()), HasSubstr("body"));
}

TEST(TrimResponse, CutsWhatEndsATurnAndNothingElse) {
  EXPECT_EQ("The answer is 14.", TrimResponse("The answer is 14.<|im_end|>\n<|endoftext|>"));
  EXPECT_EQ("14", TrimResponse("14</s><pad><pad>"));
  EXPECT_EQ("14", TrimResponse("14<｜end▁of▁sentence｜>"));
  EXPECT_EQ("", TrimResponse("<|im_end|>"));
  EXPECT_EQ("|x| < 3 and |y|>", TrimResponse("|x| < 3 and |y|>"));
  EXPECT_EQ("a <| b c |>", TrimResponse("a <| b c |>"));
  EXPECT_EQ("<answer>14</answer>", TrimResponse("<answer>14</answer>"));
}

}  // namespace
}  // namespace espalier::reward

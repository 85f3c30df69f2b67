// Goal: a batch scored in parts gives the very reply of ScoreBatch, whatever the shaping and the
// reference, and the same refusals. Method: random batches, both ways, compared as messages.
#include "services/reward/batch_parts.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

using google::protobuf::util::MessageDifferencer;

std::string Trace(std::mt19937* random, int right) {
  static const char* const kSteps[] = {"So we add them. ",   "Wait, let me check that again. ",
                                       "Then 12 + 7 = 19. ", "Hmm, that is odd. ",
                                       "Thus 19 - 5 = 14. ", "We multiply by two and halve. "};
  std::string text;
  const size_t size = 50 + (*random)() % 6000;
  while (text.size() < size) text += kSteps[(*random)() % std::size(kSteps)];
  const int answer = (*random)() % 3 == 0 ? right + 1 : right;
  if ((*random)() % 9 != 0) text += "The answer is " + std::to_string(answer) + ".";
  return text;
}

v1::ScoreBatchRequest Batch(uint32_t seed, v1::LengthShaping shaping) {
  std::mt19937 random(seed);
  v1::ScoreBatchRequest request;
  request.set_reference("14");
  request.set_prompt("What is 12 + 7 - 5?");
  v1::RewardSpec& spec = *request.mutable_reward();
  spec.set_length_shaping(shaping);
  spec.set_length_max(2000);
  spec.set_length_target(300);
  spec.set_safe(random() % 2 == 0);
  const int count = 1 + static_cast<int>(random() % 120);
  for (int i = 0; i < count; ++i) {
    v1::Trace* trace = request.add_traces();
    trace->set_trace_id(std::to_string(i));
    trace->set_text(Trace(&random, 14));
    if (random() % 2 == 0) trace->set_token_count(1 + random() % 2500);
    trace->set_truncated(random() % 11 == 0);
  }
  return request;
}

absl::StatusOr<v1::ScoreBatchResponse> InParts(const v1::ScoreBatchRequest& request,
                                               size_t* count) {
  BatchParts parts(request);
  *count = parts.count();
  // The last first: the order is the pool's affair.
  for (size_t part = parts.count(); part-- > 0;) parts.Score(part);
  return parts.Join();
}

TEST(BatchParts, GiveTheReplyOfTheWholeForEveryShaping) {
  size_t cut = 0;
  for (int shaping = 1; shaping < v1::LengthShaping_ARRAYSIZE; ++shaping) {
    for (uint32_t seed = 0; seed < 12; ++seed) {
      const auto request = Batch(seed, static_cast<v1::LengthShaping>(shaping));
      size_t count = 0;
      const auto parts = InParts(request, &count);
      const auto whole = ScoreBatch(request);
      ASSERT_TRUE(whole.ok()) << whole.status();
      ASSERT_TRUE(parts.ok()) << parts.status();
      std::string difference;
      MessageDifferencer differencer;
      differencer.ReportDifferencesToString(&difference);
      EXPECT_TRUE(differencer.Compare(*whole, *parts))
          << "shaping " << shaping << " seed " << seed << ": " << difference;
      cut += count > 1;
    }
  }
  EXPECT_GT(cut, 20u) << "hardly any batch was cut, so that little was shown";
}

TEST(BatchParts, GiveTheReplyOfTheWholeForAReferenceThatCannotBeRead) {
  v1::ScoreBatchRequest request = Batch(3, v1::LENGTH_SHAPING_GROUP);
  request.set_reference("\\frac{1}{");
  size_t count = 0;
  const auto parts = InParts(request, &count);
  EXPECT_GT(count, 1u);
  ASSERT_TRUE(parts.ok());
  EXPECT_TRUE(MessageDifferencer::Equals(*ScoreBatch(request), *parts));
  EXPECT_EQ(static_cast<uint32_t>(request.traces_size()), parts->group().abstained());
}

TEST(BatchParts, ASmallBatchIsOnePart) {
  v1::ScoreBatchRequest request;
  request.set_reference("14");
  for (int i = 0; i < 6; ++i) request.add_traces()->set_text(std::string(1200, 'x'));
  EXPECT_EQ(1u, BatchParts(request).count());
}

TEST(BatchParts, RefuseWithTheIndexOfTheWhole) {
  v1::ScoreBatchRequest request = Batch(3, v1::LENGTH_SHAPING_NONE);
  const int last = request.traces_size() - 1;
  request.mutable_traces(last)->set_text(std::string(kTraceBytesMax + 1, 'x'));
  size_t count = 0;
  EXPECT_THAT(std::string(InParts(request, &count).status().message()),
              testing::HasSubstr("traces[" + std::to_string(last) + "].text"));
  request = Batch(3, v1::LENGTH_SHAPING_NONE);
  request.mutable_reward()->set_reflection_max(-1);
  EXPECT_THAT(std::string(InParts(request, &count).status().message()),
              testing::HasSubstr("reward.reflection_max: found -1"));
  request.clear_traces();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, InParts(request, &count).status().code());
}

}  // namespace
}  // namespace espalier::reward

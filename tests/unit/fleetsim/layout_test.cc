// Goal: an order that no rank could carry out is refused and changes nothing; one that can is
// carried out to the letter.
#include "services/fleetsim/layout.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::fleetsim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::ExpertLayout Order(uint32_t layer, const std::vector<std::pair<uint32_t, uint32_t>>& experts,
                       const std::vector<uint32_t>& masked = {}) {
  v1::ExpertLayout order;
  v1::LayerLayout* layout = order.add_layers();
  layout->set_layer(layer);
  for (const auto& [expert, rank] : experts) {
    layout->add_experts(expert);
    layout->add_ranks(rank);
  }
  layout->mutable_masked()->Add(masked.begin(), masked.end());
  return order;
}

TEST(Layout, BeginsWithExpertsInIndexOrder) {
  const auto layout = InitialLayout(2, 4, 2);
  EXPECT_THAT(layout->ranks, ElementsAre(0, 0, 1, 1, 0, 0, 1, 1));
  EXPECT_THAT(layout->held[1][0], ElementsAre(2, 3));
}

TEST(Layout, RefusesWhatNoRankCouldCarryOut) {
  const auto layout = InitialLayout(2, 4, 2);
  const auto refused = [&](const v1::ExpertLayout& order, const char* why) {
    const auto change = Apply(*layout, order, 2);
    ASSERT_FALSE(change.ok()) << why;
    EXPECT_THAT(std::string(change.status().message()), HasSubstr(why));
  };
  refused(Order(2, {{0, 0}, {1, 0}}), "the model has 2 layers");
  refused(Order(0, {{0, 0}, {4, 0}}), "expert 4 is not alive");
  refused(Order(0, {{0, 0}, {1, 2}}), "rank 2; the run has 2");
  refused(Order(0, {{1, 0}, {0, 0}}), "expert 0 is out of order");
  refused(Order(0, {{0, 0}}), "top_k is 2");
  refused(Order(0, {{0, 0}, {1, 0}}, {1}), "top_k is 2");
  refused(Order(0, {{0, 0}, {1, 0}, {2, 1}}, {3}), "masked expert 3");
  const auto pruned = Apply(*layout, Order(0, {{0, 0}, {1, 0}}), 2);
  ASSERT_TRUE(pruned.ok());
  EXPECT_FALSE(Apply(*pruned->layout, Order(0, {{0, 0}, {1, 0}, {2, 0}}), 2).ok())
      << "what is gone does not come back";
}

TEST(Layout, MovesPrunesAndMasksAtOnce) {
  const auto layout = InitialLayout(2, 4, 2);
  const auto change = Apply(*layout, Order(1, {{0, 1}, {2, 0}, {3, 1}}, {3}), 2);
  ASSERT_TRUE(change.ok()) << change.status();
  const Layout& after = *change->layout;
  EXPECT_THAT(after.ranks, ElementsAre(0, 0, 1, 1, 1, -1, 0, 1));
  EXPECT_THAT(after.choosable, ElementsAre(true, true, true, true, true, false, true, false));
  EXPECT_THAT(after.held[1][1], ElementsAre(0, 3)) << "a masked expert keeps its weights";
  EXPECT_THAT(change->experts_sent, ElementsAre(1, 1));
  EXPECT_TRUE(change->choice_differs);
  const auto back = Apply(after, Order(1, {{0, 0}, {2, 0}, {3, 1}}), 2);
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(back->choice_differs) << "unmasked";
  EXPECT_THAT(back->experts_sent, ElementsAre(0, 1));
}

}  // namespace
}  // namespace espalier::fleetsim

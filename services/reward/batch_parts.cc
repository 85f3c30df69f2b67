// What a trace earns depends on its group in two ways: by the group's shortest and longest trace,
// which every part is told, and by the mean and spread of the totals, which the join computes.
#include "services/reward/batch_parts.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/reward/reward.h"
#include "libs/reward/shape.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

int64_t LengthOf(const v1::Trace& trace) {
  return trace.token_count() > 0 ? trace.token_count() : CountWords(trace.text());
}

Verdict FromProto(v1::Verdict verdict) {
  switch (verdict) {
    case v1::VERDICT_CORRECT:
      return Verdict::kCorrect;
    case v1::VERDICT_WRONG:
      return Verdict::kWrong;
    default:
      return Verdict::kAbstain;
  }
}

// Group statistics and advantages over all scores of `response`.
void SummarizeAll(v1::ScoreBatchResponse* response) {
  std::vector<TraceScore> totals(response->scores_size());
  for (int i = 0; i < response->scores_size(); ++i) {
    const v1::Score& score = response->scores(i);
    totals[i].total = score.total();
    totals[i].verification.verdict = FromProto(score.verdict());
    if (score.has_tail_share()) totals[i].tail_share = score.tail_share();
  }
  const GroupStatistics found = Summarize(totals);
  v1::GroupStatistics& group = *response->mutable_group();
  group.set_scored(static_cast<uint32_t>(found.scored));
  group.set_abstained(static_cast<uint32_t>(found.abstained));
  group.set_pass_rate(found.pass_rate);
  group.set_mean_total(found.mean_total);
  group.set_std_total(found.std_total);
  group.set_uniform(found.uniform);
  group.set_mean_tail_share(found.mean_tail_share);
  for (v1::Score& score : *response->mutable_scores()) {
    const bool counts = !found.uniform && score.verdict() != v1::VERDICT_ABSTAIN;
    score.set_advantage(counts ? (score.total() - found.mean_total) / found.std_total : 0);
  }
}

}  // namespace

BatchParts::BatchParts(const v1::ScoreBatchRequest& request) : request_(request) {
  bool fits = request.traces_size() <= kBatchTracesMax;
  for (const v1::Trace& trace : request.traces()) {
    bytes_ += trace.text().size();
    fits = fits && trace.text().size() <= kTraceBytesMax;
  }
  if (fits && bytes_ <= kBatchBytesMax) Cut();
  // Nothing to score, or something to refuse with the index that it has in the whole.
  if (parts_.empty()) parts_.emplace_back(0, request.traces_size());
}

void BatchParts::Cut() {
  // Each part reads the reference again: a long one is worth longer parts.
  const size_t part_bytes = std::max(kPartBytes, 8 * request_.reference().size());
  for (int i = 0; i < request_.traces_size(); ++i) {
    const size_t bytes = request_.traces(i).text().size();
    if (parts_.empty() || parts_.back().bytes + bytes > part_bytes) parts_.emplace_back(i, i);
    parts_.back().end = i + 1;
    parts_.back().bytes += bytes;
  }
}

bool BatchParts::ShapesByGroup() const {
  const auto options = ToOptions(request_.reward());
  return options.ok() && options->length_shaping == LengthShaping::kGroup;
}

void BatchParts::MeasureGroup() {
  shortest_ = longest_ = LengthOf(request_.traces(0));
  for (const v1::Trace& trace : request_.traces()) {
    const int64_t length = LengthOf(trace);
    shortest_ = std::min(shortest_, length);
    longest_ = std::max(longest_, length);
  }
}

const absl::StatusOr<v1::ScoreBatchResponse>& BatchParts::Score(size_t index) {
  Part& part = parts_[index];
  if (bytes_ > kBatchBytesMax) {
    part.response = absl::InvalidArgumentError(
        absl::StrCat("traces: found ", bytes_, " bytes of text in all, allowed are up to ",
                     kBatchBytesMax, "; send larger groups in parts"));
    return part.response;
  }
  if (count() == 1) return part.response = ScoreBatch(request_);

  v1::ScoreBatchRequest request;
  request.set_reference(request_.reference());
  request.set_prompt(request_.prompt());
  *request.mutable_reward() = request_.reward();
  for (int i = part.begin; i < part.end; ++i) *request.add_traces() = request_.traces(i);
  if (ShapesByGroup()) {
    // Two empty traces as long as the group's ends stand for the traces of the other parts.
    std::call_once(measured_, [this] { MeasureGroup(); });
    request.add_traces()->set_token_count(static_cast<uint32_t>(shortest_));
    request.add_traces()->set_token_count(static_cast<uint32_t>(longest_));
  }
  part.response = ScoreBatch(request);
  while (part.response.ok() && part.response->scores_size() > part.end - part.begin) {
    part.response->mutable_scores()->RemoveLast();
  }
  return part.response;
}

absl::StatusOr<v1::ScoreBatchResponse> BatchParts::Join() {
  for (Part& part : parts_) {
    if (!part.response.ok()) return part.response.status();
  }
  v1::ScoreBatchResponse response = *std::move(parts_[0].response);
  if (count() == 1) return response;
  response.mutable_scores()->Reserve(request_.traces_size());
  for (size_t i = 1; i < count(); ++i) {
    for (v1::Score& score : *parts_[i].response->mutable_scores()) {
      response.mutable_scores()->Add(std::move(score));
    }
  }
  SummarizeAll(&response);
  return response;
}

}  // namespace espalier::reward

// Keys and order of summary.json.
#include "services/cli/summary_json.h"

#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json OrNull(bool has, T value) {
  return has ? Json(value) : Json(nullptr);
}

Json List(const google::protobuf::RepeatedField<uint32_t>& values) {
  Json list = Json::array();
  for (const uint32_t value : values) list.push_back(value);
  return list;
}

}  // namespace

std::string SummaryJson(const v1::RunSummary& s) {
  Json json;
#define ESPALIER_FIGURE(key) json[#key] = OrNull(s.has_##key(), s.key())
  ESPALIER_FIGURE(params_before);
  ESPALIER_FIGURE(params_after);
  json["experts_before"] = List(s.experts_before());
  json["experts_after"] = List(s.experts_after());
  ESPALIER_FIGURE(heldout_loss_before_prune);
  ESPALIER_FIGURE(heldout_loss_end_pretrain);
  ESPALIER_FIGURE(tokens_per_second_before_prune);
  ESPALIER_FIGURE(tokens_per_second_after);
  ESPALIER_FIGURE(imbalance_before);
  ESPALIER_FIGURE(imbalance_after);
  ESPALIER_FIGURE(experts_moved);
  ESPALIER_FIGURE(reasoning_accuracy_before_rl);
  ESPALIER_FIGURE(reasoning_accuracy_after_rl);
  ESPALIER_FIGURE(mean_trace_tokens_before_rl);
  ESPALIER_FIGURE(mean_trace_tokens_after_rl);
  ESPALIER_FIGURE(wall_seconds);
#undef ESPALIER_FIGURE
  json["export_path"] = OrNull(!s.export_path().empty(), s.export_path());
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace espalier::cli

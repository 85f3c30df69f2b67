// M and S are the geometries of the published comparison (tests/bench/RESULTS.md).
#include "services/bench/geometry.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace espalier::bench {
namespace {

Geometry Medium() {
  return {.name = "M",
          .config = {.vocabulary = 50304,
                     .layers = 6,
                     .width = 2048,
                     .heads = 16,
                     .kv_heads = 16,
                     .head_dim = 128,
                     .experts = 64,
                     .top_k = 8,
                     .expert_width = 1024,
                     .router = model::RouterKind::kSoftmax,
                     .normalize_top_k = false},
          .sequence = 2048,
          .batch = 8};
}

Geometry Small() {
  return {.name = "S",
          .config = {.vocabulary = 32000,
                     .layers = 12,
                     .width = 768,
                     .heads = 12,
                     .kv_heads = 12,
                     .head_dim = 64,
                     .experts = 32,
                     .top_k = 4,
                     .expert_width = 512,
                     .router = model::RouterKind::kSoftmax,
                     .normalize_top_k = false},
          .sequence = 1024,
          .batch = 32};
}

Geometry Tiny() {
  return {.name = "tiny",
          .config = {.vocabulary = 256,
                     .layers = 2,
                     .width = 64,
                     .heads = 4,
                     .kv_heads = 4,
                     .head_dim = 16,
                     .experts = 8,
                     .top_k = 2,
                     .expert_width = 32,
                     .router = model::RouterKind::kSoftmax,
                     .normalize_top_k = false},
          .sequence = 32,
          .batch = 4};
}

absl::StatusOr<Geometry> FromFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(
        "--geometry ", path, ": neither M, S or tiny nor a file that can be read"));
  }
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object"));
  }
  Geometry geometry{.name = path};
  model::ModelConfig& config = geometry.config;
  const std::pair<const char*, int*> fields[] = {
      {"vocabulary", &config.vocabulary},
      {"layers", &config.layers},
      {"width", &config.width},
      {"heads", &config.heads},
      {"kv_heads", &config.kv_heads},
      {"head_dim", &config.head_dim},
      {"experts", &config.experts},
      {"top_k", &config.top_k},
      {"expert_width", &config.expert_width},
      {"shared_expert_width", &config.shared_expert_width},
      {"dense_layers", &config.dense_layers},
      {"dense_width", &config.dense_width},
      {"sequence", &geometry.sequence},
      {"batch", &geometry.batch}};
  for (const auto& [name, value] : json.items()) {
    bool known = name == "router" || name == "qk_norm";
    for (const auto& [field, place] : fields) {
      if (name != field) continue;
      known = true;
      if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > 1 << 30) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": ", name, " is ", value.dump(), "; it must be a whole number"));
      }
      *place = value.get<int>();
    }
    if (!known) return absl::InvalidArgumentError(absl::StrCat(path, ": no field is called ", name));
  }
  const std::string router = json.value("router", "softmax");
  if (router != "softmax" && router != "sigmoid") {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": router is ", router, "; it must be softmax or sigmoid"));
  }
  RETURN_IF_ERROR(SetQkNorm(json.value("qk_norm", "none"), &geometry));
  config.router =
      router == "softmax" ? model::RouterKind::kSoftmax : model::RouterKind::kSigmoid;
  if (geometry.sequence < 1 || geometry.batch < 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, " must give sequence and batch, from 1"));
  }
  return geometry;
}

}  // namespace

absl::Status SetQkNorm(const std::string& text, Geometry* geometry) {
  model::QkNorm& norm = geometry->config.qk_norm;
  if (text == "none") norm = model::QkNorm::kNone;
  else if (text == "head") norm = model::QkNorm::kHead;
  else if (text == "full") norm = model::QkNorm::kFull;
  else return absl::InvalidArgumentError(absl::StrCat("qk_norm is ", text, "; it must be none, head or full"));
  return absl::OkStatus();
}

absl::StatusOr<Geometry> ReadGeometry(const std::string& name) {
  if (name == "M") return Medium();
  if (name == "S") return Small();
  if (name == "tiny") return Tiny();
  return FromFile(name);
}

double ActiveParameters(const Geometry& geometry) {
  const model::ModelConfig& c = geometry.config;
  const double width = c.width, q_width = double(c.heads) * c.head_dim,
               kv_width = double(c.kv_heads) * c.head_dim;
  double active = width * c.vocabulary;
  for (int layer = 0; layer < c.layers; ++layer) {
    active += 2 * width * q_width + 2 * width * kv_width;
    active += c.IsMoe(layer)
                  ? width * c.experts +
                        3 * width * (double(c.top_k) * c.expert_width + c.shared_expert_width)
                  : 3 * width * c.dense_width;
  }
  return active;
}

double FlopsPerToken(const Geometry& geometry) {
  const model::ModelConfig& c = geometry.config;
  // Scores and values over half of the sequence on average.
  const double attention = double(c.layers) * 2.0 * geometry.sequence * c.heads * c.head_dim;
  return 3 * (2 * ActiveParameters(geometry) + attention);
}

}  // namespace espalier::bench

// Goal: the gradients of the whole model are those of its loss. Method: double precision, central
// differences at a few elements of every parameter, on a ragged batch, over the configurations that
// take different paths.
#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

struct Case {
  std::string name;
  ModelConfig config;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

std::vector<Case> Cases() {
  ModelConfig sigmoid = TinyConfig(RouterKind::kSigmoid);
  ModelConfig softmax = TinyConfig(RouterKind::kSoftmax);
  ModelConfig tied = sigmoid;
  tied.tie_embeddings = true;
  tied.shared_expert_width = 0;
  tied.dense_layers = 0;
  ModelConfig sigmoid_aux = sigmoid, softmax_aux = softmax;
  sigmoid_aux.aux_loss = softmax_aux.aux_loss = 0.3;
  ModelConfig plain = softmax;
  plain.normalize_top_k = false;
  plain.shared_expert_width = 0;
  ModelConfig dense = sigmoid;
  dense.dense_layers = dense.layers;
  ModelConfig top1 = sigmoid;
  top1.top_k = 1;
  top1.normalize_top_k = false;
  ModelConfig head_norm = sigmoid, full_norm = plain;
  head_norm.qk_norm = QkNorm::kHead;
  full_norm.qk_norm = QkNorm::kFull;
  return {{"Sigmoid", sigmoid},
          {"HeadNorm", head_norm},
          {"FullNorm", full_norm},
          {"Softmax", softmax},
          {"Tied", tied},
          {"SigmoidAux", sigmoid_aux},
          {"SoftmaxAux", softmax_aux},
          {"NotNormalized", plain},
          {"Dense", dense},
          {"TopOne", top1}};
}

class ModelGradient : public testing::TestWithParam<Case> {};

TEST_P(ModelGradient, EqualsFiniteDifferences) {
  const ModelConfig& config = GetParam().config;
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    ExpertLayout layout = InitialLayout(config, 1);
    if (!layout.layers.back().masked.empty()) layout.layers.back().masked[1] = 1;
    auto model = MakeModel<double>(config, layout, communicator);
    if (config.IsMoe(config.layers - 1)) model->selection_bias(config.layers - 1)[2] = 0.1;
    for (Parameter<double>* parameter : model->parameters()) {
      if (parameter->name.find("q_norm") == std::string::npos &&
          parameter->name.find("k_norm") == std::string::npos) {
        continue;
      }
      for (int64_t i = 0; i < parameter->size(); ++i) parameter->value[i] = 1 + 0.4 * std::sin(3.0 * i);
    }
    const Batch batch = RandomBatch({7, 1, 4, 70}, config.vocabulary, 3);
    const double aux_scale = 0.7;
    // A loss whose derivative differs from token to token, unlike cross-entropy's.
    double loss_value = 0;
    const auto loss = [&](std::span<const double> logps, std::span<double> dlogps) {
      loss_value = 0;
      for (size_t i = 0; i < logps.size(); ++i) {
        const double weight = std::sin(1.0 + static_cast<double>(i));
        loss_value += weight * logps[i] + 0.1 * logps[i] * logps[i];
        dlogps[i] = weight + 0.2 * logps[i];
      }
    };
    const auto evaluate = [&]() -> double {
      EXPECT_TRUE(model->ForwardBackward(batch, loss, aux_scale).ok());
      return loss_value + aux_scale * model->aux_loss();
    };
    model->ZeroGradients();
    evaluate();
    EXPECT_EQ(model->aux_loss() > 0, config.aux_loss > 0);
    // Evaluations add to the gradients too, so all are taken before the first probe.
    std::vector<std::vector<double>> gradients;
    for (const Parameter<double>* parameter : model->parameters())
      gradients.push_back(parameter->grad);
    for (size_t i = 0; i < gradients.size(); ++i) {
      Parameter<double>* const parameter = model->parameters()[i];
      const std::vector<double>& gradient = gradients[i];
      const int64_t probes = std::min<int64_t>(4, parameter->size());
      for (int64_t probe = 0; probe < probes; ++probe) {
        const int64_t at = parameter->size() * probe / probes + probe % 3;
        if (at >= parameter->size()) continue;
        const double step = 1e-5, before = parameter->value[at];
        parameter->value[at] = before + step;
        const double above = evaluate();
        parameter->value[at] = before - step;
        const double below = evaluate();
        parameter->value[at] = before;
        const double numeric = (above - below) / (2 * step);
        EXPECT_NEAR(gradient[at], numeric, 1e-6 + 1e-5 * std::abs(numeric))
            << parameter->name << "[" << at << "]";
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Configurations, ModelGradient, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace espalier::model

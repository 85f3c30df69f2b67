// A model of plain arrays for tests of what stands around it: no layer, no pass.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "libs/collective/communicator.h"
#include "libs/model/model.h"

namespace espalier::train {

class FakeModel final : public model::Model<float> {
 public:
  explicit FakeModel(collective::Communicator* communicator)
      : communicator_(communicator), pool_(1) {}

  model::Parameter<float>* Add(const std::string& name, std::vector<float> value,
                               std::vector<float> grad, bool decay, bool expert) {
    owned_.push_back(std::make_unique<model::Parameter<float>>());
    model::Parameter<float>& parameter = *owned_.back();
    parameter.name = name;
    parameter.shape = {static_cast<int64_t>(value.size())};
    parameter.value = std::move(value);
    parameter.grad = std::move(grad);
    parameter.decay = decay;
    parameter.expert = expert;
    return &parameter;
  }

  const model::ModelConfig& config() const override { return config_; }
  const model::ExpertLayout& layout() const override { return layout_; }
  collective::Communicator& communicator() override { return *communicator_; }
  std::vector<model::Parameter<float>*> parameters() override {
    std::vector<model::Parameter<float>*> all;
    for (const auto& parameter : owned_) all.push_back(parameter.get());
    return all;
  }
  int64_t TotalParameters() const override { return 0; }
  absl::Status Forward(const model::Batch&, std::vector<float>*, std::vector<float>*) override {
    return absl::UnimplementedError("fake");
  }
  // Calls `loss` with next_logps (zeros where it is empty), keeps what it filled in, then calls
  // `on_backward`.
  absl::Status ForwardBackward(const model::Batch& batch, const LossFunction& loss,
                               float) override {
    std::vector<float> logps = next_logps;
    logps.resize(batch.targets.size());
    last_dlogps.assign(batch.targets.size(), 0.0f);
    loss(logps, last_dlogps);
    if (on_backward) on_backward();
    return absl::OkStatus();
  }
  std::function<void()> on_backward;
  std::vector<float> next_logps, last_dlogps;
  void ZeroGradients() override {}
  const std::vector<model::LayerRouteCounts>& route_counts() const override { return counts_; }
  void MeasureOutputNorms(bool) override {}
  const std::vector<model::LayerOutputNorms>& output_norms() const override { return norms_; }
  absl::StatusOr<std::vector<model::Sample>> Generate(std::span<const std::vector<int32_t>>,
                                                      std::span<const uint64_t>,
                                                      const model::SampleOptions&) override {
    return absl::UnimplementedError("fake");
  }
  absl::StatusOr<int64_t> ApplyLayout(const model::ExpertLayout&) override {
    return absl::UnimplementedError("fake");
  }
  std::vector<float>& selection_bias(int) override { return bias_; }
  float aux_loss() const override { return 0; }
  base::ThreadPool& thread_pool() override { return pool_; }
  model::PhaseSeconds& phase_seconds() override { return phases_; }

 private:
  collective::Communicator* communicator_;
  base::ThreadPool pool_;
  model::ModelConfig config_;
  model::ExpertLayout layout_;
  std::vector<std::unique_ptr<model::Parameter<float>>> owned_;
  std::vector<model::LayerRouteCounts> counts_;
  std::vector<model::LayerOutputNorms> norms_;
  std::vector<float> bias_;
  model::PhaseSeconds phases_;
};

}  // namespace espalier::train

// HostParameters: while one lives, the arrays of model.parameters() hold values and moments, on whatever device the model is.
#pragma once

#include "absl/status/status.h"
#include "libs/model/model.h"

namespace espalier::model {

class HostParameters {
 public:
  // Fetches; status() says how that went.
  explicit HostParameters(Model<float>& model) : model_(model), status_(model.FetchParameters()) {}
  ~HostParameters() { model_.DropParameters(); }
  HostParameters(const HostParameters&) = delete;
  HostParameters& operator=(const HostParameters&) = delete;
  const absl::Status& status() const { return status_; }

 private:
  Model<float>& model_;
  const absl::Status status_;
};

}  // namespace espalier::model

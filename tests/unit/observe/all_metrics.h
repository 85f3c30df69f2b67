// Every metric of every service, for the reference: the golden file and METRICS.md.
#pragma once

#include <string>

namespace espalier::observe {

// What tests/data/metrics.golden holds.
std::string GoldenOfAllMetrics();
// What deploy/monitoring/METRICS.md holds.
std::string ReferenceOfAllMetrics();

}  // namespace espalier::observe

// The forecast is a straight line of loss over log(step) through the newest points: held-out loss
// falls about so over the few hundred steps that matter here.
#include "libs/planner/guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace espalier::planner {
namespace {

// Older points tell of another part of the curve.
constexpr size_t kPointsMax = 8;
constexpr int kPointsForTrend = 3;

double Median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + middle, values.end());
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle] + *std::max_element(values.begin(), values.begin() + middle)) / 2;
}

}  // namespace

Forecast ForecastLoss(std::span<const LossPoint> points, double step) {
  std::vector<LossPoint> newest;
  for (size_t i = points.size(); i > 0 && newest.size() < kPointsMax; --i) {
    const LossPoint& point = points[i - 1];
    if (std::isfinite(point.loss) && point.step > 0) newest.push_back(point);
  }
  std::reverse(newest.begin(), newest.end());
  Forecast forecast;
  forecast.points = static_cast<int>(newest.size());
  if (newest.empty()) return forecast;
  forecast.loss = newest.back().loss;
  if (forecast.points < kPointsForTrend) return forecast;

  // Theil and Sen: the median of all slopes, which one bad evaluation cannot bend.
  std::vector<double> slopes, levels;
  for (size_t i = 0; i < newest.size(); ++i) {
    for (size_t j = i + 1; j < newest.size(); ++j) {
      const double width = std::log(newest[j].step / newest[i].step);
      if (width > 0) slopes.push_back((newest[j].loss - newest[i].loss) / width);
    }
  }
  if (slopes.empty()) return forecast;
  const double slope = std::min(0.0, Median(slopes));
  const double last = std::log(newest.back().step);
  for (const LossPoint& point : newest)
    levels.push_back(point.loss + slope * (last - std::log(point.step)));
  forecast.loss = Median(levels) + slope * std::max(0.0, std::log(step) - last);
  return forecast;
}

bool GuardHolds(const Forecast& forecast, double measured, double tolerance) {
  if (!std::isfinite(measured)) return false;
  return forecast.points == 0 || measured <= forecast.loss + tolerance;
}

}  // namespace espalier::planner

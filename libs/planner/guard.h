// Quality guard: was a prune good for the model? The held-out loss before it, extrapolated, against
// what was measured after it. Pure functions.
#pragma once

#include <span>

namespace espalier::planner {

struct LossPoint {
  double step = 0;
  double loss = 0;
};

struct Forecast {
  double loss = 0;
  int points = 0;  // that it rests on; 0: nothing is known
};

// The loss expected at `step` had nothing been pruned: a fit of the falling trend of `points`
// (ascending steps, all before the prune), never above the newest ones' level and never falling
// faster than they did. With fewer than three points, the newest loss.
Forecast ForecastLoss(std::span<const LossPoint> points, double step);

// False when `measured` is above the forecast by more than `tolerance`, or no finite number.
bool GuardHolds(const Forecast& forecast, double measured, double tolerance);

}  // namespace espalier::planner

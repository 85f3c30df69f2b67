// A rank's trace as spans for a collector.
#pragma once

#include <vector>

#include "espalier/v1/trace.pb.h"
#include "libs/observe/span.h"

namespace espalier::worker {

std::vector<observe::Span> SpansOf(const v1::RankTrace& trace);

}  // namespace espalier::worker

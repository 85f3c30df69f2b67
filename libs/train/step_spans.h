// From the phases that a model marked to spans: forward and backward, layer by layer.
#pragma once

#include <functional>
#include <span>

#include "espalier/v1/trace.pb.h"
#include "libs/model/timeline.h"
#include "libs/observe/trace_context.h"

namespace espalier::train {

const char* NameOf(model::Phase phase);

// Appends the spans of one pass beneath `parent`, which spans start..end of the steady clock.
// `next_id` gives each a new id.
void AppendPass(std::span<const model::PhaseMark> marks, int64_t start, int64_t end,
                observe::SpanId parent, const observe::TraceClock& clock,
                const std::function<observe::SpanId()>& next_id, v1::RankTrace* trace);

}  // namespace espalier::train

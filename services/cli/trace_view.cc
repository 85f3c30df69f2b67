// A rank's spans become a row of stretches without gaps; where ranks exchange something they are
// matched by their order, which is the same on every rank.
#include "services/cli/trace_view.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <unordered_map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "services/cli/render_table.h"

namespace espalier::cli {
namespace {

using Json = nlohmann::ordered_json;
using Children = std::unordered_map<uint64_t, std::vector<const v1::TraceSpan*>>;

// What ranks do together: it ends when the last of them has come.
bool IsTogether(const std::string& name) {
  static const std::set<std::string> kNames = {"exchange", "gradient_sync", "sample",     "reward",
                                               "command",  "evaluate",      "checkpoint", "paused"};
  return kNames.count(name) != 0;
}

int64_t NumberOf(const v1::TraceSpan& span, const char* key, int64_t absent) {
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    if (attribute.key() == key) return attribute.number();
  }
  return absent;
}

std::string TextOf(const v1::TraceSpan& span, const char* key) {
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    if (attribute.key() == key) return attribute.text();
  }
  return "";
}

Children ChildrenOf(const v1::RankTrace& rank) {
  Children children;
  for (const v1::TraceSpan& span : rank.spans()) children[span.parent_id()].push_back(&span);
  for (auto& [parent, list] : children) {
    std::stable_sort(list.begin(), list.end(), [](const auto* a, const auto* b) {
      return a->start_unix_nanos() < b->start_unix_nanos();
    });
  }
  return children;
}

// A time in which one span was the innermost.
struct Stretch {
  const v1::TraceSpan* span = nullptr;
  bool together = false;
  uint64_t start = 0, end = 0;
  std::string direction;
  int64_t layer = -1;
};

void AppendStretches(const Children& children, const v1::TraceSpan& span, Stretch above,
                     std::vector<Stretch>* row) {
  above.span = &span;
  if (span.name() == "forward" || span.name() == "backward") above.direction = span.name();
  above.layer = NumberOf(span, "layer", above.layer);
  above.together = IsTogether(span.name());
  uint64_t at = span.start_unix_nanos();
  const auto emit = [&](uint64_t until) {
    if (until <= at && !above.together) return;
    above.start = at;
    above.end = until;
    row->push_back(above);
  };
  const auto found = children.find(span.span_id());
  if (!above.together && found != children.end()) {
    for (const v1::TraceSpan* child : found->second) {
      emit(std::max(at, child->start_unix_nanos()));
      AppendStretches(children, *child, above, row);
      at = std::max(at, child->end_unix_nanos());
    }
  }
  emit(std::max(at, span.end_unix_nanos()));
}

// One rank's work up to an exchange, and the exchange.
struct Segment {
  std::vector<Stretch> work;
  uint64_t begin = 0, arrive = 0, leave = 0;  // leave: 0 after the last exchange
  Stretch together;
  double expert_seconds = 0;
  int64_t expert_rows = 0;
  uint64_t worked() const { return arrive - begin; }
};

struct Row {
  uint32_t rank = 0;
  uint64_t start = 0, end = 0;
  std::vector<Segment> segments;
};

Row RowOf(const v1::RankTrace& rank) {
  std::vector<Stretch> stretches;
  AppendStretches(ChildrenOf(rank), rank.spans(0), {}, &stretches);
  Row row{.rank = rank.rank(),
          .start = rank.spans(0).start_unix_nanos(),
          .end = rank.spans(0).end_unix_nanos()};
  Segment segment;
  segment.begin = row.start;
  std::set<const v1::TraceSpan*> counted;
  for (const Stretch& stretch : stretches) {
    if (stretch.together) {
      segment.arrive = std::max(stretch.start, segment.begin);
      segment.leave = std::max(stretch.end, segment.arrive);
      segment.together = stretch;
      const uint64_t leave = segment.leave;
      row.segments.push_back(std::move(segment));
      segment = {};
      segment.begin = leave;
      continue;
    }
    segment.work.push_back(stretch);
    if (stretch.span->name() != "experts" || !counted.insert(stretch.span).second) continue;
    const int64_t rows = NumberOf(*stretch.span, "tokens", 0);
    if (rows <= 0) continue;
    segment.expert_rows += rows;
    segment.expert_seconds += 1e-9 * static_cast<double>(stretch.end - stretch.start);
  }
  segment.arrive = std::max(row.end, segment.begin);
  row.segments.push_back(std::move(segment));
  return row;
}

void AddLateness(const std::vector<Row>& rows, size_t k, std::vector<Lateness>* ranks) {
  const auto quickest = std::min_element(rows.begin(), rows.end(), [k](const Row& a, const Row& b) {
    return a.segments[k].worked() < b.segments[k].worked();
  });
  const Segment& least = quickest->segments[k];
  uint64_t first_out = std::numeric_limits<uint64_t>::max();
  double seconds = 0, handled = 0;
  for (const Row& row : rows) {
    first_out = std::min(first_out, row.segments[k].leave);
    seconds += row.segments[k].expert_seconds;
    handled += static_cast<double>(row.segments[k].expert_rows);
  }
  const double rate = handled > 0 ? seconds / handled : 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const Segment& mine = rows[r].segments[k];
    Lateness& late = (*ranks)[r];
    const double excess = 1e-9 * static_cast<double>(mine.worked() - least.worked());
    const auto more =
        static_cast<double>(std::max<int64_t>(0, mine.expert_rows - least.expert_rows));
    const double load = std::min(excess, rate * more);
    late.load += load;
    late.device += excess - load;
    late.tokens += mine.expert_rows;
    if (mine.leave == 0) continue;
    late.network += 1e-9 * static_cast<double>(mine.leave - first_out);
    late.wait += 1e-9 * static_cast<double>(mine.leave - mine.arrive);
  }
}

PathPart PartOf(const Stretch& stretch, uint32_t rank, uint64_t start, uint64_t end,
                uint64_t zero) {
  static const std::set<std::string> kFrames = {"rank", "pass", "layer", "forward", "backward"};
  PathPart part;
  part.rank = rank;
  part.phase = kFrames.count(stretch.span->name()) != 0 ? "other" : stretch.span->name();
  part.direction = stretch.direction;
  part.layer = stretch.layer;
  part.tokens = NumberOf(*stretch.span, "tokens", -1);
  part.start = 1e-9 * (static_cast<double>(start) - static_cast<double>(zero));
  part.end = 1e-9 * (static_cast<double>(end) - static_cast<double>(zero));
  return part;
}

// Backwards from the rank that ended last: at each exchange on to the rank that came to it last.
std::vector<PathPart> CriticalPath(const std::vector<Row>& rows, uint64_t zero) {
  const Row* at = &*std::max_element(rows.begin(), rows.end(),
                                     [](const Row& a, const Row& b) { return a.end < b.end; });
  std::vector<PathPart> path;
  for (size_t k = at->segments.size(); k-- > 0;) {
    const Segment& segment = at->segments[k];
    for (size_t i = segment.work.size(); i-- > 0;) {
      const Stretch& stretch = segment.work[i];
      path.push_back(PartOf(stretch, at->rank, stretch.start, stretch.end, zero));
    }
    if (k == 0) break;
    const uint64_t leave = segment.begin;
    const Row* last = at;
    for (const Row& row : rows) {
      const uint64_t came = row.segments[k - 1].arrive;
      // One that came after this rank had left did not hold it up.
      if (came <= leave && came > last->segments[k - 1].arrive) last = &row;
    }
    path.push_back(PartOf(last->segments[k - 1].together, last->rank, last->segments[k - 1].arrive,
                          leave, zero));
    at = last;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3f ms", 1e3 * seconds); }

std::string Share(double part, double whole) {
  return absl::StrFormat("%.0f%%", whole > 0 ? 100 * part / whole : 0.0);
}

Json ArgsOf(const v1::TraceSpan& span) {
  Json args = Json::object();
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    switch (attribute.value_case()) {
      case v1::TraceAttribute::kNumber:
        args[attribute.key()] = attribute.number();
        break;
      case v1::TraceAttribute::kReal:
        args[attribute.key()] = attribute.real();
        break;
      default:
        args[attribute.key()] = attribute.text();
    }
  }
  if (!span.error().empty()) args["error"] = span.error();
  return args;
}

Json Named(const char* what, uint64_t pid, const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", pid}, {"tid", 1}, {"args", {{"name", name}}}};
}

double Micros(uint64_t nanos, uint64_t zero) {
  return 1e-3 * (static_cast<double>(nanos) - static_cast<double>(zero));
}

Json Complete(const std::string& name, uint64_t pid, uint64_t tid, uint64_t start, uint64_t end,
              uint64_t zero) {
  return {{"ph", "X"},
          {"name", name},
          {"pid", pid},
          {"tid", tid},
          {"ts", Micros(start, zero)},
          {"dur", 1e-3 * static_cast<double>(end - start)}};
}

// Calls that run at the same time get lines of their own, for events of one line must nest.
class Lanes {
 public:
  uint64_t Take(uint64_t start, uint64_t end) {
    size_t lane = 0;
    while (lane < ends_.size() && ends_[lane] > start) ++lane;
    if (lane == ends_.size()) ends_.push_back(0);
    ends_[lane] = end;
    return lane + 2;
  }

 private:
  std::vector<uint64_t> ends_;
};

std::pair<uint64_t, uint64_t> SpanOf(const v1::GetTraceResponse& trace) {
  uint64_t start = std::numeric_limits<uint64_t>::max(), end = 0;
  for (const v1::RankTrace& rank : trace.ranks()) {
    start = std::min(start, rank.spans(0).start_unix_nanos());
    end = std::max(end, rank.spans(0).end_unix_nanos());
  }
  return {start, end};
}

}  // namespace

std::string PerfettoJson(const v1::GetTraceResponse& trace) {
  const auto [zero, end] = SpanOf(trace);
  Json events = Json::array();
  events.push_back(Named("process_name", 0, "coordinator"));
  Json root = Complete("step", 0, 1, zero, end, zero);
  root["args"] = {{"run", trace.run_id()}, {"step", trace.ranks(0).step()}};
  events.push_back(std::move(root));
  for (const v1::RankTrace& rank : trace.ranks()) {
    const uint64_t pid = rank.rank() + 1;
    events.push_back(Named("process_name", pid, absl::StrCat("rank ", rank.rank())));
    Lanes lanes;
    std::vector<const v1::TraceSpan*> spans;
    for (const v1::TraceSpan& span : rank.spans()) spans.push_back(&span);
    std::stable_sort(spans.begin(), spans.end(), [](const auto* a, const auto* b) {
      return a->start_unix_nanos() < b->start_unix_nanos();
    });
    for (const v1::TraceSpan* span : spans) {
      const uint64_t tid =
          span->client() ? lanes.Take(span->start_unix_nanos(), span->end_unix_nanos()) : 1;
      const int64_t layer = NumberOf(*span, "layer", -1);
      Json event = Complete(span->name() == "layer" ? absl::StrCat("layer ", layer) : span->name(),
                            pid, tid, span->start_unix_nanos(), span->end_unix_nanos(), zero);
      event["args"] = ArgsOf(*span);
      events.push_back(std::move(event));
    }
  }
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

absl::StatusOr<Explanation> ExplainTrace(const v1::GetTraceResponse& trace) {
  if (trace.ranks_size() == 0) return absl::FailedPreconditionError("the trace has no rank");
  Explanation told;
  told.run_id = trace.run_id();
  told.step = trace.ranks(0).step();
  told.stage = TextOf(trace.ranks(0).spans(0), "stage");
  told.reason = absl::AsciiStrToLower(
      v1::TraceReason_Name(trace.ranks(0).reason()).substr(sizeof("TRACE_REASON_") - 1));
  std::vector<Row> rows;
  std::set<std::string> decisions;
  for (const v1::RankTrace& rank : trace.ranks()) {
    rows.push_back(RowOf(rank));
    Lateness& late = told.ranks.emplace_back();
    late.rank = rank.rank();
    late.clock_error = 1e-9 * static_cast<double>(rank.clock_error_nanos());
    for (const v1::TraceSpan& span : rank.spans()) {
      if (span.name() == "command" && !TextOf(span, "decision").empty())
        decisions.insert(TextOf(span, "decision"));
    }
    if (rows.back().segments.size() != rows.front().segments.size()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "rank ", rows.back().rank, " tells of ", rows.back().segments.size() - 1,
          " exchanges and rank ", rows.front().rank, " of ", rows.front().segments.size() - 1,
          ": spans were left out; `espalier trace export` shows what there is"));
    }
  }
  if (static_cast<uint32_t>(trace.ranks_size()) < trace.rank_count()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the spans of ", trace.rank_count() - trace.ranks_size(), " of ",
                     trace.rank_count(), " ranks have not come; try again in a moment"));
  }
  told.decisions.assign(decisions.begin(), decisions.end());
  const auto [zero, end] = SpanOf(trace);
  told.seconds = 1e-9 * static_cast<double>(end - zero);
  for (size_t k = 0; k < rows.front().segments.size(); ++k) AddLateness(rows, k, &told.ranks);
  told.path = CriticalPath(rows, zero);
  return told;
}

Json ToJson(const Explanation& told) {
  Json ranks = Json::array(), path = Json::array();
  for (const Lateness& rank : told.ranks) {
    ranks.push_back({{"rank", rank.rank},
                     {"late_seconds", rank.late()},
                     {"load_seconds", rank.load},
                     {"device_seconds", rank.device},
                     {"network_seconds", rank.network},
                     {"wait_seconds", rank.wait},
                     {"expert_tokens", rank.tokens},
                     {"clock_error_seconds", rank.clock_error}});
  }
  for (const PathPart& part : told.path) {
    Json one = {{"rank", part.rank},
                {"phase", part.phase},
                {"start_seconds", part.start},
                {"end_seconds", part.end},
                {"seconds", part.end - part.start}};
    if (!part.direction.empty()) one["direction"] = part.direction;
    if (part.layer >= 0) one["layer"] = part.layer;
    if (part.tokens >= 0) one["tokens"] = part.tokens;
    path.push_back(std::move(one));
  }
  return {{"run_id", told.run_id},
          {"step", told.step},
          {"stage", told.stage},
          {"reason", told.reason},
          {"step_seconds", told.seconds},
          {"ranks", std::move(ranks)},
          {"critical_path", std::move(path)},
          {"decisions", told.decisions}};
}

std::string Render(const Explanation& told, const Style& style) {
  constexpr size_t kLongest = 12;
  std::string text = absl::StrCat("Step ", told.step, " of ", told.run_id, " (", told.stage, "), ",
                                  Milliseconds(told.seconds), ". Traced because ",
                                  told.reason == "every"     ? "one step in so many is"
                                  : told.reason == "command" ? "a command was applied after it"
                                                             : "it was slow",
                                  ".\n\nHow much later than the quickest, over all exchanges:\n");
  std::vector<std::vector<std::string>> table = {
      {"RANK", "LATE", "LOAD", "DEVICE", "NETWORK", "EXPERT TOKENS", "IN EXCHANGES", "CLOCK"}};
  for (const Lateness& rank : told.ranks) {
    table.push_back({absl::StrCat(rank.rank), Milliseconds(rank.late()), Milliseconds(rank.load),
                     Milliseconds(rank.device), Milliseconds(rank.network),
                     absl::StrCat(rank.tokens), Milliseconds(rank.wait),
                     absl::StrCat("+-", Milliseconds(rank.clock_error))});
  }
  absl::StrAppend(&text, RenderTable(table, style));

  std::map<std::string, double> by_phase;
  std::map<uint32_t, double> by_rank;
  double length = 0;
  for (const PathPart& part : told.path) {
    by_phase[part.phase] += part.end - part.start;
    by_rank[part.rank] += part.end - part.start;
    length += part.end - part.start;
  }
  absl::StrAppend(&text, "\nCritical path, ", Milliseconds(length), ":");
  for (const auto& [rank, seconds] : by_rank)
    absl::StrAppend(&text, " rank ", rank, " ", Share(seconds, length), ";");
  text.back() = '\n';
  std::vector<std::pair<std::string, double>> phases(by_phase.begin(), by_phase.end());
  std::stable_sort(phases.begin(), phases.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  table = {{"PHASE", "TIME", "SHARE"}};
  for (const auto& [phase, seconds] : phases)
    table.push_back({phase, Milliseconds(seconds), Share(seconds, length)});
  absl::StrAppend(&text, RenderTable(table, style), "\nIts longest parts:\n");
  std::vector<PathPart> parts = told.path;
  std::stable_sort(parts.begin(), parts.end(), [](const PathPart& a, const PathPart& b) {
    return a.end - a.start > b.end - b.start;
  });
  if (parts.size() > kLongest) parts.resize(kLongest);
  table = {{"AT", "TIME", "RANK", "PHASE", "LAYER", "DIRECTION", "TOKENS"}};
  for (const PathPart& part : parts) {
    table.push_back({Milliseconds(part.start), Milliseconds(part.end - part.start),
                     absl::StrCat(part.rank), part.phase,
                     part.layer < 0 ? "" : absl::StrCat(part.layer), part.direction,
                     part.tokens < 0 ? "" : absl::StrCat(part.tokens)});
  }
  absl::StrAppend(&text, RenderTable(table, style));
  return text;
}

}  // namespace espalier::cli

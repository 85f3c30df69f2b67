// Metrics over prometheus-cpp, which throws where the world is at fault: its exceptions end here.
#include "libs/observe/metrics.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <exception>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/observe/log.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

// Debian's civetweb gives its threads 100 KiB of stack, in which glibc also puts the thread-local
// data of every library: OpenBLAS and glog alone take 90 KiB of it, and the first thread of the
// exposer runs over its end. This process' definition comes before libc's: no thread gets less than
// 512 KiB. There is no setting for it in civetweb 1.15.
extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size) noexcept {
  constexpr size_t kStackMin = 512 << 10;
  using SetStackSize = int(pthread_attr_t*, size_t);
  static SetStackSize* const next =
      reinterpret_cast<SetStackSize*>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return next(attributes, std::max(size, kStackMin));
}

namespace espalier::observe {
namespace {

const char* KindName(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return "counter";
    case MetricKind::kGauge:
      return "gauge";
    case MetricKind::kHistogram:
      return "histogram";
  }
  return "unknown";
}

}  // namespace

struct Metrics::Series {
  std::vector<std::string> labels;
  prometheus::Counter* counter = nullptr;
  prometheus::Gauge* gauge = nullptr;
  prometheus::Histogram* histogram = nullptr;
};

struct Metrics::Family {
  const MetricSpec* spec = nullptr;
  prometheus::Family<prometheus::Counter>* counters = nullptr;
  prometheus::Family<prometheus::Gauge>* gauges = nullptr;
  prometheus::Family<prometheus::Histogram>* histograms = nullptr;
  std::map<std::string, Series> series;  // by the label values, joined
};

std::vector<double> Buckets(double first, double factor, int count) {
  std::vector<double> bounds;
  for (double bound = first; static_cast<int>(bounds.size()) < count; bound *= factor)
    bounds.push_back(bound);
  return bounds;
}

Metrics::Metrics(std::span<const std::span<const MetricSpec>> tables)
    : registry_(std::make_shared<prometheus::Registry>()) {
  for (const auto& table : tables) specs_.insert(specs_.end(), table.begin(), table.end());
  for (const MetricSpec& spec : specs_) {
    auto family = std::make_unique<Family>();
    family->spec = &spec;
    switch (spec.kind) {
      case MetricKind::kCounter:
        family->counters =
            &prometheus::BuildCounter().Name(spec.name).Help(spec.help).Register(*registry_);
        break;
      case MetricKind::kGauge:
        family->gauges =
            &prometheus::BuildGauge().Name(spec.name).Help(spec.help).Register(*registry_);
        break;
      case MetricKind::kHistogram:
        CHECK(!spec.buckets.empty()) << spec.name << " is a histogram without buckets";
        family->histograms =
            &prometheus::BuildHistogram().Name(spec.name).Help(spec.help).Register(*registry_);
        break;
    }
    CHECK(families_.emplace(spec.name, std::move(family)).second) << spec.name << " declared twice";
  }
}

Metrics::~Metrics() = default;

Metrics::Series& Metrics::Find(std::string_view name, LabelValues labels, MetricKind kind) {
  const auto found = families_.find(std::string(name));
  CHECK(found != families_.end()) << "metric " << name << " was never declared";
  Family& family = *found->second;
  const MetricSpec& spec = *family.spec;
  CHECK(spec.kind == kind) << name << " is a " << KindName(spec.kind);
  CHECK_EQ(labels.size(), spec.labels.size()) << name;
  std::string key;
  for (const std::string_view label : labels) {
    key.append(label);
    key.push_back('\0');
  }
  const auto [series, fresh] = family.series.try_emplace(std::move(key));
  if (!fresh) return series->second;
  prometheus::Labels named;
  size_t i = 0;
  for (const std::string_view label : labels) {
    series->second.labels.emplace_back(label);
    named[spec.labels[i++]] = std::string(label);
  }
  if (family.counters != nullptr) series->second.counter = &family.counters->Add(named);
  if (family.gauges != nullptr) series->second.gauge = &family.gauges->Add(named);
  if (family.histograms != nullptr)
    series->second.histogram = &family.histograms->Add(named, spec.buckets);
  return series->second;
}

void Metrics::Add(std::string_view name, LabelValues labels, double value) {
  std::lock_guard lock(mutex_);
  Find(name, labels, MetricKind::kCounter).counter->Increment(value);
}

void Metrics::Set(std::string_view name, LabelValues labels, double value) {
  std::lock_guard lock(mutex_);
  Find(name, labels, MetricKind::kGauge).gauge->Set(value);
}

void Metrics::Observe(std::string_view name, LabelValues labels, double value) {
  std::lock_guard lock(mutex_);
  Find(name, labels, MetricKind::kHistogram).histogram->Observe(value);
}

void Metrics::ObserveMany(std::string_view name, LabelValues labels,
                          const std::vector<double>& increments, double sum) {
  std::lock_guard lock(mutex_);
  Series& series = Find(name, labels, MetricKind::kHistogram);
  CHECK_EQ(increments.size(), families_.at(std::string(name))->spec->buckets.size() + 1) << name;
  series.histogram->ObserveMultiple(increments, sum);
}

template <typename Goes>
void Metrics::Remove(Family& family, const Goes& goes) {
  for (auto it = family.series.begin(); it != family.series.end();) {
    if (!goes(it->second)) {
      ++it;
      continue;
    }
    if (family.counters != nullptr) family.counters->Remove(it->second.counter);
    if (family.gauges != nullptr) family.gauges->Remove(it->second.gauge);
    if (family.histograms != nullptr) family.histograms->Remove(it->second.histogram);
    it = family.series.erase(it);
  }
}

void Metrics::Forget(std::string_view label, std::string_view value) {
  std::lock_guard lock(mutex_);
  for (auto& [name, family] : families_) {
    const auto& labels = family->spec->labels;
    const auto at = std::find(labels.begin(), labels.end(), label);
    if (at == labels.end()) continue;
    const size_t index = static_cast<size_t>(at - labels.begin());
    Remove(*family, [&](const Series& series) { return series.labels[index] == value; });
  }
}

void Metrics::Drop(std::string_view name) {
  std::lock_guard lock(mutex_);
  const auto found = families_.find(std::string(name));
  CHECK(found != families_.end()) << "metric " << name << " was never declared";
  Remove(*found->second, [](const Series&) { return true; });
}

void Metrics::SetScrapeHook(std::function<void()> hook) {
  std::lock_guard lock(hook_mutex_);
  CHECK(hook == nullptr || hook_ == nullptr) << "there is a scrape hook already";
  hook_ = std::move(hook);
}

void Metrics::CallScrapeHook() const {
  std::lock_guard lock(hook_mutex_);
  if (hook_ != nullptr) hook_();
}

// What the exposer asks: the hook first, then the registry.
class Metrics::Scrape final : public prometheus::Collectable {
 public:
  explicit Scrape(const Metrics& metrics) : metrics_(metrics) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    metrics_.CallScrapeHook();
    return metrics_.registry_->Collect();
  }

 private:
  const Metrics& metrics_;
};

std::string Metrics::Text() const {
  CallScrapeHook();
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

MetricsServer::MetricsServer() = default;
MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    const Metrics& metrics) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-listen: \"", address, "\" is not host:port"));
  }
  auto server = std::unique_ptr<MetricsServer>(new MetricsServer);
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(address, 1);
    server->scrape_ = std::make_shared<Metrics::Scrape>(metrics);
    server->exposer_->RegisterCollectable(server->scrape_, "/metrics");
    const std::vector<int> ports = server->exposer_->GetListeningPorts();
    if (!ports.empty()) server->port_ = ports.front();
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("--metrics-listen: cannot serve on ", address, " (",
                                               error.what(),
                                               "): stop what listens there or pass another"));
  }
  return server;
}

std::string DescribeMetrics(std::span<const std::span<const MetricSpec>> tables) {
  std::set<std::string> lines;
  for (const auto& table : tables) {
    for (const MetricSpec& spec : table) {
      lines.insert(absl::StrCat(spec.name, "\t", KindName(spec.kind), "\t", spec.unit, "\t",
                                absl::StrJoin(spec.labels, ","), "\t", spec.help));
    }
  }
  return absl::StrJoin(lines, "\n") + "\n";
}

std::string DescribeMetricsAsMarkdown(std::span<const MetricSpec> table) {
  std::string text = "| Name | Kind | Unit | Labels | Meaning |\n|---|---|---|---|---|\n";
  for (const MetricSpec& spec : table) {
    absl::StrAppend(&text, "| `", spec.name, "` | ", KindName(spec.kind), " | ", spec.unit, " | ",
                    absl::StrJoin(spec.labels, ", "), " | ", spec.help, " |\n");
  }
  return text;
}

}  // namespace espalier::observe

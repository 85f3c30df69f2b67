// Metrics: the counters, gauges and histograms of one process, declared in tables, and the port
// that Prometheus scrapes.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace prometheus {
class Collectable;
class Exposer;
class Registry;
}  // namespace prometheus

namespace espalier::observe {

enum class MetricKind { kCounter, kGauge, kHistogram };

// One metric as it is declared; the reference of all metrics is made from these. The unit ends the
// name, as Prometheus wants it: espalier_step_seconds.
struct MetricSpec {
  const char* name;
  MetricKind kind;
  const char* unit;  // "seconds", "tokens", "1" for plain numbers
  std::vector<const char*> labels;
  const char* help;
  std::vector<double> buckets = {};  // upper bounds, ascending; of histograms
};

// Bounds from `first` upwards, each `factor` times the one before.
std::vector<double> Buckets(double first, double factor, int count);

// Thread-safe. A name that was not declared, or another number of label values than labels, is a
// mistake of ours and ends the process.
class Metrics {
 public:
  explicit Metrics(std::span<const std::span<const MetricSpec>> tables);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  using LabelValues = std::initializer_list<std::string_view>;
  void Add(std::string_view name, LabelValues labels, double value = 1);
  void Set(std::string_view name, LabelValues labels, double value);
  void Observe(std::string_view name, LabelValues labels, double value);
  // Observations that were counted elsewhere, into this histogram's own bounds: increments[i] of
  // them at most buckets[i], the last above all; together `sum`.
  void ObserveMany(std::string_view name, LabelValues labels, const std::vector<double>& increments,
                   double sum);
  // Drops every series whose label `label` is `value`: a run that is long over is not scraped for
  // ever.
  void Forget(std::string_view label, std::string_view value);
  // Drops every series of one metric: what it told is no longer known.
  void Drop(std::string_view name);
  // `hook` is called before every scrape, to bring in what is counted elsewhere. One at a time:
  // nullptr takes it away, and waits for a call that is under way.
  void SetScrapeHook(std::function<void()> hook);
  // What a scrape would return now.
  std::string Text() const;
  const std::vector<MetricSpec>& specs() const { return specs_; }

 private:
  friend class MetricsServer;
  class Scrape;
  struct Family;
  struct Series;
  // Removes the series of `family` that `goes` says.
  template <typename Goes>
  static void Remove(Family& family, const Goes& goes);
  void CallScrapeHook() const;
  Series& Find(std::string_view name, LabelValues labels, MetricKind kind);

  std::vector<MetricSpec> specs_;
  std::shared_ptr<prometheus::Registry> registry_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Family>> families_;  // guarded by mutex_
  mutable std::mutex hook_mutex_;                                      // taken before mutex_
  std::function<void()> hook_;                                         // guarded by hook_mutex_
};

// Serves GET /metrics until it is destroyed.
class MetricsServer {
 public:
  // `address` is host:port; port 0 takes a free one. Unavailable names the address when the port is
  // in use. `metrics` must outlive the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Metrics& metrics);
  ~MetricsServer();
  int port() const { return port_; }

 private:
  MetricsServer();
  std::shared_ptr<prometheus::Collectable> scrape_;  // the exposer looks at it, and must go first
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// "name kind unit label,label help", parted by tabs, a line each, sorted: the reference that the
// golden file keeps.
std::string DescribeMetrics(std::span<const std::span<const MetricSpec>> tables);
// The same of one table for readers, as rows of Markdown.
std::string DescribeMetricsAsMarkdown(std::span<const MetricSpec> table);

}  // namespace espalier::observe

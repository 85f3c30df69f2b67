// PlaceExperts: capped LPT, then moves and swaps that relieve the heaviest rank until it is near
// the lower bound.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "libs/observe/log.h"
#include "libs/planner/planner.h"

namespace espalier::planner {
namespace {

constexpr int kNone = -1;
// Improvements smaller than this share of the mean are rounding: without it a search might cycle.
constexpr double kProgressMin = 1e-9;

// An expert of the heaviest rank for up to two of another rank, or two for up to one.
struct Exchange {
  int rank = kNone;
  int give[2] = {kNone, kNone};
  int take[2] = {kNone, kNone};
  double peak = 0;  // the heavier of the two ranks afterwards
  int moves = 0;    // by how much the count of moved experts grows
};

class Search {
 public:
  // At most `capacity` experts a rank.
  Search(const std::vector<double>& loads, const std::vector<int>& current,
         const PlacementOptions& options, int capacity)
      : loads_(loads),
        current_(current),
        rank_count_(options.rank_count),
        capacity_(capacity),
        moves_max_(options.moves_max),
        rank_of_(loads.size(), kNone),
        rank_loads_(rank_count_, 0.0),
        members_(rank_count_),
        mean_(std::accumulate(loads.begin(), loads.end(), 0.0) / rank_count_) {}

  // max(mean rank load, heaviest expert + the lightest that must sit with it). Its rank holds at
  // least what the others, filled to capacity, cannot.
  double LowerBound() const {
    if (loads_.empty()) return 0;
    std::vector<double> sorted = loads_;
    std::sort(sorted.begin(), sorted.end());
    const int64_t company =
        static_cast<int64_t>(loads_.size()) - int64_t{rank_count_ - 1} * capacity_ - 1;
    double heaviest = sorted.back();
    for (int64_t i = 0; i < company; ++i) heaviest += sorted[i];
    return std::max(mean_, heaviest);
  }

  // Keeps every expert where `start` has it as far as that is possible, and places the rest by LPT.
  void Start(const std::vector<int>& start) {
    for (int i = 0; i < static_cast<int>(start.size()); ++i) {
      if (start[i] >= 0 && start[i] < rank_count_) Insert(i, start[i]);
    }
    RepairCapacity();
    std::vector<int> order(loads_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return loads_[a] > loads_[b]; });
    for (const int expert : order) {
      if (rank_of_[expert] == kNone) Insert(expert, LightestWithRoom());
    }
    for (int i = 0; i < static_cast<int>(current_.size()); ++i)
      moves_ += rank_of_[i] != current_[i];
  }

  void Improve(double target) {
    // From a current placement each move costs: what is light enough need not get lighter.
    if (!current_.empty()) enough_ = target;
    // Each exchange lowers the sorted vector of rank loads, so this ends by itself; the bound keeps
    // the time in proportion to the size on adversarial input.
    int budget = 64 * rank_count_ + 16 * static_cast<int>(loads_.size());
    while (budget-- > 0) {
      const int heavy = Heaviest();
      if (rank_loads_[heavy] <= target) return;
      Exchange best = BestSimple(heavy);
      if (best.rank == kNone) best = BestOfPairs(heavy);
      if (best.rank == kNone) return;
      Apply(heavy, best);
    }
  }

  const std::vector<int>& ranks() const { return rank_of_; }
  int moves() const { return current_.empty() ? 0 : moves_; }
  double peak() const { return *std::max_element(rank_loads_.begin(), rank_loads_.end()); }

 private:
  // Members are kept in ascending order of load, so that a partner of a wanted load is a search.
  bool Lighter(int a, int b) const {
    return loads_[a] != loads_[b] ? loads_[a] < loads_[b] : a < b;
  }
  void Insert(int expert, int rank) {
    auto& members = members_[rank];
    members.insert(std::lower_bound(members.begin(), members.end(), expert,
                                    [&](int a, int b) { return Lighter(a, b); }),
                   expert);
    rank_of_[expert] = rank;
    rank_loads_[rank] += loads_[expert];
  }
  void Erase(int expert) {
    const int rank = rank_of_[expert];
    auto& members = members_[rank];
    members.erase(std::find(members.begin(), members.end(), expert));
    rank_of_[expert] = kNone;
    // Summed anew rather than subtracted: errors must not add up over thousands of exchanges.
    rank_loads_[rank] = 0;
    for (const int member : members) rank_loads_[rank] += loads_[member];
  }
  int Heaviest() const {
    return static_cast<int>(std::max_element(rank_loads_.begin(), rank_loads_.end()) -
                            rank_loads_.begin());
  }
  int LightestWithRoom() const {
    int best = kNone;
    for (int rank = 0; rank < rank_count_; ++rank) {
      if (Size(rank) < capacity_ && (best == kNone || rank_loads_[rank] < rank_loads_[best])) {
        best = rank;
      }
    }
    CHECK_NE(best, kNone);
    return best;
  }
  int Size(int rank) const { return static_cast<int>(members_[rank].size()); }

  // Sends the expert away whose load comes closest to evening out the two ranks.
  void RepairCapacity() {
    for (int rank = 0; rank < rank_count_; ++rank) {
      while (Size(rank) > capacity_) {
        const int to = LightestWithRoom();
        const double wanted = (rank_loads_[rank] - rank_loads_[to]) / 2;
        const auto& members = members_[rank];
        const int expert = *std::min_element(members.begin(), members.end(), [&](int a, int b) {
          return std::abs(loads_[a] - wanted) < std::abs(loads_[b] - wanted);
        });
        Erase(expert);
        Insert(expert, to);
      }
    }
  }

  int MovesDelta(int expert, int to) const {
    if (current_.empty() || expert == kNone) return 0;
    return (to != current_[expert]) - (rank_of_[expert] != current_[expert]);
  }

  // Takes over `best` when the exchange lowers the peak further and the budget allows it.
  void Consider(int heavy, int rank, int give0, int give1, int take0, int take1,
                Exchange* best) const {
    const auto load = [&](int expert) { return expert == kNone ? 0.0 : loads_[expert]; };
    const double delta = load(give0) + load(give1) - load(take0) - load(take1);
    const double peak = std::max(rank_loads_[heavy] - delta, rank_loads_[rank] + delta);
    // Between exchanges that both do enough, the one with fewer moves; else the lower peak.
    const double score = std::max(peak, enough_), best_score = std::max(best->peak, enough_);
    if (score > best_score || (peak >= best->peak && peak > enough_)) return;
    const int grow = (give0 != kNone) + (give1 != kNone) - (take0 != kNone) - (take1 != kNone);
    if (Size(rank) + grow > capacity_ || Size(heavy) - grow > capacity_) return;
    const int moves = MovesDelta(give0, rank) + MovesDelta(give1, rank) + MovesDelta(take0, heavy) +
                      MovesDelta(take1, heavy);
    if (moves > 0 && moves_ + moves > moves_max_) return;
    if (score == best_score && best->rank != kNone &&
        (moves > best->moves || (moves == best->moves && peak >= best->peak))) {
      return;
    }
    *best = {rank, {give0, give1}, {take0, take1}, peak, moves};
  }

  // Considers the members of `rank` whose loads lie next to `wanted`, on either side.
  void ConsiderNear(int heavy, int rank, int give0, int give1, int take0, double wanted,
                    Exchange* best) const {
    const auto& members = members_[rank];
    auto after = std::lower_bound(members.begin(), members.end(), wanted,
                                  [&](int a, double load) { return loads_[a] < load; });
    if (after != members.end() && *after != take0) {
      Consider(heavy, rank, give0, give1, take0, *after, best);
    }
    if (after != members.begin() && *--after != take0) {
      Consider(heavy, rank, give0, give1, take0, *after, best);
    }
  }

  Exchange Nothing(int heavy) const {
    Exchange none;
    none.peak = rank_loads_[heavy] - kProgressMin * std::max(mean_, 1e-300);
    return none;
  }

  // One expert away, or one for one.
  Exchange BestSimple(int heavy) const {
    Exchange best = Nothing(heavy);
    for (int rank = 0; rank < rank_count_; ++rank) {
      // Even a perfect split of the two cannot beat what was found.
      const double half = (rank_loads_[heavy] - rank_loads_[rank]) / 2;
      if (rank == heavy || rank_loads_[heavy] - half >= std::max(best.peak, enough_)) continue;
      for (const int give : members_[heavy]) {
        Consider(heavy, rank, give, kNone, kNone, kNone, &best);
        ConsiderNear(heavy, rank, give, kNone, kNone, loads_[give] - half, &best);
      }
    }
    return best;
  }

  // Two for one, one for two, two for two, with each rank until one helps: only when nothing
  // simpler does.
  Exchange BestOfPairs(int heavy) const {
    Exchange best = Nothing(heavy);
    std::vector<int> order(rank_count_);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return rank_loads_[a] < rank_loads_[b]; });
    for (const int rank : order) {
      if (rank == heavy) continue;
      const double half = (rank_loads_[heavy] - rank_loads_[rank]) / 2;
      const auto& mine = members_[heavy];
      for (size_t i = 0; i < mine.size(); ++i) {
        for (const int take : members_[rank]) {
          ConsiderNear(heavy, rank, mine[i], kNone, take, loads_[mine[i]] - loads_[take] - half,
                       &best);
        }
        for (size_t j = i + 1; j < mine.size(); ++j) {
          const double given = loads_[mine[i]] + loads_[mine[j]];
          Consider(heavy, rank, mine[i], mine[j], kNone, kNone, &best);
          ConsiderNear(heavy, rank, mine[i], mine[j], kNone, given - half, &best);
          for (const int take : members_[rank]) {
            ConsiderNear(heavy, rank, mine[i], mine[j], take, given - loads_[take] - half, &best);
          }
        }
      }
      if (best.rank != kNone) return best;
    }
    return best;
  }

  void Apply(int heavy, const Exchange& exchange) {
    for (const int expert : exchange.give) {
      if (expert == kNone) continue;
      Erase(expert);
      Insert(expert, exchange.rank);
    }
    for (const int expert : exchange.take) {
      if (expert == kNone) continue;
      Erase(expert);
      Insert(expert, heavy);
    }
    moves_ += exchange.moves;
  }

  const std::vector<double>& loads_;
  const std::vector<int>& current_;
  const int rank_count_;
  const int capacity_;
  const int moves_max_;
  std::vector<int> rank_of_;
  std::vector<double> rank_loads_;
  std::vector<std::vector<int>> members_;
  const double mean_;
  int moves_ = 0;
  double enough_ = 0;  // a peak that needs no further improvement; 0 from nothing
};

// Places by search alone, from `start`; moves are counted against `current`.
std::vector<int> PlaceFlat(const std::vector<double>& loads, const std::vector<int>& current,
                           const std::vector<int>& start, const PlacementOptions& options,
                           int capacity, double* bound, int* moves) {
  Search search(loads, current, options, capacity);
  *bound = search.LowerBound();
  search.Start(start);
  search.Improve(*bound * (1 + options.tolerance));
  *moves = search.moves();
  return search.ranks();
}

int Capacity(size_t experts, int rank_count, int extra_slots) {
  return (static_cast<int>(experts) + rank_count - 1) / rank_count + extra_slots;
}

// Ranks of each node, when there are several of one size; else nothing.
std::vector<std::vector<int>> EqualNodes(const PlacementOptions& options) {
  std::map<int, std::vector<int>> ranks_of;
  for (size_t rank = 0; rank < options.node_of_rank.size(); ++rank)
    ranks_of[options.node_of_rank[rank]].push_back(static_cast<int>(rank));
  std::vector<std::vector<int>> nodes;
  for (auto& [node, ranks] : ranks_of) nodes.push_back(std::move(ranks));
  const bool equal = std::all_of(nodes.begin(), nodes.end(), [&](const auto& ranks) {
    return ranks.size() == nodes.front().size();
  });
  if (nodes.size() < 2 || !equal) nodes.clear();
  return nodes;
}

// Nodes first, then the ranks of each. What a node cannot even out by itself (its experts came
// unlucky) is left to the exchange between all ranks that follows.
std::vector<int> PlaceOnNodes(const std::vector<double>& loads, const std::vector<int>& current,
                              const PlacementOptions& options,
                              const std::vector<std::vector<int>>& nodes, int capacity) {
  const int per_node = static_cast<int>(nodes.front().size());
  std::vector<int> node_of(options.rank_count), place_of(options.rank_count);
  for (size_t node = 0; node < nodes.size(); ++node) {
    for (int place = 0; place < per_node; ++place) {
      node_of[nodes[node][place]] = static_cast<int>(node);
      place_of[nodes[node][place]] = place;
    }
  }
  const auto known = [&](size_t i) {
    return i < current.size() && current[i] >= 0 && current[i] < options.rank_count;
  };
  std::vector<int> current_nodes;
  for (size_t i = 0; i < current.size(); ++i)
    current_nodes.push_back(known(i) ? node_of[current[i]] : kNone);
  PlacementOptions between = options;
  between.rank_count = static_cast<int>(nodes.size());
  double bound = 0;
  int moves = 0;
  const std::vector<int> chosen =
      PlaceFlat(loads, current_nodes, current_nodes, between, capacity * per_node, &bound, &moves);
  int budget = std::max(0, options.moves_max - moves);
  std::vector<int> ranks(loads.size(), kNone);
  for (size_t node = 0; node < nodes.size(); ++node) {
    std::vector<size_t> mine;
    std::vector<double> own;
    std::vector<int> places;
    for (size_t i = 0; i < loads.size(); ++i) {
      if (chosen[i] != static_cast<int>(node)) continue;
      mine.push_back(i);
      own.push_back(loads[i]);
      // One that comes from elsewhere moves anyway: it goes where it fits best.
      const bool stays = known(i) && node_of[current[i]] == static_cast<int>(node);
      if (!current.empty()) places.push_back(stays ? place_of[current[i]] : kNone);
    }
    if (mine.empty()) continue;
    const auto newcomers = static_cast<int>(std::count(places.begin(), places.end(), kNone));
    PlacementOptions within = options;
    within.rank_count = per_node;
    within.moves_max = current.empty() ? options.moves_max : budget + newcomers;
    const std::vector<int> found = PlaceFlat(own, places, places, within, capacity, &bound, &moves);
    budget = std::max(0, budget - (moves - newcomers));
    for (size_t i = 0; i < mine.size(); ++i) ranks[mine[i]] = nodes[node][found[i]];
  }
  return ranks;
}

}  // namespace

Placement PlaceExperts(const std::vector<double>& loads, const std::vector<int>& current,
                       const PlacementOptions& options) {
  CHECK_GE(options.rank_count, 1);
  CHECK_GE(options.extra_slots, 0);
  if (!current.empty()) CHECK_EQ(current.size(), loads.size());
  if (!options.node_of_rank.empty())
    CHECK_EQ(static_cast<int>(options.node_of_rank.size()), options.rank_count);
  for (const double load : loads) CHECK(std::isfinite(load) && load >= 0) << load;
  const int capacity = Capacity(loads.size(), options.rank_count, options.extra_slots);
  const std::vector<std::vector<int>> nodes = EqualNodes(options);
  const std::vector<int> start =
      nodes.empty() ? current : PlaceOnNodes(loads, current, options, nodes, capacity);
  double bound = 0;
  Placement placement;
  placement.ranks = PlaceFlat(loads, current, start, options, capacity, &bound, &placement.moves);
  const double mean =
      std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(options.rank_count);
  if (mean > 0) {
    placement.max_over_mean = MaxOverMean(loads, placement.ranks, options.rank_count);
    placement.lower_bound_over_mean = bound / mean;
  }
  return placement;
}

double MaxOverMean(const std::vector<double>& loads, const std::vector<int>& ranks,
                   int rank_count) {
  CHECK_EQ(loads.size(), ranks.size());
  std::vector<double> sums(rank_count, 0.0);
  double total = 0;
  for (size_t i = 0; i < loads.size(); ++i) {
    CHECK_GE(ranks[i], 0);
    CHECK_LT(ranks[i], rank_count);
    sums[ranks[i]] += loads[i];
    total += loads[i];
  }
  if (!(total > 0)) return 1;
  return *std::max_element(sums.begin(), sums.end()) / (total / rank_count);
}

double NodeMaxOverMean(const std::vector<double>& loads, const std::vector<int>& ranks,
                       const std::vector<int>& node_of_rank) {
  CHECK_EQ(loads.size(), ranks.size());
  std::map<int, double> sums, sizes;
  for (const int node : node_of_rank) ++sizes[node];
  double total = 0;
  for (size_t i = 0; i < loads.size(); ++i) {
    if (node_of_rank.empty()) break;
    sums[node_of_rank.at(static_cast<size_t>(ranks[i]))] += loads[i];
    total += loads[i];
  }
  double worst = 1;
  for (const auto& [node, load] : sums) {
    const double share = sizes[node] / static_cast<double>(node_of_rank.size());
    if (total > 0) worst = std::max(worst, load / (total * share));
  }
  return worst;
}

}  // namespace espalier::planner

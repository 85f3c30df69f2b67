// A map that holds a bounded number of entries and forgets the one that was used longest ago.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace espalier::kernels::cuda {

// Not thread-safe. Key needs operator<. Pointers to values hold until the entry is forgotten.
template <typename Key, typename Value>
class Recent {
 public:
  explicit Recent(size_t entries_max) : entries_max_(entries_max) {}

  // The value, which becomes the one used last; or null.
  Value* Find(const Key& key) {
    const auto it = index_.find(key);
    if (it == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, it->second);
    return &it->second->second;
  }

  // The next Insert of a new key forgets a value.
  bool full() const { return entries_.size() >= entries_max_; }
  size_t size() const { return entries_.size(); }

  // `key` must not be there yet.
  Value* Insert(const Key& key, Value value) {
    if (full()) {
      index_.erase(entries_.back().first);
      entries_.pop_back();
    }
    entries_.emplace_front(key, std::move(value));
    index_.emplace(key, entries_.begin());
    return &entries_.front().second;
  }

 private:
  using Entries = std::list<std::pair<Key, Value>>;
  const size_t entries_max_;
  Entries entries_;  // used last first
  std::map<Key, typename Entries::iterator> index_;
};

}  // namespace espalier::kernels::cuda

// Training of byte-level BPE: counts the different pieces once, then merges the most frequent pair
// again and again, with pair counts kept up to date and a heap of them whose stale entries are
// corrected when they surface.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/text/bpe.h"
#include "libs/text/pretokenizer.h"

namespace espalier::text {
namespace {

// A pair seen once only teaches the tokenizer one spot of the text.
constexpr int64_t kPairCountMin = 2;

struct Word {
  std::vector<int32_t> ids;
  int64_t count = 0;
};

struct Pair {
  int32_t left, right;
  bool operator==(const Pair&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const Pair& pair) {
    return H::combine(std::move(state), pair.left, pair.right);
  }
};

struct Candidate {
  int64_t count;
  Pair pair;
  // The heap's top has the highest count; ties go to the lower ids, so training is deterministic.
  bool operator<(const Candidate& other) const {
    if (count != other.count) return count < other.count;
    if (pair.left != other.pair.left) return pair.left > other.pair.left;
    return pair.right > other.pair.right;
  }
};

// The different pieces of two bytes and more, in order of first appearance.
std::vector<Word> CountWords(absl::string_view text) {
  absl::flat_hash_map<absl::string_view, size_t> index;
  std::vector<Word> words;
  ForEachPiece(text, [&](absl::string_view piece) {
    if (piece.size() < 2) return;
    const auto [entry, is_new] = index.try_emplace(piece, words.size());
    if (is_new) {
      Word word;
      for (const char c : piece) word.ids.push_back(kSpecialCount + static_cast<unsigned char>(c));
      words.push_back(std::move(word));
    }
    ++words[entry->second].count;
  });
  return words;
}

class Trainer {
 public:
  explicit Trainer(absl::string_view text) : words_(CountWords(text)), model_(ByteModel()) {
    for (size_t id = kSpecialCount; id < model_.tokens.size(); ++id) {
      ids_.emplace(model_.tokens[id], static_cast<int32_t>(id));
    }
    for (size_t i = 0; i < words_.size(); ++i) {
      const std::vector<int32_t>& ids = words_[i].ids;
      for (size_t j = 0; j + 1 < ids.size(); ++j) {
        Add({ids[j], ids[j + 1]}, words_[i].count, static_cast<uint32_t>(i));
      }
    }
    for (const auto& [pair, entry] : pairs_) heap_.push_back({entry.count, pair});
    std::make_heap(heap_.begin(), heap_.end());
  }

  // False when no pair is left that occurs often enough.
  bool MergeOne() {
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate top = heap_.back();
      heap_.pop_back();
      const auto found = pairs_.find(top.pair);
      if (found == pairs_.end() || found->second.count < kPairCountMin) continue;
      if (found->second.count != top.count) {
        if (found->second.count < top.count) Push({found->second.count, top.pair});
        continue;  // a higher count has an entry of its own
      }
      Apply(top.pair);
      return true;
    }
    return false;
  }

  int vocabulary() const { return static_cast<int>(model_.tokens.size()); }
  BpeModel Take() { return std::move(model_); }

 private:
  struct Entry {
    int64_t count = 0;
    std::vector<uint32_t> words;  // that held the pair once; some no longer do
  };

  void Push(const Candidate& candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end());
  }

  void Add(Pair pair, int64_t count, uint32_t word) {
    Entry& entry = pairs_[pair];
    entry.count += count;
    if (count > 0 && (entry.words.empty() || entry.words.back() != word)) {
      entry.words.push_back(word);
    }
  }

  // Two ways to the same string share one token, as in Hugging Face's reader.
  int32_t TokenOf(Pair pair) {
    const std::string joined = model_.tokens[pair.left] + model_.tokens[pair.right];
    const auto [entry, is_new] =
        ids_.try_emplace(joined, static_cast<int32_t>(model_.tokens.size()));
    if (is_new) model_.tokens.push_back(joined);
    return entry->second;
  }

  void Apply(Pair pair) {
    const int32_t merged = TokenOf(pair);
    model_.merges.emplace_back(pair.left, pair.right);
    std::vector<uint32_t> touched = std::move(pairs_[pair].words);
    pairs_.erase(pair);
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    std::vector<Pair> grown;
    for (const uint32_t index : touched) MergeIn(index, pair, merged, &grown);
    pairs_.erase(pair);  // the removals above counted it down again
    for (const Pair& changed : grown) {
      const auto found = pairs_.find(changed);
      if (found != pairs_.end()) Push({found->second.count, changed});
    }
  }

  void MergeIn(uint32_t index, Pair pair, int32_t merged, std::vector<Pair>* grown) {
    Word& word = words_[index];
    std::vector<int32_t> after;
    for (size_t i = 0; i < word.ids.size(); ++i) {
      if (i + 1 < word.ids.size() && word.ids[i] == pair.left && word.ids[i + 1] == pair.right) {
        after.push_back(merged);
        ++i;
      } else {
        after.push_back(word.ids[i]);
      }
    }
    if (after.size() == word.ids.size()) return;
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      Add({word.ids[i], word.ids[i + 1]}, -word.count, index);
    }
    for (size_t i = 0; i + 1 < after.size(); ++i) {
      const Pair next{after[i], after[i + 1]};
      Add(next, word.count, index);
      if (next.left == merged || next.right == merged) grown->push_back(next);
    }
    word.ids = std::move(after);
  }

  std::vector<Word> words_;
  BpeModel model_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  absl::flat_hash_map<Pair, Entry> pairs_;
  std::vector<Candidate> heap_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> TrainBpe(absl::string_view text, int vocabulary) {
  constexpr int kVocabularyMin = kSpecialCount + 256;
  if (vocabulary < kVocabularyMin) {
    return absl::InvalidArgumentError(absl::StrCat("a vocabulary of ", vocabulary,
                                                   " cannot hold the ", kVocabularyMin,
                                                   " special tokens and bytes: take a larger one"));
  }
  Trainer trainer(text);
  while (trainer.vocabulary() < vocabulary) {
    if (trainer.MergeOne()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the text (", text.size(), " bytes) has only ", trainer.vocabulary(),
                     " different tokens, a vocabulary of ", vocabulary,
                     " was asked for: take a smaller vocabulary or a larger corpus"));
  }
  return MakeBpeTokenizer(trainer.Take());
}

}  // namespace espalier::text

// Encoder and decoder of byte-level BPE; a tokenizer of plain bytes is one without merges.
#include "libs/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "libs/observe/log.h"
#include "libs/text/bpe.h"
#include "libs/text/pretokenizer.h"

namespace espalier::text {
namespace {

constexpr uint64_t PairKey(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeModel model) : model_(std::move(model)) {
    absl::flat_hash_map<absl::string_view, int32_t> ids;
    for (size_t id = kSpecialCount; id < model_.tokens.size(); ++id) {
      ids.emplace(model_.tokens[id], static_cast<int32_t>(id));
    }
    for (int byte = 0; byte < 256; ++byte) {
      const char character = static_cast<char>(byte);
      const auto found = ids.find(absl::string_view(&character, 1));
      CHECK(found != ids.end()) << "byte " << byte << " has no token";
      byte_ids_[byte] = found->second;
    }
    for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
      const auto [left, right] = model_.merges[rank];
      const auto found = ids.find(model_.tokens[left] + model_.tokens[right]);
      CHECK(found != ids.end()) << "merge " << rank << " makes no token";
      merges_.try_emplace(PairKey(left, right), Merge{static_cast<int32_t>(rank), found->second});
    }
  }

  int vocabulary() const override { return static_cast<int>(model_.tokens.size()); }

  // The cache of words lives for one call: the tokenizer stays immutable, and long texts gain all
  // the same.
  std::vector<int32_t> Encode(absl::string_view text) const override {
    struct Slice {
      size_t begin, size;
    };
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    absl::flat_hash_map<absl::string_view, Slice>
        cache;  // pieces to where `ids` holds them already
    ForEachPiece(text, [&](absl::string_view piece) {
      if (piece.size() == 1) {
        ids.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
        return;
      }
      if (piece.size() <= kCachedBytesMax && cache.size() < kCachedPiecesMax) {
        const auto [entry, is_new] = cache.try_emplace(piece, Slice{ids.size(), 0});
        if (is_new) {
          EncodePiece(piece, &ids);
          entry->second.size = ids.size() - entry->second.begin;
        } else {
          for (size_t i = 0; i < entry->second.size; ++i) {
            ids.push_back(ids[entry->second.begin + i]);
          }
        }
        return;
      }
      EncodePiece(piece, &ids);
    });
    return ids;
  }

  std::string Decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      // Ids beyond the vocabulary stand for nothing, as in Hugging Face's decoder.
      if (id >= 0 && static_cast<size_t>(id) < model_.tokens.size()) text += model_.tokens[id];
    }
    return text;
  }

  std::string ToJson() const override { return BpeToJson(model_); }

 private:
  struct Merge {
    int32_t rank, id;
  };
  static constexpr size_t kCachedBytesMax = 32;
  static constexpr size_t kCachedPiecesMax = 1 << 18;
  // Longer pieces are merged in chunks of a heap instead of by scans, which are quadratic.
  static constexpr size_t kScannedBytesMax = 256;

  // Applies the merge of lowest rank, leftmost first, until none applies.
  void EncodePiece(absl::string_view piece, std::vector<int32_t>* out) const {
    if (piece.size() > kScannedBytesMax) return EncodeLongPiece(piece, out);
    std::array<int32_t, kScannedBytesMax> ids;
    size_t count = piece.size();
    for (size_t i = 0; i < count; ++i) ids[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
    while (count > 1) {
      Merge best{std::numeric_limits<int32_t>::max(), -1};
      size_t at = 0;
      for (size_t i = 0; i + 1 < count; ++i) {
        const auto found = merges_.find(PairKey(ids[i], ids[i + 1]));
        if (found != merges_.end() && found->second.rank < best.rank) {
          best = found->second;
          at = i;
        }
      }
      if (best.id < 0) break;
      ids[at] = best.id;
      for (size_t i = at + 1; i + 1 < count; ++i) ids[i] = ids[i + 1];
      --count;
    }
    out->insert(out->end(), ids.begin(), ids.begin() + count);
  }

  void EncodeLongPiece(absl::string_view piece, std::vector<int32_t>* out) const;

  const BpeModel model_;
  std::array<int32_t, 256> byte_ids_{};
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

// The same order of merges over a linked list, with a heap of candidates: n log n.
void BpeTokenizer::EncodeLongPiece(absl::string_view piece, std::vector<int32_t>* out) const {
  struct Symbol {
    int32_t id;
    int64_t previous, next;  // -1: none
  };
  struct Candidate {
    int32_t rank;
    int64_t at;
    int32_t left, right, id;
    bool operator<(const Candidate& other) const {  // the heap's top is the lowest rank, leftmost
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const int64_t count = static_cast<int64_t>(piece.size());
  std::vector<Symbol> symbols(piece.size());
  for (int64_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], i - 1,
                  i + 1 < count ? i + 1 : -1};
  }
  std::vector<Candidate> heap;
  const auto offer = [&](int64_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const int32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
    const auto found = merges_.find(PairKey(left, right));
    if (found == merges_.end()) return;
    heap.push_back({found->second.rank, at, left, right, found->second.id});
    std::push_heap(heap.begin(), heap.end());
  };
  for (int64_t i = 0; i < count; ++i) offer(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = symbols[top.at];
    if (left.id != top.left || left.next < 0 || symbols[left.next].id != top.right) continue;
    const int64_t gone = left.next;
    left.id = top.id;
    left.next = symbols[gone].next;
    symbols[gone].id = -1;
    if (left.next >= 0) symbols[left.next].previous = top.at;
    offer(left.previous);
    offer(top.at);
  }
  for (int64_t i = 0; i >= 0; i = symbols[i].next) out->push_back(symbols[i].id);
}

}  // namespace

BpeModel ByteModel() {
  BpeModel model;
  model.tokens.resize(kSpecialCount);
  for (int byte = 0; byte < 256; ++byte) model.tokens.emplace_back(1, static_cast<char>(byte));
  return model;
}

std::unique_ptr<Tokenizer> MakeBpeTokenizer(BpeModel model) {
  return std::make_unique<BpeTokenizer>(std::move(model));
}

std::unique_ptr<Tokenizer> MakeByteTokenizer() { return MakeBpeTokenizer(ByteModel()); }

}  // namespace espalier::text

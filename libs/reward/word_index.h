// WordIndex: a fixed list of lower-case words, looked up by their first byte, so that a text is
// read once and not once a word.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "libs/reward/scan.h"

namespace espalier::reward {

// Immutable; the words must outlive it.
class WordIndex {
 public:
  template <typename Words>
  explicit WordIndex(const Words& words) {
    // A stable counting sort: words of one first byte keep their order.
    for (const absl::string_view word : words) ++offsets_[Byte(word[0]) + 1];
    for (size_t byte = 0; byte < 256; ++byte) offsets_[byte + 1] += offsets_[byte];
    words_.resize(offsets_[256]);
    std::array<uint16_t, 257> next = offsets_;
    for (const absl::string_view word : words) words_[next[Byte(word[0])]++] = word;
  }

  bool AnyStartsWith(char c) const {
    const size_t byte = Byte(Lower(c));
    return offsets_[byte] != offsets_[byte + 1];
  }
  // The first of the words that stands at `at`, letters compared without case, and that `fits`;
  // empty when none does.
  template <typename Fits>
  absl::string_view FindAt(absl::string_view text, size_t at, const Fits& fits) const {
    const size_t byte = Byte(Lower(text[at]));
    for (size_t i = offsets_[byte]; i < offsets_[byte + 1]; ++i) {
      if (HoldsAt(text, at, words_[i]) && fits(words_[i])) return words_[i];
    }
    return {};
  }

 private:
  static size_t Byte(char c) { return static_cast<unsigned char>(c); }

  std::array<uint16_t, 257> offsets_{};
  std::vector<absl::string_view> words_;
};

}  // namespace espalier::reward

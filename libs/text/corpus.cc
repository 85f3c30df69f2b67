// Reading and splitting of a corpus, and the random order of its windows as a keyed permutation (no
// table to keep or to resume).
#include "libs/text/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"
#include "libs/text/mix.h"
#include "libs/text/utf8.h"

namespace espalier::text {
namespace {

constexpr size_t kCorpusBytesMin = 64;
constexpr size_t kHeldoutBlockBytes = 4096;
constexpr size_t kHeldoutBlocksMax = 64;

absl::Status CheckUtf8(const std::string& path, absl::string_view text) {
  size_t line = 1;
  for (size_t i = 0; i < text.size();) {
    const size_t length = CharacterLength(text, i);
    if (length == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is not UTF-8 text: byte 0x",
          absl::Hex(static_cast<unsigned char>(text[i]), absl::kZeroPad2), " at offset ", i,
          " (line ", line, "); convert it, for example with iconv -t UTF-8"));
    }
    line += text[i] == '\n';
    i += length;
  }
  return absl::OkStatus();
}

// The first line start at or after `position`, at most `limit`; without one, the first character
// start.
size_t CutAfter(absl::string_view text, size_t position, size_t limit) {
  if (position == 0 || position >= text.size()) return std::min(position, text.size());
  const size_t newline = text.find('\n', position - 1);
  if (newline != absl::string_view::npos && newline + 1 <= limit) return newline + 1;
  while (position < text.size() && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80) {
    ++position;
  }
  return position;
}

// A permutation of [0, size) chosen by `key`: a four-round Feistel network over the next even power
// of two, walked until it lands inside.
uint64_t Permute(uint64_t index, uint64_t size, uint64_t key) {
  int half_bits = 1;
  while ((uint64_t{1} << (2 * half_bits)) < size) ++half_bits;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  do {
    uint64_t left = index >> half_bits, right = index & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (MixKey(key + round, right) & mask);
      left = right;
      right = next;
    }
    index = (left << half_bits) | right;
  } while (index >= size);
  return index;
}

}  // namespace

absl::StatusOr<std::string> ReadCorpus(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (file) content << file.rdbuf();
  std::string text = std::move(content).str();
  if (!file || (text.empty() && errno == EISDIR)) {
    return absl::NotFoundError(absl::StrCat(
        "cannot read the corpus ", path, errno == 0 ? "" : ": ",
        errno == 0 ? "" : std::strerror(errno),
        "; put a UTF-8 text file there, or name another in data.corpus (relative to --data-root)"));
  }
  if (text.size() < kCorpusBytesMin) {
    return absl::InvalidArgumentError(absl::StrCat("the corpus ", path, " has ", text.size(),
                                                   " bytes, at least ", kCorpusBytesMin,
                                                   " are needed: is it the right file?"));
  }
  if (const absl::Status utf8 = CheckUtf8(path, text); !utf8.ok()) return utf8;
  return text;
}

CorpusSplit SplitCorpus(const std::string& text, double heldout_fraction) {
  CorpusSplit split;
  const double heldout_bytes = static_cast<double>(text.size()) * heldout_fraction;
  const size_t blocks = std::clamp(static_cast<size_t>(heldout_bytes / kHeldoutBlockBytes),
                                   size_t{1}, kHeldoutBlocksMax);
  size_t done = 0;
  for (size_t i = 0; i < blocks; ++i) {
    // The block lies in the middle of its share of the text; its ends may move by half of the rest.
    const double share = static_cast<double>(text.size()) / static_cast<double>(blocks);
    const double middle = (static_cast<double>(i) + 0.5) * share;
    const double width = share * heldout_fraction;
    const size_t limit = static_cast<size_t>((static_cast<double>(i) + 1) * share);
    const size_t begin =
        CutAfter(text, std::max(done, static_cast<size_t>(middle - width / 2)), limit);
    const size_t end =
        CutAfter(text, std::max(begin, static_cast<size_t>(middle + width / 2)), limit);
    split.train.append(text, done, begin - done);
    split.heldout.append(text, begin, end - begin);
    done = end;
  }
  split.train.append(text, done, std::string::npos);
  return split;
}

std::vector<int64_t> SequenceOffsets(int64_t token_count, int sequence_length, int batch_sequences,
                                     uint64_t seed, uint64_t step) {
  CHECK_GE(sequence_length, 1);
  CHECK_GE(batch_sequences, 0);
  CHECK_GT(token_count, sequence_length) << "the corpus is shorter than one sequence";
  // Each epoch cuts the windows at another phase; the count of windows leaves room for the largest
  // one.
  const uint64_t windows =
      static_cast<uint64_t>(std::max<int64_t>(1, token_count / sequence_length - 1));
  const int64_t slack = token_count - 1 - static_cast<int64_t>(windows) * sequence_length;
  std::vector<int64_t> offsets;
  offsets.reserve(static_cast<size_t>(batch_sequences));
  for (int i = 0; i < batch_sequences; ++i) {
    const uint64_t drawn = step * static_cast<uint64_t>(batch_sequences) + static_cast<uint64_t>(i);
    const uint64_t epoch = drawn / windows;
    const uint64_t key = MixKey(seed, epoch);
    const int64_t phase = Mix(key).Between(0, std::min<int64_t>(slack, sequence_length - 1));
    offsets.push_back(phase + static_cast<int64_t>(Permute(drawn % windows, windows, key)) *
                                  sequence_length);
  }
  return offsets;
}

}  // namespace espalier::text

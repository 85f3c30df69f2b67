// Safetensors files: a reader that trusts nothing in the file, and a writer that streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/model/checkpoint_io.h"

namespace espalier::model {

enum class TensorType { kF32, kI64, kU8, kF16, kBF16 };
int64_t TensorTypeBytes(TensorType type);

struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
};

// The header grows with the number of tensors; the format's own readers refuse more than this.
inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;

// An open file. The header is checked in full on opening: types, shapes, and that the tensors tile
// the data without gaps or overlaps. Every error is DataLoss with the file's and, where there is
// one, the tensor's name. Thread-safe.
class SafetensorsReader {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(const std::string& path);

  std::vector<std::string> names() const;  // sorted
  bool Contains(const std::string& name) const { return entries_.contains(name); }
  absl::StatusOr<TensorInfo> Info(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Fills `out` with an F32 tensor of exactly this shape.
  absl::Status Read(const std::string& name, const std::vector<int64_t>& shape,
                    std::span<float> out) const;
  // Fills `out` with the elements from `offset` on of a tensor of exactly this shape in F32, F16 or BF16.
  absl::Status ReadFloats(const std::string& name, const std::vector<int64_t>& shape,
                          int64_t offset, std::span<float> out) const;
  absl::StatusOr<std::vector<std::byte>> ReadBytes(const std::string& name) const;

 private:
  struct Entry {
    TensorInfo info;
    uint64_t begin = 0, end = 0;  // of the data that follows the header
  };

  SafetensorsReader(std::string path, int descriptor);
  absl::Status ReadHeader();
  absl::Status ParseHeader(const std::string& text, uint64_t data_bytes);
  absl::Status CheckTiling(uint64_t data_bytes) const;
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;

  std::string path_;
  FileHandle file_;
  uint64_t data_offset_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Writes a new file: the header first, from the list of tensors, then their data in that order. Not
// thread-safe.
class SafetensorsWriter {
 public:
  // InvalidArgument when a name comes twice or is not UTF-8.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<TensorInfo>& tensors,
      const std::map<std::string, std::string>& metadata);

  // The next bytes, in pieces of any size.
  absl::Status Append(std::span<const std::byte> data);
  absl::Status Append(std::span<const float> data) { return Append(std::as_bytes(data)); }

  // Synced and closed. FailedPrecondition when more or fewer bytes came than the header says.
  absl::StatusOr<FileDigest> Finish();

 private:
  SafetensorsWriter(std::string path, std::unique_ptr<SyncedFile> file, uint64_t bytes_expected);

  std::string path_;
  std::unique_ptr<SyncedFile> file_;
  uint64_t bytes_expected_;
};

}  // namespace espalier::model

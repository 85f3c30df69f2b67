// What checkpoints and exports need of the file system: synced files, SHA-256, folders that appear
// whole or not at all, and one error for all ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/collective/communicator.h"

namespace espalier::model {

// The last error of a system call as a status that names `path`: ResourceExhausted for a full disk,
// NotFound, PermissionDenied, else Internal.
absl::Status SystemError(const std::string& what, const std::string& path, int error_number);

// Running SHA-256 by OpenSSL. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const std::byte> data);
  std::string Hex();  // once, at the end

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(const std::string& text);

// Size and checksum of a file in a checkpoint; `name` is relative to the folder.
struct FileDigest {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
  bool operator==(const FileDigest&) const = default;
};

// An open file descriptor that closes itself.
class FileHandle {
 public:
  explicit FileHandle(int descriptor = -1) : descriptor_(descriptor) {}
  ~FileHandle();
  FileHandle(FileHandle&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileHandle& operator=(FileHandle&&) = delete;

  int get() const { return descriptor_; }
  int Close();  // 0, or -1 with errno: a network disk reports a full disk here

 private:
  int descriptor_;
};

// A new file, written front to back. Not thread-safe.
class SyncedFile {
 public:
  // Fails when `path` exists.
  static absl::StatusOr<std::unique_ptr<SyncedFile>> Create(const std::string& path);

  absl::Status Append(std::span<const std::byte> data);
  // Synced to the disk and closed: what was appended survives a power loss (once its folder is
  // synced too).
  absl::StatusOr<FileDigest> Finish();

  uint64_t bytes() const { return bytes_; }

 private:
  SyncedFile(std::string path, int descriptor);

  std::string path_;
  FileHandle file_;
  Sha256 digest_;
  uint64_t bytes_ = 0;
};

absl::Status WriteSyncedFile(const std::string& path, const std::string& content);
absl::Status SyncFolder(const std::string& path);

// The whole file; DataLoss when it is longer than `bytes_max`.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, uint64_t bytes_max);

// DataLoss naming `folder`/`expected.name` unless its size and SHA-256 are as expected; NotFound
// when it is gone.
absl::Status VerifyFile(const std::string& folder, const FileDigest& expected);

// Every rank calls with its own status and gets the same one: that of the lowest rank that failed,
// or OK. (collective)
absl::Status AgreeOnStatus(collective::Communicator& communicator, const absl::Status& mine);

// Every rank's `mine`, by rank. (collective)
absl::StatusOr<std::vector<std::string>> GatherStrings(collective::Communicator& communicator,
                                                       const std::string& mine);

// A folder written aside as `path`.tmp by all ranks and then renamed. Not thread-safe; methods are
// collective.
class FolderWriter {
 public:
  enum class Existing { kRefuse, kReplace };
  // Rank 0 makes an empty `path`.tmp. kRefuse: AlreadyExists when `path` is there.
  static absl::StatusOr<std::unique_ptr<FolderWriter>> Begin(collective::Communicator& communicator,
                                                             const std::string& path,
                                                             Existing existing);
  // Without Commit the partial folder is removed by rank 0.
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  std::string File(const std::string& name) const { return aside_ + "/" + name; }
  // Syncs the folder and gives it its name, when every rank's `mine` is OK. An error is the same on
  // all ranks.
  absl::Status Commit(const absl::Status& mine);

 private:
  FolderWriter(collective::Communicator& communicator, std::string path, Existing existing);
  absl::Status Publish();

  collective::Communicator& communicator_;
  std::string path_, aside_;
  Existing existing_;
  bool committed_ = false;
};

}  // namespace espalier::model

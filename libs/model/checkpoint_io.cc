// Errors carry the file's name, so that whoever reads them knows which disk is full and which file
// is damaged.
#include "libs/model/checkpoint_io.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 20;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span<const char>(text));
}

// A status as one string and back: code, a space, message.
std::string PackStatus(const absl::Status& status) {
  return absl::StrCat(static_cast<int>(status.code()), " ", status.message());
}

absl::Status UnpackStatus(const std::string& packed) {
  const size_t space = packed.find(' ');
  if (space == std::string::npos) return absl::InternalError("a rank sent no status");
  const int code = std::atoi(packed.c_str());
  return absl::Status(static_cast<absl::StatusCode>(code), packed.substr(space + 1));
}

// Puts `from` in the place of the folder `to`, which becomes `from`. In one step where the file
// system can; network file systems cannot: there the old folder has no name for a moment but
// `to`.old.
absl::Status Exchange(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    return absl::OkStatus();
  }
  const bool unsupported = errno == EINVAL || errno == ENOSYS;
  const std::string old = to + ".old";
  if (unsupported && rename(to.c_str(), old.c_str()) == 0) {
    if (rename(from.c_str(), to.c_str()) == 0 && rename(old.c_str(), from.c_str()) == 0) {
      return absl::OkStatus();
    }
    const int error_number = errno;
    if (rename(old.c_str(), to.c_str()) != 0) LOG(ERROR) << "old_folder_left path=" << old;
    errno = error_number;
  }
  return SystemError("cannot put the new folder in place of", to, errno);
}

std::string ParentOf(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

absl::Status SystemError(const std::string& what, const std::string& path, int error_number) {
  const std::string message = absl::StrCat(what, " ", path, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(absl::StrCat(message, "; free space on its disk"));
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InternalError(message);
  }
}

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  CHECK_EQ(EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr), 1);
}

Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> data) {
  CHECK_EQ(EVP_DigestUpdate(context_->evp, data.data(), data.size()), 1);
}

std::string Sha256::Hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK_EQ(EVP_DigestFinal_ex(context_->evp, digest, &size), 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i)
    absl::StrAppend(&hex, absl::Hex(digest[i], absl::kZeroPad2));
  return hex;
}

std::string Sha256Hex(const std::string& text) {
  Sha256 digest;
  digest.Update(Bytes(text));
  return digest.Hex();
}

FileHandle::~FileHandle() {
  if (descriptor_ >= 0) close(descriptor_);
}

int FileHandle::Close() { return close(std::exchange(descriptor_, -1)); }

SyncedFile::SyncedFile(std::string path, int descriptor)
    : path_(std::move(path)), file_(descriptor) {}

absl::StatusOr<std::unique_ptr<SyncedFile>> SyncedFile::Create(const std::string& path) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return SystemError("cannot create", path, errno);
  return std::unique_ptr<SyncedFile>(new SyncedFile(path, descriptor));
}

absl::Status SyncedFile::Append(std::span<const std::byte> data) {
  digest_.Update(data);
  while (!data.empty()) {
    const ssize_t written = write(file_.get(), data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return SystemError("cannot write", path_, errno);
    }
    data = data.subspan(written);
    bytes_ += written;
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> SyncedFile::Finish() {
  if (fsync(file_.get()) != 0) return SystemError("cannot sync", path_, errno);
  if (file_.Close() != 0) return SystemError("cannot close", path_, errno);
  return FileDigest{fs::path(path_).filename().string(), bytes_, digest_.Hex()};
}

absl::Status WriteSyncedFile(const std::string& path, const std::string& content) {
  ASSIGN_OR_RETURN(const std::unique_ptr<SyncedFile> file, SyncedFile::Create(path));
  RETURN_IF_ERROR(file->Append(Bytes(content)));
  return file->Finish().status();
}

absl::Status SyncFolder(const std::string& path) {
  const FileHandle folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return SystemError("cannot open folder", path, errno);
  if (fsync(folder.get()) != 0) return SystemError("cannot sync folder", path, errno);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, uint64_t bytes_max) {
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return SystemError("cannot open", path, errno);
  std::string content;
  std::vector<char> block(kReadBytes);
  for (;;) {
    const ssize_t got = read(file.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("cannot read", path, errno);
    if (got == 0) return content;
    content.append(block.data(), got);
    if (content.size() > bytes_max) {
      return absl::DataLossError(absl::StrCat(path, " is longer than ", bytes_max, " bytes"));
    }
  }
}

absl::Status VerifyFile(const std::string& folder, const FileDigest& expected) {
  const std::string path = folder + "/" + expected.name;
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return SystemError("cannot open", path, errno);
  Sha256 digest;
  std::vector<std::byte> block(kReadBytes);
  uint64_t bytes = 0;
  for (;;) {
    const ssize_t got = read(file.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("cannot read", path, errno);
    if (got == 0) break;
    digest.Update(std::span<const std::byte>(block.data(), got));
    bytes += got;
  }
  if (bytes != expected.bytes) {
    return absl::DataLossError(absl::StrCat(path, " has ", bytes, " bytes, the manifest says ",
                                            expected.bytes, "; use an older checkpoint"));
  }
  if (digest.Hex() != expected.sha256) {
    return absl::DataLossError(absl::StrCat(
        path, " is damaged: its SHA-256 is not the manifest's; use an older checkpoint"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> GatherStrings(collective::Communicator& communicator,
                                                       const std::string& mine) {
  std::vector<std::string> all(communicator.size());
  all[communicator.rank()] = mine;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    RETURN_IF_ERROR(communicator.Broadcast(rank, &all[rank]));
  }
  return all;
}

absl::Status AgreeOnStatus(collective::Communicator& communicator, const absl::Status& mine) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   GatherStrings(communicator, PackStatus(mine)));
  for (const std::string& packed : all) RETURN_IF_ERROR(UnpackStatus(packed));
  return absl::OkStatus();
}

FolderWriter::FolderWriter(collective::Communicator& communicator, std::string path,
                           Existing existing)
    : communicator_(communicator),
      path_(std::move(path)),
      aside_(path_ + ".tmp"),
      existing_(existing) {}

absl::StatusOr<std::unique_ptr<FolderWriter>> FolderWriter::Begin(
    collective::Communicator& communicator, const std::string& path, Existing existing) {
  std::unique_ptr<FolderWriter> folder(new FolderWriter(communicator, path, existing));
  absl::Status made = absl::OkStatus();
  if (communicator.rank() == 0) {
    std::error_code error;
    if (existing == Existing::kRefuse && fs::exists(path, error)) {
      made = absl::AlreadyExistsError(absl::StrCat(path, " exists already"));
    } else {
      fs::remove_all(folder->aside_, error);  // of an earlier, interrupted write
      fs::create_directories(folder->aside_, error);
      if (error) made = SystemError("cannot create folder", folder->aside_, error.value());
    }
  }
  const absl::Status agreed = AgreeOnStatus(communicator, made);
  if (!agreed.ok()) return agreed;
  return folder;
}

FolderWriter::~FolderWriter() {
  if (committed_ || communicator_.rank() != 0) return;
  std::error_code error;
  fs::remove_all(aside_, error);
  if (error) LOG(ERROR) << "partial_folder_left path=" << aside_ << " error=" << error.message();
}

absl::Status FolderWriter::Commit(const absl::Status& mine) {
  RETURN_IF_ERROR(AgreeOnStatus(communicator_, mine));
  const absl::Status published = communicator_.rank() == 0 ? Publish() : absl::OkStatus();
  if (published.ok()) committed_ = true;
  return AgreeOnStatus(communicator_, published);
}

absl::Status FolderWriter::Publish() {
  RETURN_IF_ERROR(SyncFolder(aside_));
  std::error_code error;
  if (existing_ == Existing::kReplace && fs::exists(path_, error)) {
    RETURN_IF_ERROR(Exchange(aside_, path_));
    fs::remove_all(aside_, error);  // the old one, now aside
  } else if (rename(aside_.c_str(), path_.c_str()) != 0) {
    return SystemError("cannot rename the finished folder to", path_, errno);
  }
  const absl::Status synced = SyncFolder(ParentOf(path_));
  // An error must not leave a new folder that looks finished; one that was replaced is gone
  // already.
  if (!synced.ok() && existing_ == Existing::kRefuse) fs::remove_all(path_, error);
  return synced;
}

}  // namespace espalier::model

// The format: 8 bytes of header length, little-endian; a JSON object of name -> dtype, shape,
// data_offsets; the data.
#include "libs/model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint_json.h"
#include "libs/observe/log.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int kHeaderDepthMax = 4;     // object, tensor, list, number
constexpr size_t kDimensionsMax = 16;  // no tensor of ours has more than two

const char* TypeName(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return "F32";
    case TensorType::kI64:
      return "I64";
    case TensorType::kU8:
      return "U8";
    case TensorType::kF16:
      return "F16";
    case TensorType::kBF16:
      return "BF16";
  }
  return "";
}

std::optional<TensorType> TypeOf(const std::string& name) {
  for (const TensorType type : {TensorType::kF32, TensorType::kI64, TensorType::kU8, TensorType::kF16, TensorType::kBF16}) {
    if (name == TypeName(type)) return type;
  }
  return std::nullopt;
}

// Bytes of a tensor, or nothing when they do not fit into 63 bits.
std::optional<uint64_t> TensorBytes(TensorType type, const std::vector<int64_t>& shape) {
  uint64_t bytes = TensorTypeBytes(type);
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent != 0 &&
        bytes > std::numeric_limits<int64_t>::max() / static_cast<uint64_t>(extent)) {
      return std::nullopt;
    }
    bytes *= extent;
  }
  return bytes;
}

bool IsSize(const json& value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// What is wrong with a tensor's entry, or "" after filling the outputs.
std::string ParseEntry(const json& value, TensorInfo* info, uint64_t* begin, uint64_t* end) {
  if (!value.is_object()) return "its entry is not an object";
  const auto dtype = value.find("dtype"), shape = value.find("shape"),
             offsets = value.find("data_offsets");
  if (dtype == value.end() || !dtype->is_string()) return "dtype is missing or not a string";
  const std::optional<TensorType> type = TypeOf(dtype->get<std::string>());
  if (!type)
    return absl::StrCat("dtype ", dtype->get<std::string>(), " is not one of F32, I64, U8, F16, BF16");
  info->type = *type;
  if (shape == value.end() || !shape->is_array() || shape->size() > kDimensionsMax) {
    return absl::StrCat("shape is missing or not a list of at most ", kDimensionsMax, " sizes");
  }
  for (const json& extent : *shape) {
    if (!IsSize(extent)) return "shape holds something that is not a size";
    info->shape.push_back(extent.get<int64_t>());
  }
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
      !IsSize((*offsets)[0]) || !IsSize((*offsets)[1])) {
    return "data_offsets is missing or not two sizes";
  }
  *begin = (*offsets)[0].get<uint64_t>();
  *end = (*offsets)[1].get<uint64_t>();
  if (*end < *begin) return absl::StrCat("data_offsets [", *begin, ", ", *end, "] run backwards");
  const std::optional<uint64_t> bytes = TensorBytes(info->type, info->shape);
  if (!bytes || *bytes != *end - *begin) {
    return absl::StrCat("shape [", absl::StrJoin(info->shape, ", "), "] of ", TypeName(info->type),
                        " does not take ", *end - *begin, " bytes");
  }
  return "";
}

// A half has its exponent and fraction where a float has them, three places lower and with another bias; the product puts the bias right, for
// subnormals too.
float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if (magnitude >= uint32_t{0x7c00} << 13) {  // infinity, not a number
    return std::bit_cast<float>(magnitude | sign | uint32_t{0x7f800000});
  }
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

float BrainToFloat(uint16_t brain) {
  return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16);
}

}  // namespace

int64_t TensorTypeBytes(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return 4;
    case TensorType::kI64:
      return 8;
    case TensorType::kU8:
      return 1;
    case TensorType::kF16:
    case TensorType::kBF16:
      return 2;
  }
  return 0;
}

SafetensorsReader::SafetensorsReader(std::string path, int descriptor)
    : path_(std::move(path)), file_(descriptor) {}

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError("cannot open", path, errno);
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader(path, descriptor));
  RETURN_IF_ERROR(reader->ReadHeader());
  return reader;
}

absl::Status SafetensorsReader::ReadHeader() {
  struct stat status;
  if (fstat(file_.get(), &status) != 0) return SystemError("cannot stat", path_, errno);
  const uint64_t file_bytes = status.st_size;
  uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes)) {
    return absl::DataLossError(
        absl::StrCat(path_, " has ", file_bytes, " bytes, too few for a header"));
  }
  RETURN_IF_ERROR(ReadAt(0, std::as_writable_bytes(std::span(&header_bytes, 1))));
  if (header_bytes > kSafetensorsHeaderBytesMax ||
      header_bytes > file_bytes - sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat(path_, " says that its header has ", header_bytes,
                                            " bytes, but the file has ", file_bytes));
  }
  std::string text(header_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(sizeof(header_bytes), std::as_writable_bytes(std::span(text))));
  data_offset_ = sizeof(header_bytes) + header_bytes;
  return ParseHeader(text, file_bytes - data_offset_);
}

absl::Status SafetensorsReader::ParseHeader(const std::string& text, uint64_t data_bytes) {
  ASSIGN_OR_RETURN(const json header, ParseUntrustedJson(text, kHeaderDepthMax, path_));
  if (!header.is_object()) return absl::DataLossError(absl::StrCat(path_, ": header is no object"));
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) {
        return absl::DataLossError(absl::StrCat(path_, ": __metadata__ is no object"));
      }
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string()) {
          return absl::DataLossError(absl::StrCat(path_, ": __metadata__ ", key, " is no string"));
        }
        metadata_[key] = text_value.get<std::string>();
      }
      continue;
    }
    Entry entry;
    entry.info.name = name;
    const std::string problem = ParseEntry(value, &entry.info, &entry.begin, &entry.end);
    if (!problem.empty()) {
      return absl::DataLossError(absl::StrCat(path_, ", tensor ", name, ": ", problem));
    }
    entries_.emplace(name, std::move(entry));
  }
  return CheckTiling(data_bytes);
}

absl::Status SafetensorsReader::CheckTiling(uint64_t data_bytes) const {
  std::vector<const Entry*> order;
  for (const auto& [name, entry] : entries_) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t at = 0;
  for (const Entry* entry : order) {
    if (entry->begin != at) {
      return absl::DataLossError(absl::StrCat(
          path_, ", tensor ", entry->info.name, ": starts at byte ", entry->begin,
          ", the one before it ends at ", at, entry->begin < at ? " (they overlap)" : " (a gap)"));
    }
    at = entry->end;
  }
  if (at != data_bytes) {
    return absl::DataLossError(
        absl::StrCat(path_, ": its tensors take ", at, " bytes, the file holds ", data_bytes));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsReader::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(file_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("cannot read", path_, errno);
    if (got == 0) {
      return absl::DataLossError(
          absl::StrCat(path_, " ends at byte ", offset, ", ", out.size(), " bytes early"));
    }
    out = out.subspan(got);
    offset += got;
  }
  return absl::OkStatus();
}

std::vector<std::string> SafetensorsReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

absl::StatusOr<TensorInfo> SafetensorsReader::Info(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    return absl::DataLossError(absl::StrCat(path_, " has no tensor ", name));
  }
  return found->second.info;
}

absl::Status SafetensorsReader::Read(const std::string& name, const std::vector<int64_t>& shape,
                                     std::span<float> out) const {
  ASSIGN_OR_RETURN(const TensorInfo info, Info(name));
  if (info.type != TensorType::kF32 || info.shape != shape) {
    return absl::DataLossError(absl::StrCat(path_, ", tensor ", name, ": is ", TypeName(info.type),
                                            " [", absl::StrJoin(info.shape, ", "),
                                            "], expected F32 [", absl::StrJoin(shape, ", "), "]"));
  }
  const Entry& entry = entries_.at(name);
  CHECK_EQ(out.size_bytes(), entry.end - entry.begin) << name;
  return ReadAt(data_offset_ + entry.begin, std::as_writable_bytes(out));
}

absl::Status SafetensorsReader::ReadFloats(const std::string& name,
                                           const std::vector<int64_t>& shape, int64_t offset,
                                           std::span<float> out) const {
  ASSIGN_OR_RETURN(const TensorInfo info, Info(name));
  const bool narrow = info.type == TensorType::kF16 || info.type == TensorType::kBF16;
  if ((info.type != TensorType::kF32 && !narrow) || info.shape != shape) {
    return absl::DataLossError(absl::StrCat(
        path_, ", tensor ", name, ": is ", TypeName(info.type), " [", absl::StrJoin(info.shape, ", "),
        "], expected F32, F16 or BF16 [", absl::StrJoin(shape, ", "), "]"));
  }
  const Entry& entry = entries_.at(name);
  const uint64_t bytes = TensorTypeBytes(info.type), from = entry.begin + offset * bytes;
  CHECK_GE(offset, 0) << name;
  CHECK_LE(from + out.size() * bytes, entry.end) << name;
  if (!narrow) return ReadAt(data_offset_ + from, std::as_writable_bytes(out));
  constexpr size_t kAtOnce = size_t{1} << 16;
  std::vector<uint16_t> wire(std::min(kAtOnce, out.size()));
  for (size_t done = 0; done < out.size(); done += kAtOnce) {
    const std::span<uint16_t> part(wire.data(), std::min(kAtOnce, out.size() - done));
    RETURN_IF_ERROR(ReadAt(data_offset_ + from + done * bytes, std::as_writable_bytes(part)));
    const auto convert = info.type == TensorType::kF16 ? HalfToFloat : BrainToFloat;
    std::transform(part.begin(), part.end(), out.begin() + done, convert);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::byte>> SafetensorsReader::ReadBytes(const std::string& name) const {
  RETURN_IF_ERROR(Info(name).status());
  const Entry& entry = entries_.at(name);
  std::vector<std::byte> data(entry.end - entry.begin);
  RETURN_IF_ERROR(ReadAt(data_offset_ + entry.begin, data));
  return data;
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::unique_ptr<SyncedFile> file,
                                     uint64_t bytes_expected)
    : path_(std::move(path)), file_(std::move(file)), bytes_expected_(bytes_expected) {}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorInfo>& tensors,
    const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const TensorInfo& tensor : tensors) {
    const std::optional<uint64_t> bytes = TensorBytes(tensor.type, tensor.shape);
    if (!bytes || tensor.name == "__metadata__" || header.contains(tensor.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", tensor ", tensor.name, ": listed twice, or of no possible size"));
    }
    header[tensor.name] = {{"dtype", TypeName(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, at + *bytes}}};
    at += *bytes;
  }
  ASSIGN_OR_RETURN(std::string text, PrintJson(header, -1, path));
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  const uint64_t length = text.size();
  if (length > kSafetensorsHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": too many tensors for one file"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<SyncedFile> file, SyncedFile::Create(path));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(&length, 1))));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span<const char>(text))));
  const uint64_t expected = file->bytes() + at;
  return std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(path, std::move(file), expected));
}

absl::Status SafetensorsWriter::Append(std::span<const std::byte> data) {
  return file_->Append(data);
}

absl::StatusOr<FileDigest> SafetensorsWriter::Finish() {
  if (file_->bytes() != bytes_expected_) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": ", file_->bytes(), " bytes written, the header says ", bytes_expected_));
  }
  return file_->Finish();
}

}  // namespace espalier::model

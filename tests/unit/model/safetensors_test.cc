// Goal: what is written reads back, and a damaged or hostile file is an error that names file and
// tensor, never a crash. Method: files made by the writer, then changed byte by byte or replaced by
// hand-made headers.
#include "libs/model/safetensors.h"

#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class Safetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ("safetensors_" +
               std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name = "t.safetensors") const { return folder_ / name; }

  // A file with this header and `data_bytes` zeros behind it.
  std::string Raw(const std::string& header, size_t data_bytes) const {
    const uint64_t length = header.size();
    std::ofstream out(Path(), std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), sizeof(length));
    out << header << std::string(data_bytes, '\0');
    return Path();
  }

  void ExpectDataLoss(const std::string& header, size_t data_bytes, const std::string& says) {
    const auto reader = SafetensorsReader::Open(Raw(header, data_bytes));
    ASSERT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << header << "\n"
                                                                   << reader.status();
    EXPECT_THAT(std::string(reader.status().message()), AllOf(HasSubstr(Path()), HasSubstr(says)));
  }

  fs::path folder_;
};

TEST_F(Safetensors, ReadsWhatWasWritten) {
  std::vector<float> matrix(6), row(3);
  std::iota(matrix.begin(), matrix.end(), 1.5f);
  std::iota(row.begin(), row.end(), -2.0f);
  const std::vector<int64_t> counts = {5, -7};
  auto writer = SafetensorsWriter::Create(Path(),
                                          {{"m", TensorType::kF32, {2, 3}},
                                           {"counts", TensorType::kI64, {2}},
                                           {"empty", TensorType::kF32, {0, 4}},
                                           {"r", TensorType::kF32, {3}}},
                                          {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append(std::span<const float>(matrix).first(2)).ok());  // in pieces
  ASSERT_TRUE((*writer)->Append(std::span<const float>(matrix).subspan(2)).ok());
  ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(counts))).ok());
  ASSERT_TRUE((*writer)->Append(row).ok());
  const auto digest = (*writer)->Finish();
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->bytes, fs::file_size(Path()));
  EXPECT_TRUE(VerifyFile(folder_, *digest).ok());

  const auto reader = SafetensorsReader::Open(Path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> got(6);
  ASSERT_TRUE((*reader)->Read("m", {2, 3}, got).ok());
  EXPECT_EQ(got, matrix);
  got.resize(3);
  ASSERT_TRUE((*reader)->Read("r", {3}, got).ok());
  EXPECT_EQ(got, row);
  const auto bytes = (*reader)->ReadBytes("counts");
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(std::memcmp(bytes->data(), counts.data(), 16), 0);
  EXPECT_EQ((*reader)->metadata().at("format"), "pt");
}

TEST_F(Safetensors, ReadRefusesAnotherShapeAndAMissingTensor) {
  Raw(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", 16);
  const auto reader = SafetensorsReader::Open(Path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> out(4);
  const absl::Status shape = (*reader)->Read("a", {4}, out);
  EXPECT_EQ(shape.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(shape.message()),
              AllOf(HasSubstr("tensor a"), HasSubstr("[2, 2]"), HasSubstr("[4]")));
  EXPECT_THAT(std::string((*reader)->Read("b", {4}, out).message()), HasSubstr("no tensor b"));
}

TEST_F(Safetensors, RefusesHeadersThatLie) {
  ExpectDataLoss("{", 0, "not valid JSON");
  ExpectDataLoss("[]", 0, "no object");
  ExpectDataLoss(R"({"a":1})", 0, "tensor a: its entry is not an object");
  ExpectDataLoss(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4, "F99");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "not a size");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "not a size");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "backwards");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
                 "does not take 4 bytes");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0,
                 "does not take 0 bytes");  // the product overflows to zero
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                 R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                 4, "overlap");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "a gap");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8,
                 "the file holds 8");
  ExpectDataLoss(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3,
                 "the file holds 3");
  ExpectDataLoss(R"({"__metadata__":{"a":1}})", 0, "__metadata__");
  ExpectDataLoss(std::string(100000, '['), 0, "nested deeper");
}

TEST_F(Safetensors, RefusesFilesWithoutAWholeHeader) {
  std::ofstream(Path(), std::ios::binary) << "abc";
  EXPECT_EQ(SafetensorsReader::Open(Path()).status().code(), absl::StatusCode::kDataLoss);
  const uint64_t huge = uint64_t{1} << 62;
  std::ofstream(Path(), std::ios::binary).write(reinterpret_cast<const char*>(&huge), 8);
  EXPECT_EQ(SafetensorsReader::Open(Path()).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(SafetensorsReader::Open(Path("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Safetensors, WriterRefusesATensorTwiceAndMissingData) {
  const TensorInfo info{"a", TensorType::kF32, {2}};
  EXPECT_EQ(SafetensorsWriter::Create(Path(), {info, info}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      SafetensorsWriter::Create(Path(), {{"\xff", TensorType::kF32, {2}}}, {}).status().code(),
      absl::StatusCode::kInvalidArgument);
  auto writer = SafetensorsWriter::Create(Path(), {info}, {});
  ASSERT_TRUE(writer.ok());
  const float one = 1;
  ASSERT_TRUE((*writer)->Append(std::span(&one, 1)).ok());
  EXPECT_EQ((*writer)->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Safetensors, FullDiskIsResourceExhausted) {
  auto writer = SafetensorsWriter::Create(Path(), {{"a", TensorType::kF32, {1000}}}, {});
  ASSERT_TRUE(writer.ok());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 1000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = (*writer)->Append(std::vector<float>(1000));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(Path()), HasSubstr("free space")));
}

}  // namespace
}  // namespace espalier::model

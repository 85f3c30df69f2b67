// Printing, reading of inputs and the words of failed calls.
#include "services/cli/client.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "libs/observe/log.h"
#include "libs/rpc/diagnosis.h"
#include "libs/rpc/server.h"

namespace espalier::cli {
namespace {

constexpr size_t kInputBytesMax = 256 << 20;

}  // namespace

std::string ToJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = pretty;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  CHECK(status.ok()) << status.ToString();
  return pretty ? text : text + "\n";
}

void Write(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void Context::Print(const google::protobuf::Message& message,
                    const std::function<std::string()>& text) const {
  Write(json ? ToJson(message, /*pretty=*/true) : text());
}

absl::StatusOr<std::string> ReadInput(const std::string& path) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream content;
    if (file) content << file.rdbuf();
    if (!file) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot read ", path, " — name a file that exists"));
    }
    text = std::move(content).str();
  }
  if (text.size() > kInputBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", text.size(), " bytes — at most ", kInputBytesMax, " are read"));
  }
  return text;
}

absl::Status CallError(const grpc::Status& status, const std::string& service,
                       const std::string& address) {
  const std::string flag = service == "coordinator" ? "--coordinator" : "--reward";
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::UnavailableError(absl::StrCat("cannot reach the ", service, " at ", address,
                                                 " — ", rpc::WhyFailed(address, status), " (", flag,
                                                 " HOST:PORT names another)"));
    case grpc::StatusCode::UNAUTHENTICATED:
      return absl::UnauthenticatedError(absl::StrCat("the ", service, " at ", address,
                                                     " lets nobody in without a good token — ",
                                                     status.error_message()));
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError(
          absl::StrCat("the ", service, " at ", address,
                       " did not answer in time — look at its log, or try again"));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(absl::StrCat("the server at ", address, " is no ", service,
                                                   ", or an older one — check ", flag));
    case grpc::StatusCode::NOT_FOUND:
      return absl::NotFoundError(
          absl::StrCat(status.error_message(), " — `espalier run list` shows the runs"));
    default:
      return rpc::FromGrpc(status);
  }
}

}  // namespace espalier::cli

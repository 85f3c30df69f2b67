// Context: what every command needs — where the services are, how to print — and unary calls with a
// deadline.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "grpcpp/grpcpp.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

// Lives in main; used from one thread.
struct Context {
  std::string coordinator = "127.0.0.1:7001";
  std::string reward = "127.0.0.1:7002";
  bool json = false;
  bool terminal = false;  // standard output is one
  Style style;
  // The command that the arguments chose; returns the exit code.
  std::function<absl::StatusOr<int>()> action;

  // Prints `message` as JSON under --json, else `text()`.
  void Print(const google::protobuf::Message& message,
             const std::function<std::string()>& text) const;
};

// Protobuf JSON with the names of the protos.
std::string ToJson(const google::protobuf::Message& message, bool pretty);

// Writes to standard output and flushes.
void Write(const std::string& text);

// Contents of a file, "-" for standard input. InvalidArgument names it.
absl::StatusOr<std::string> ReadInput(const std::string& path);

// The status of a call in words: who did not answer and what to do. `service` is "coordinator" or
// "reward service".
absl::Status CallError(const grpc::Status& status, const std::string& service,
                       const std::string& address);

constexpr int kCallSeconds = 20;

// stub->*method(request), for a service at `address`.
template <typename Response, typename Stub, typename Request>
absl::StatusOr<Response> Call(Stub& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request, const std::string& service,
                              const std::string& address, int seconds = kCallSeconds) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) return CallError(status, service, address);
  return response;
}

}  // namespace espalier::cli

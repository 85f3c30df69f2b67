// civetweb's threads call Handle once a request; each reads the body within its bound, waits for
// the engine and writes one reply.
#include "services/reward/http_door.h"

#include <array>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "civetweb.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/rpc/security.h"
#include "libs/rpc/tokens.h"
#include "services/reward/http_calls.h"
#include "services/reward/http_reply.h"

namespace espalier::reward {
namespace {

// Connections at once: more than may score, so that those too many can be told, and health asked
// for.
constexpr int kThreads = kHttpInFlightMax + 16;
constexpr char kRequestTimeoutMs[] = "30000";

// What a token must allow, by path; the calls of gRPC that do the same.
struct Route {
  const char* path;
  const char* method;
  const char* right;  // empty: open to all, as health is
};
constexpr Route kRoutes[] = {
    {"/get_reward", "POST", "/espalier.v1.RewardService/ScoreBatch"},
    {"/score", "POST", "/espalier.v1.RewardService/ScoreBatch"},
    {"/verify", "POST", "/espalier.v1.RewardService/VerifyAnswer"},
    {"/stats", "GET", "/espalier.v1.RewardService/ScoreBatch"},
    {"/healthz", "GET", ""},
};

std::string Unescape(const std::string& text) {
  std::string plain(text.size() + 1, '\0');
  const int size = mg_url_decode(text.data(), static_cast<int>(text.size()), plain.data(),
                                 static_cast<int>(plain.size()), 1);
  plain.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return plain;
}

HttpParameters ParseQuery(const char* query) {
  HttpParameters parameters;
  if (query == nullptr) return parameters;
  for (const absl::string_view pair : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    parameters[Unescape(halves.first)] = Unescape(halves.second);
  }
  return parameters;
}

absl::Status TooLarge() {
  return absl::OutOfRangeError(absl::StrCat("body: larger than ", kHttpBodyBytesMax,
                                            " bytes; send fewer traces in one call"));
}

absl::StatusOr<std::string> ReadBody(mg_connection* connection) {
  const mg_request_info* info = mg_get_request_info(connection);
  if (info->content_length > static_cast<long long>(kHttpBodyBytesMax)) return TooLarge();
  const char* expects = mg_get_header(connection, "Expect");
  if (expects != nullptr && mg_strcasecmp(expects, "100-continue") == 0) {
    constexpr char kGoOn[] = "HTTP/1.1 100 Continue\r\n\r\n";
    mg_write(connection, kGoOn, sizeof(kGoOn) - 1);
  }
  std::string body;
  std::array<char, 16384> piece;
  while (true) {
    const int size = mg_read(connection, piece.data(), piece.size());
    if (size < 0) {
      return absl::InvalidArgumentError("body: ended early, or came slower than in 30 s");
    }
    if (size == 0) break;
    if (body.size() + static_cast<size_t>(size) > kHttpBodyBytesMax) return TooLarge();
    body.append(piece.data(), static_cast<size_t>(size));
  }
  if (info->content_length > 0 && body.size() < static_cast<size_t>(info->content_length)) {
    return absl::InvalidArgumentError(absl::StrCat("body: found ", body.size(), " bytes of ",
                                                   info->content_length, " that were announced"));
  }
  return body;
}

void Write(mg_connection* connection, const HttpReply& reply) {
  const auto add = [connection](const char* name, const std::string& value) {
    mg_response_header_add(connection, name, value.data(), static_cast<int>(value.size()));
  };
  mg_response_header_start(connection, reply.code);
  add("Content-Type", "application/json");
  add("Content-Length", absl::StrCat(reply.body.size()));
  add("Cache-Control", "no-store");
  if (reply.retry_after_seconds > 0) add("Retry-After", absl::StrCat(reply.retry_after_seconds));
  if (!reply.allow.empty()) add("Allow", reply.allow);
  if (reply.code == 401) add("WWW-Authenticate", "Bearer");
  mg_response_header_send(connection);
  mg_write(connection, reply.body.data(), reply.body.size());
}

class CivetDoor final : public HttpDoor {
 public:
  CivetDoor(ScoreEngine* engine, std::unique_ptr<rpc::TokenFile> tokens)
      : engine_(engine), tokens_(std::move(tokens)) {}
  ~CivetDoor() override {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
      for (const auto& control : controls_) control->cancelled = true;
    }
    if (context_ != nullptr) mg_stop(context_);
  }
  std::string address() const override { return address_; }

  absl::Status Listen(const std::string& host, const std::string& address) {
    const std::string threads = absl::StrCat(kThreads);
    const char* const options[] = {"listening_ports",
                                   address.c_str(),
                                   "num_threads",
                                   threads.c_str(),
                                   "request_timeout_ms",
                                   kRequestTimeoutMs,
                                   "enable_keep_alive",
                                   "yes",
                                   "keep_alive_timeout_ms",
                                   "500",
                                   "tcp_nodelay",
                                   "1",
                                   nullptr};
    mg_callbacks callbacks;
    std::memset(&callbacks, 0, sizeof(callbacks));
    callbacks.begin_request = [](mg_connection* connection) {
      auto* door = static_cast<CivetDoor*>(mg_get_request_info(connection)->user_data);
      return door->Handle(connection);
    };
    std::array<char, 256> why{};
    mg_error_data error{};
    error.text = why.data();
    error.text_buffer_size = why.size();
    mg_init_data init{};
    init.callbacks = &callbacks;
    init.user_data = this;
    init.configuration_options = const_cast<const char**>(options);
    context_ = mg_start2(&init, &error);
    if (context_ == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("address ", address, " is in use or not of this machine (", why.data(),
                       "): stop what listens there or pass another --http"));
    }
    mg_server_port port{};
    if (mg_get_server_ports(context_, 1, &port) != 1) {
      return absl::InternalError("--http: the server has no port");
    }
    address_ = absl::StrCat(host, ":", port.port);
    return absl::OkStatus();
  }

 private:
  // The status is for civetweb's own books; the reply is written.
  int Handle(mg_connection* connection) {
    bool entered = false;
    const HttpReply reply = Answer(connection, &entered);
    const absl::Time scored = absl::Now();
    Write(connection, reply);
    if (entered) {
      engine_->stats().Record(Stage::kWrite, absl::Now() - scored);
      engine_->gate().Leave();  // a drain may close the connection from here on
    }
    return reply.code;
  }

  // Whether it entered the gate is for the caller to undo.
  HttpReply Answer(mg_connection* connection, bool* entered) {
    const mg_request_info* info = mg_get_request_info(connection);
    const std::string path = info->local_uri == nullptr ? "" : info->local_uri;
    const Route* route = nullptr;
    for (const Route& one : kRoutes) {
      if (path == one.path) route = &one;
    }
    if (route == nullptr) {
      return ErrorReply(404, "NOT_FOUND",
                        "there are POST /get_reward, /score and /verify, and GET /healthz and "
                        "/stats");
    }
    const std::string method = info->request_method;
    if (method != route->method) {
      HttpReply reply = ErrorReply(405, "METHOD_NOT_ALLOWED",
                                   absl::StrCat(path, " takes ", route->method, ", not ", method));
      reply.allow = route->method;
      return reply;
    }
    if (tokens_ != nullptr && *route->right != '\0') {
      const char* header = mg_get_header(connection, "Authorization");
      const absl::Status allowed =
          tokens_->Check(header == nullptr ? "" : header, route->right, absl::Now());
      if (!allowed.ok()) return ErrorReply(allowed);
    }
    if (path == "/healthz") return Health();
    if (path == "/stats") return {200, engine_->stats().Json()};
    return Work(connection, path, entered);
  }

  HttpReply Health() const {
    if (!engine_->gate().closed()) return {200, "{\"status\": \"SERVING\"}"};
    HttpReply reply = {503, "{\"status\": \"NOT_SERVING\"}"};
    reply.retry_after_seconds = 2;
    return reply;
  }

  HttpReply Work(mg_connection* connection, const std::string& path, bool* entered) {
    *entered = engine_->gate().Enter();
    if (!*entered) {
      engine_->stats().Count(Outcome::kDraining);
      return ErrorReply(DrainingError());
    }
    const auto control = Begin();
    if (control == nullptr) {
      engine_->stats().Count(Outcome::kBusy);
      return ErrorReply(absl::ResourceExhaustedError(
          absl::StrCat("the reward service scores ", kHttpInFlightMax,
                       " HTTP requests at once, and has as many: try again")));
    }
    HttpReply reply = Score(connection, path, control);
    End(control);
    return reply;
  }

  HttpReply Score(mg_connection* connection, const std::string& path,
                  const std::shared_ptr<CallControl>& control) {
    const absl::StatusOr<std::string> body = ReadBody(connection);
    if (!body.ok()) {
      engine_->stats().Count(Outcome::kInvalid);
      return ErrorReply(body.status());
    }
    const absl::Time begun = absl::Now();
    HttpReply reply;
    if (path == "/score") {
      reply = ScoreCall(engine_, control, *body);
    } else if (path == "/verify") {
      reply = VerifyCall(engine_, control, *body);
    } else {
      const HttpParameters parameters = ParseQuery(mg_get_request_info(connection)->query_string);
      reply = GetRewardCall(engine_, control, parameters, *body);
    }
    engine_->stats().Record(Stage::kCall, absl::Now() - begun);
    return reply;
  }

  // Null when kHttpInFlightMax are being scored.
  std::shared_ptr<CallControl> Begin() {
    auto control = std::make_shared<CallControl>();  // owned by the request, told of a close
    control->deadline = absl::Now() + absl::Seconds(kHttpDeadlineSeconds);
    std::lock_guard lock(mutex_);
    control->cancelled = closing_;
    if (controls_.size() >= kHttpInFlightMax) return nullptr;
    controls_.insert(control);
    return control;
  }
  void End(const std::shared_ptr<CallControl>& control) {
    std::lock_guard lock(mutex_);
    controls_.erase(control);
  }

  ScoreEngine* const engine_;
  const std::unique_ptr<rpc::TokenFile> tokens_;
  std::string address_;
  mg_context* context_ = nullptr;
  std::mutex mutex_;
  std::set<std::shared_ptr<CallControl>> controls_;  // guarded by mutex_
  bool closing_ = false;                             // guarded by mutex_
};

absl::StatusOr<std::string> HostOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http: address \"", address, "\" is not host:port"));
  }
  return address.substr(0, colon);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpDoor>> HttpDoor::Open(const HttpOptions& options,
                                                         ScoreEngine* engine) {
  ASSIGN_OR_RETURN(const std::string host, HostOf(options.address));
  if (!options.insecure && !rpc::IsLoopback(host)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--http: ", options.address,
        " is not loopback and this door is plaintext: put a proxy with TLS before it, listen on "
        "127.0.0.1, or pass --insecure inside a network that you trust"));
  }
  std::unique_ptr<rpc::TokenFile> tokens;
  if (!options.tokens.empty()) {
    ASSIGN_OR_RETURN(tokens, rpc::TokenFile::Open(options.tokens));
  }
  // civetweb takes numbers, not names.
  const std::string listen = host == "localhost"
                                 ? absl::StrCat("127.0.0.1", options.address.substr(host.size()))
                                 : options.address;
  auto door = std::make_unique<CivetDoor>(engine, std::move(tokens));
  RETURN_IF_ERROR(door->Listen(host, listen));
  return door;
}

}  // namespace espalier::reward

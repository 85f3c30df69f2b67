// bench_reward_service: an espalier-reward held to one core, driven over loopback from the others.
// Prints JSON: the peak of 64 streams, latencies at half of it (alone, and beside callers with
// large batches), and ScoreBatch and HTTP beside.
//   bench_reward_service --service build/release/bin/espalier-reward [--seconds 5]
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "nlohmann/json.hpp"
#include "services/reward/histogram.h"
#include "services/reward/proto_json.h"

namespace {

namespace v1 = espalier::v1;
using espalier::reward::Histogram;
using nlohmann::ordered_json;

constexpr int kStreams = 64;
constexpr size_t kWindow = 4;  // of a stream at the peak
constexpr int kGroup = 8;      // traces of a ScoreBatch and of an HTTP request

struct Settings {
  std::string service;
  double seconds = 5, warmup = 1;
  int core = 0;  // of the service
};

// The service in a process of its own, on one core; this process keeps to the others.
class Service {
 public:
  explicit Service(const Settings& settings) : log_(absl::StrCat("/tmp/bench_reward_", getpid())) {
    child_ = fork();
    PCHECK(child_ >= 0);
    if (child_ == 0) {
      Pin([&](int core) { return core == settings.core; });
      PCHECK(freopen(log_.c_str(), "w", stderr) != nullptr);
      execl(settings.service.c_str(), "espalier-reward", "--listen", "127.0.0.1:0", "--http",
            "127.0.0.1:0", nullptr);
      _exit(127);
    }
    Pin([&](int core) { return core != settings.core; });
    for (int i = 0; i < 500 && address_.empty(); ++i) {
      absl::SleepFor(absl::Milliseconds(20));
      ReadLog();
    }
    CHECK(!address_.empty()) << "--service " << settings.service << " did not start; see " << log_;
  }
  ~Service() {
    kill(child_, SIGTERM);
    waitpid(child_, nullptr, 0);
    unlink(log_.c_str());
  }
  const std::string& address() const { return address_; }
  int http_port() const { return http_port_; }

 private:
  template <typename Wanted>
  static void Pin(Wanted wanted) {
    const int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int core = 0; core < cores; ++core) {
      if (wanted(core)) CPU_SET(core, &set);
    }
    if (CPU_COUNT(&set) > 0) PCHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
  }
  void ReadLog() {
    std::ifstream in(log_);
    for (std::string line; std::getline(in, line);) {
      const size_t at = line.find("_listening address=");
      if (at == std::string::npos) continue;
      const size_t begin = line.find('=', at) + 1;
      const std::string address = line.substr(begin, line.find(' ', begin) - begin);
      if (line.find("reward_http_listening") != std::string::npos) {
        http_port_ = std::stoi(address.substr(address.rfind(':') + 1));
      } else {
        address_ = address;
      }
    }
  }

  const std::string log_;
  pid_t child_ = 0;
  std::string address_;
  int http_port_ = 0;
};

// A solution of about 1,200 characters with formulas, as a larger model writes it.
std::string Trace(std::mt19937* random, int answer) {
  std::string text = "We are asked for the value of \\( x \\). Simplify step by step.\n\n";
  while (text.size() < 1150) {
    const int a = static_cast<int>((*random)() % 900) + 10, b = static_cast<int>((*random)() % 90);
    absl::StrAppend(&text, "Step: from \\( ", a, " + ", b, "x = ", a + 3 * b,
                    " \\) it follows that \\( x = \\frac{", 3 * b, "}{", b + 1, "} \\). ");
    if ((*random)() % 5 == 0) text += "Wait, let me check that again. ";
  }
  const int said = (*random)() % 3 == 0 ? answer + 1 : answer;
  return absl::StrCat(text, "\n\nThe answer is \\boxed{", said, "}.");
}

std::vector<v1::ScoreBatchRequest> Requests(int count, int traces) {
  std::mt19937 random(7);
  std::vector<v1::ScoreBatchRequest> requests(static_cast<size_t>(count));
  for (v1::ScoreBatchRequest& request : requests) {
    const int answer = static_cast<int>(random() % 1000);
    request.set_reference(absl::StrCat(answer));
    for (int i = 0; i < traces; ++i) request.add_traces()->set_text(Trace(&random, answer));
  }
  return requests;
}

ordered_json ToJson(const Histogram::Snapshot& times, double seconds, int traces_each) {
  const auto ms = [&](double share) { return absl::ToDoubleMilliseconds(times.Quantile(share)); };
  const double rate = static_cast<double>(times.count) / seconds;
  return {{"requests_per_second", rate}, {"traces_per_second", rate * traces_each},
          {"p50_ms", ms(0.5)},           {"p99_ms", ms(0.99)},
          {"p999_ms", ms(0.999)},        {"max_ms", absl::ToDoubleMilliseconds(times.max)}};
}

// What all callers of a phase share: latencies count between warm-up and end.
struct Phase {
  explicit Phase(const Settings& settings)
      : begins(absl::Now() + absl::Seconds(settings.warmup)),
        ends(begins + absl::Seconds(settings.seconds)) {}
  const absl::Time begins, ends;
  Histogram times;
  void Record(absl::Time asked) {
    const absl::Time now = absl::Now();
    if (now >= begins && now < ends) times.Record(now - asked);
  }
};

// One stream. Due(time) asks for one more batch; its latency counts from that time on, also while
// it waits here for the stream.
class StreamClient final
    : public grpc::ClientBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse> {
 public:
  StreamClient(v1::RewardService::Stub* stub, const std::vector<v1::ScoreBatchRequest>* requests,
               Phase* phase, bool again)
      : requests_(requests), phase_(phase), again_(again) {
    stub->async()->ScoreStream(&context_, this);
    StartRead(&response_);
    AddHold();  // until Close
    StartCall();
  }
  void Due(absl::Time time) {
    std::lock_guard lock(mutex_);
    due_.push_back(time);
    WriteNext();
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (ok) WriteNext();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    CHECK(response_.error().empty()) << response_.error();
    {
      std::lock_guard lock(mutex_);
      phase_->Record(asked_[response_.batch_id() % asked_.size()]);
      if (again_ && absl::Now() < phase_->ends) {
        due_.push_back(absl::Now());
        WriteNext();
      }
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status&) override {
    std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  void Close() {
    context_.TryCancel();
    RemoveHold();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }

 private:
  void WriteNext() {  // with mutex_ held
    if (writing_ || due_.empty()) return;
    writing_ = true;
    request_.set_batch_id(++last_id_);
    *request_.mutable_batch() = (*requests_)[last_id_ % requests_->size()];
    asked_[last_id_ % asked_.size()] = due_.front();
    due_.pop_front();
    StartWrite(&request_);
  }

  const std::vector<v1::ScoreBatchRequest>* const requests_;
  Phase* const phase_;
  const bool again_;  // the next batch is due when one is answered
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  v1::ScoreStreamRequest request_;
  v1::ScoreStreamResponse response_;
  std::deque<absl::Time> due_;  // guarded by mutex_, as all below
  std::vector<absl::Time> asked_ = std::vector<absl::Time>(4096);
  uint64_t last_id_ = 0;
  bool writing_ = false;
  bool done_ = false;
};

using Streams = std::vector<std::unique_ptr<StreamClient>>;

std::unique_ptr<v1::RewardService::Stub> Connect(const Service& service) {
  return v1::RewardService::NewStub(espalier::rpc::MakeChannel(service.address()));
}

ordered_json Peak(const Settings& settings, const Service& service) {
  const auto stub = Connect(service);
  const auto requests = Requests(256, 1);
  Phase phase(settings);
  Streams streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::make_unique<StreamClient>(stub.get(), &requests, &phase, true));
    for (size_t k = 0; k < kWindow; ++k) streams.back()->Due(absl::Now());
  }
  absl::SleepFor(phase.ends - absl::Now());
  for (const auto& stream : streams) stream->Close();
  return ToJson(phase.times.Read(), settings.seconds, 1);
}

// Batches come at random times, `rate` of them a second over all streams, whether or not earlier
// ones were answered. `large` streams beside them keep a batch of 512 traces in flight each.
ordered_json AtRate(const Settings& settings, const Service& service, double rate, int large) {
  const auto stub = Connect(service);
  const auto requests = Requests(256, 1);
  const auto large_requests = Requests(large > 0 ? 2 : 0, 512);
  Phase phase(settings), large_phase(settings);
  Streams streams, large_streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::make_unique<StreamClient>(stub.get(), &requests, &phase, false));
  }
  for (int i = 0; i < large; ++i) {
    large_streams.push_back(
        std::make_unique<StreamClient>(stub.get(), &large_requests, &large_phase, true));
    large_streams.back()->Due(absl::Now());
  }
  std::mt19937 random(11);
  std::exponential_distribution<double> gap(rate);
  for (absl::Time due = absl::Now(); due < phase.ends; due += absl::Seconds(gap(random))) {
    if (due > absl::Now()) absl::SleepFor(due - absl::Now());
    streams[random() % streams.size()]->Due(due);
  }
  for (const auto& stream : streams) stream->Close();
  for (const auto& stream : large_streams) stream->Close();
  ordered_json result = ToJson(phase.times.Read(), settings.seconds, 1);
  result["asked_per_second"] = rate;
  if (large > 0) result["large"] = ToJson(large_phase.times.Read(), settings.seconds, 512);
  return result;
}

// `call` again and again in `threads` threads.
template <typename MakeCall>
ordered_json Closed(const Settings& settings, int threads, MakeCall make_call) {
  Phase phase(settings);
  std::vector<std::thread> callers;
  for (int i = 0; i < threads; ++i) {
    callers.emplace_back([&] {
      auto call = make_call();
      while (absl::Now() < phase.ends) {
        const absl::Time asked = absl::Now();
        call();
        phase.Record(asked);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  return ToJson(phase.times.Read(), settings.seconds, kGroup);
}

// A connection that is kept, for one request after the other.
class HttpClient {
 public:
  explicit HttpClient(int port) : port_(port) {}
  ~HttpClient() { Close(); }
  std::string Ask(const std::string& head, const std::string& body) {
    const std::string request = absl::StrCat(
        head, " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
    for (int attempt = 0; attempt < 3; ++attempt) {
      Open();
      std::string reply;
      if (send(socket_, request.data(), request.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(request.size()) &&
          Receive(&reply)) {
        return reply;
      }
      Close();  // the service may close a connection between two requests
    }
    LOG(FATAL) << "the HTTP door does not answer";
  }

 private:
  void Open() {
    if (socket_ >= 0) return;
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    PCHECK(socket_ >= 0);
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port_));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    PCHECK(connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
  }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  bool Receive(std::string* body) {
    std::string text;
    size_t size = 0, begin = std::string::npos;
    char piece[65536];
    while (begin == std::string::npos || text.size() < begin + size) {
      const ssize_t got = recv(socket_, piece, sizeof(piece), 0);
      if (got <= 0) return false;
      text.append(piece, static_cast<size_t>(got));
      const size_t end = text.find("\r\n\r\n");
      if (begin != std::string::npos || end == std::string::npos) continue;
      begin = end + 4;
      CHECK_EQ(text.compare(0, 12, "HTTP/1.1 200"), 0) << text;
      size = std::stoul(text.substr(text.find("Content-Length: ") + 16));
    }
    *body = text.substr(begin);
    return true;
  }
  const int port_;
  int socket_ = -1;
};

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App app("Throughput and latency of a reward service that has one core.");
  Settings settings;
  app.add_option("--service", settings.service, "espalier-reward's binary")->required();
  app.add_option("--seconds", settings.seconds, "Measured time of each phase")
      ->check(CLI::Range(0.2, 600.0));
  app.add_option("--core", settings.core, "The service's core");
  CLI11_PARSE(app, argc, argv);
  espalier::observe::InitLogging(argv[0]);

  const Service service(settings);
  ordered_json result;
  result["score_stream_peak"] = Peak(settings, service);
  const double half = result["score_stream_peak"]["requests_per_second"].get<double>() / 2;
  result["score_stream_half_load"] = AtRate(settings, service, half, 0);
  result["score_stream_half_load_and_large_batches"] = AtRate(settings, service, half / 2, 4);
  const auto groups = Requests(64, kGroup);
  std::atomic<size_t> next{0};
  result["score_batch_of_8"] = Closed(settings, 16, [&] {
    return [&, stub = std::shared_ptr<v1::RewardService::Stub>(Connect(service))] {
      grpc::ClientContext context;
      v1::ScoreBatchResponse response;
      CHECK(stub->ScoreBatch(&context, groups[next++ % groups.size()], &response).ok());
    };
  });
  std::vector<std::string> bodies;
  for (const auto& group : groups) bodies.push_back(espalier::reward::ToJson(group));
  result["http_score_of_8"] = Closed(settings, 16, [&] {
    return [&, client = std::make_shared<HttpClient>(service.http_port())] {
      client->Ask("POST /score", bodies[next++ % bodies.size()]);
    };
  });
  result["service"] = nlohmann::json::parse(HttpClient(service.http_port()).Ask("GET /stats", ""));
  std::cout << result.dump(2) << "\n";
  return 0;
}

// CoordinatorProcess: fork and exec; the address comes from its log, figures from /proc.
#include "services/fleetsim/coordinator_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace espalier::fleetsim {
namespace {

constexpr absl::Duration kStartMax = absl::Seconds(20);
constexpr char kAddressField[] = "coordinator_listening address=";

// The value after kAddressField in a log, or "".
std::string FindAddress(const std::string& path) {
  std::ifstream log(path);
  for (std::string line; std::getline(log, line);) {
    const size_t at = line.find(kAddressField);
    if (at == std::string::npos || log.eof()) continue;
    const size_t begin = at + sizeof(kAddressField) - 1;
    return line.substr(begin, line.find(' ', begin) - begin);
  }
  return "";
}

}  // namespace

ProcessUse UseOf(pid_t pid) {
  ProcessUse use;
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream text;
  text << stat.rdbuf();
  const size_t name_end = text.str().rfind(')');
  if (name_end != std::string::npos) {
    // After the name: state, ten numbers, then ticks in user and in system mode.
    std::istringstream fields(text.str().substr(name_end + 1));
    std::string skipped;
    for (int i = 0; i < 11; ++i) fields >> skipped;
    double user = 0, system = 0;
    fields >> user >> system;
    use.cpu_seconds = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    uint64_t* const value = line.rfind("VmRSS:", 0) == 0   ? &use.rss_bytes
                            : line.rfind("VmHWM:", 0) == 0 ? &use.rss_bytes_max
                                                           : nullptr;
    if (value != nullptr) *value = strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return use;
}

uint64_t BytesOnDisk(const std::string& directory) {
  uint64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(directory, error), end; it != end;
       it.increment(error)) {
    struct stat file;
    if (!error && lstat(it->path().c_str(), &file) == 0 && S_ISREG(file.st_mode))
      bytes += static_cast<uint64_t>(file.st_blocks) * 512;
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<CoordinatorProcess>> CoordinatorProcess::Start(
    const std::string& binary, double lease_seconds) {
  auto process = std::unique_ptr<CoordinatorProcess>(new CoordinatorProcess());
  std::string path = (std::filesystem::temp_directory_path() / "espalier-fleetsim-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr)
    return absl::InternalError(absl::StrCat("no scratch folder ", path, ": ", strerror(errno)));
  process->directory_ = path;
  const std::string data = process->data(), log = process->log(),
                    lease = absl::StrCat(lease_seconds);
  process->pid_ = fork();
  if (process->pid_ < 0)
    return absl::InternalError(absl::StrCat("no process for ", binary, ": ", strerror(errno)));
  if (process->pid_ == 0) {
    // Only async-signal-safe calls from here to exec.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int file = open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0644);
    dup2(file, STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    execl(binary.c_str(), binary.c_str(), "--listen", "127.0.0.1:0", "--data", data.c_str(),
          "--lease-seconds", lease.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  for (const absl::Time deadline = absl::Now() + kStartMax; absl::Now() < deadline;) {
    process->address_ = FindAddress(log);
    if (!process->address_.empty()) return process;
    if (waitpid(process->pid_, nullptr, WNOHANG) != 0) {
      process->pid_ = -1;
      break;
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  std::ifstream text(log);
  std::stringstream said;
  said << text.rdbuf();
  return absl::UnavailableError(absl::StrCat("--spawn-coordinator: ", binary,
                                             " did not come to listen; it said: ", said.str()));
}

CoordinatorProcess::~CoordinatorProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (waitpid(pid_, nullptr, WNOHANG) == 0) {
      if (absl::Now() > deadline) kill(pid_, SIGKILL);
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

}  // namespace espalier::fleetsim

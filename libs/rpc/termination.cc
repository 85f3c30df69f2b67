// SIGINT and SIGTERM as something main waits for, instead of handlers that may hardly do anything.
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "libs/rpc/server.h"

namespace espalier::rpc {
namespace {

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // A peer that goes away while we write to it is an error of the write, not the end of us.
  signal(SIGPIPE, SIG_IGN);
}

void WaitForTermination(const std::function<bool()>& stop) {
  const sigset_t set = TerminationSignals();
  constexpr timespec kPoll{.tv_sec = 0, .tv_nsec = 100'000'000};
  while (!stop || !stop()) {
    if (sigtimedwait(&set, nullptr, &kPoll) > 0) return;
  }
}

}  // namespace espalier::rpc

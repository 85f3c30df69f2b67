// Runs one function on several ranks of this process, each on a thread of its own.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "libs/collective/communicator.h"

namespace espalier::train {

inline void OnRanks(int count, const std::function<void(collective::Communicator&)>& work) {
  auto communicators = collective::MakeInProcessCommunicators(count);
  std::vector<std::thread> threads;
  for (auto& communicator : communicators) {
    threads.emplace_back([&work, &communicator] { work(*communicator); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace espalier::train

// Groups of ranks for tests: each rank is a thread, over memory or over TCP links on loopback.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "libs/collective/communicator.h"

namespace espalier::collective {

// Listeners of all ranks and the links between them.
struct LinkedGroup {
  std::vector<std::unique_ptr<LinkListener>> listeners;
  std::vector<std::unique_ptr<Communicator>> ranks;
};

inline void OnRanks(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

inline LinkedGroup ConnectGroup(int size, absl::Duration stall_timeout = absl::Seconds(20)) {
  LinkedGroup group;
  std::vector<std::string> peers;
  for (int rank = 0; rank < size; ++rank) {
    group.listeners.push_back(LinkListener::Bind("127.0.0.1", 0).value());
    peers.push_back(group.listeners.back()->endpoint());
  }
  group.ranks.resize(size);
  OnRanks(size, [&](int rank) {
    LinkOptions options{.rank = rank, .peers = peers, .key = "key of this group"};
    options.stall_timeout = stall_timeout;
    auto links = ConnectLinks(*group.listeners[rank], options);
    ASSERT_TRUE(links.ok()) << links.status();
    group.ranks[rank] = std::move(links).value();
  });
  return group;
}

}  // namespace espalier::collective

// MakeLinkGroup: the collectives over one connected socket per peer.
#pragma once

#include <memory>
#include <vector>

#include "libs/collective/communicator.h"
#include "libs/collective/socket.h"

namespace espalier::collective {

// links[r] is the tuned, non-blocking connection to rank r; links[rank] is not valid.
std::unique_ptr<Communicator> MakeLinkGroup(int rank, std::vector<Socket> links,
                                            absl::Duration stall_timeout);

}  // namespace espalier::collective

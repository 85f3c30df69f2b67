// Logging: glog under one include, one event a line on stderr: LOG(INFO) << "lease_granted run=" <<
// id;
#pragma once

#include <glog/logging.h>

namespace espalier::observe {

// Call once in main. Logs go to stderr as "I1123 09:30:00.123456 file.cc:12] event field=value".
void InitLogging(const char* program);

}  // namespace espalier::observe

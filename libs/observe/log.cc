#include "libs/observe/log.h"

namespace espalier::observe {

void InitLogging(const char* program) {
  FLAGS_logtostderr = true;
  FLAGS_colorlogtostderr = false;
  google::InitGoogleLogging(program);
}

}  // namespace espalier::observe

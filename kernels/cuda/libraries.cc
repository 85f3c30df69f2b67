// The only place that calls dlopen for CUDA's libraries.
#include "kernels/cuda/libraries.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "absl/strings/str_cat.h"

namespace espalier::kernels::cuda {
namespace {

constexpr char kRemedy[] =
    ": install it (CUDA 13's cuBLAS, cuDNN 9) or name its folder in LD_LIBRARY_PATH or CUDA_HOME";

// False, and `missing` is the name, when the library has no such function.
template <typename Function>
bool Resolve(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) missing = name;
  return function != nullptr;
}

#define ESPALIER_RESOLVE(name) Resolve(library, #name, table.name, missing) &&
bool ResolveAll(void* library, CublasLt& table, std::string& missing) {
  return ESPALIER_CUBLASLT_FUNCTIONS(ESPALIER_RESOLVE) true;
}
bool ResolveAll(void* library, Cudnn& table, std::string& missing) {
  return ESPALIER_CUDNN_FUNCTIONS(ESPALIER_RESOLVE) true;
}
#undef ESPALIER_RESOLVE

template <typename Table>
absl::StatusOr<const Table*> Load(const char* name) {
  static std::mutex mutex;
  static Table table;
  static bool loaded = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded) return &table;
  absl::StatusOr<void*> library = OpenLibrary(name, LibraryPaths(name, std::getenv("CUDA_HOME")));
  if (!library.ok()) return library.status();
  std::string missing;
  if (!ResolveAll(*library, table, missing)) {
    return absl::UnavailableError(absl::StrCat(name, " has no function ", missing,
                                               "; another version is needed", kRemedy));
  }
  loaded = true;
  return &table;
}

}  // namespace

std::vector<std::string> LibraryPaths(const char* name, const char* cuda_home) {
  std::vector<std::string> paths = {name, absl::StrCat("/usr/local/cuda/lib64/", name)};
  if (cuda_home != nullptr && *cuda_home != '\0') {
    paths.push_back(absl::StrCat(cuda_home, "/lib64/", name));
    paths.push_back(absl::StrCat(cuda_home, "/lib/", name));
  }
  return paths;
}

absl::StatusOr<void*> OpenLibrary(const char* name, const std::vector<std::string>& paths) {
  std::string tried;
  for (const std::string& path : paths) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* said = dlerror();
    absl::StrAppend(&tried, tried.empty() ? "" : "; ", path, " (", said != nullptr ? said : "?",
                    ")");
  }
  return absl::UnavailableError(
      absl::StrCat(name, " cannot be opened; tried ", tried, kRemedy));
}

absl::StatusOr<const CublasLt*> LoadCublasLt() { return Load<CublasLt>("libcublasLt.so.13"); }
absl::StatusOr<const Cudnn*> LoadCudnn() { return Load<Cudnn>("libcudnn.so.9"); }

}  // namespace espalier::kernels::cuda

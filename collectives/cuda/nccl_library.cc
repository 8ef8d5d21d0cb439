// NCCL, looked for when it is first needed: a program for CPU tensors runs without it, and one
// whose LibTorch has loaded it uses the same. What nccl.h declares, and Kolo calls, is defined
// here, within libkolo alone; it passes calls on to the library.

#include <dlfcn.h>
#include <fmt/format.h>
#include <nccl.h>

#include <string>

// Name, parameters and arguments of each.
#define KOLO_NCCL_FUNCTIONS(FUNCTION)                                                              \
  FUNCTION(ncclGetVersion, (int* version), (version))                                              \
  FUNCTION(ncclGetUniqueId, (ncclUniqueId * id), (id))                                             \
  FUNCTION(ncclCommInitRankConfig,                                                                 \
           (ncclComm_t * comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config),        \
           (comm, ranks, id, rank, config))                                                        \
  FUNCTION(ncclCommFinalize, (ncclComm_t comm), (comm))                                            \
  FUNCTION(ncclCommDestroy, (ncclComm_t comm), (comm))                                             \
  FUNCTION(ncclCommAbort, (ncclComm_t comm), (comm))                                               \
  FUNCTION(ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t * error), (comm, error))          \
  FUNCTION(ncclCommRegister, (const ncclComm_t comm, void* memory, size_t size, void** handle),    \
           (comm, memory, size, handle))                                                           \
  FUNCTION(ncclCommDeregister, (const ncclComm_t comm, void* handle), (comm, handle))              \
  FUNCTION(ncclMemAlloc, (void** memory, size_t size), (memory, size))                             \
  FUNCTION(ncclMemFree, (void* memory), (memory))                                                  \
  FUNCTION(ncclRedOpCreatePreMulSum,                                                               \
           (ncclRedOp_t * op, void* scalar, ncclDataType_t dtype, ncclScalarResidence_t residence, \
            ncclComm_t comm),                                                                      \
           (op, scalar, dtype, residence, comm))                                                   \
  FUNCTION(ncclRedOpDestroy, (ncclRedOp_t op, ncclComm_t comm), (op, comm))                        \
  FUNCTION(ncclAllReduce,                                                                          \
           (const void* from, void* to, size_t count, ncclDataType_t dtype, ncclRedOp_t op,        \
            ncclComm_t comm, cudaStream_t stream),                                                 \
           (from, to, count, dtype, op, comm, stream))                                             \
  FUNCTION(ncclBroadcast,                                                                          \
           (const void* from, void* to, size_t count, ncclDataType_t dtype, int root,              \
            ncclComm_t comm, cudaStream_t stream),                                                 \
           (from, to, count, dtype, root, comm, stream))                                           \
  FUNCTION(ncclAllGather,                                                                          \
           (const void* from, void* to, size_t count, ncclDataType_t dtype, ncclComm_t comm,       \
            cudaStream_t stream),                                                                  \
           (from, to, count, dtype, comm, stream))                                                 \
  FUNCTION(ncclReduce,                                                                             \
           (const void* from, void* to, size_t count, ncclDataType_t dtype, ncclRedOp_t op,        \
            int root, ncclComm_t comm, cudaStream_t stream),                                       \
           (from, to, count, dtype, op, root, comm, stream))                                       \
  FUNCTION(ncclReduceScatter,                                                                      \
           (const void* from, void* to, size_t count, ncclDataType_t dtype, ncclRedOp_t op,        \
            ncclComm_t comm, cudaStream_t stream),                                                 \
           (from, to, count, dtype, op, comm, stream))                                             \
  FUNCTION(ncclSend,                                                                               \
           (const void* from, size_t count, ncclDataType_t dtype, int peer, ncclComm_t comm,       \
            cudaStream_t stream),                                                                  \
           (from, count, dtype, peer, comm, stream))                                               \
  FUNCTION(ncclRecv,                                                                               \
           (void* to, size_t count, ncclDataType_t dtype, int peer, ncclComm_t comm,               \
            cudaStream_t stream),                                                                  \
           (to, count, dtype, peer, comm, stream))                                                 \
  FUNCTION(ncclGroupStart, (), ())                                                                 \
  FUNCTION(ncclGroupEnd, (), ())

namespace {

constexpr const char* kFile = "libnccl.so.2";

/// Either all is there, or `error` says what is not.
struct Library {
  std::string error;
#define KOLO_POINTER(name, parameters, arguments) decltype(&::name) name = nullptr;
  KOLO_NCCL_FUNCTIONS(KOLO_POINTER)
#undef KOLO_POINTER
  decltype(&::ncclGetErrorString) ncclGetErrorString = nullptr;
  decltype(&::ncclGetLastError) ncclGetLastError = nullptr;

  Library() {
    void* const handle = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      error = fmt::format(
          "NCCL cannot be loaded ({}): install it, or put its folder first in LD_LIBRARY_PATH",
          dlerror());
      return;
    }
#define KOLO_FIND(name, parameters, arguments) find(handle, #name, name);
    KOLO_NCCL_FUNCTIONS(KOLO_FIND)
#undef KOLO_FIND
    find(handle, "ncclGetErrorString", ncclGetErrorString);
    find(handle, "ncclGetLastError", ncclGetLastError);
  }

  template <typename Function>
  void find(void* handle, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    if (function != nullptr || !error.empty()) return;
    error = fmt::format(
        "{} has no {}, so it is older than the NCCL {}.{} that Kolo was compiled with: put the "
        "folder of one that is not first in LD_LIBRARY_PATH",
        kFile, name, NCCL_MAJOR, NCCL_MINOR);
  }
};

/// Stays until the process ends.
const Library& library() {
  static const Library& instance = *new Library;
  return instance;
}

}  // namespace

#define KOLO_PASS_ON(name, parameters, arguments)         \
  ncclResult_t name parameters {                          \
    if (!library().error.empty()) return ncclSystemError; \
    return library().name arguments;                      \
  }
KOLO_NCCL_FUNCTIONS(KOLO_PASS_ON)
#undef KOLO_PASS_ON

const char* ncclGetErrorString(ncclResult_t result) {
  if (!library().error.empty()) return library().error.c_str();
  return library().ncclGetErrorString(result);
}

const char* ncclGetLastError(ncclComm_t comm) {
  return library().error.empty() ? library().ncclGetLastError(comm) : "";
}

// Where the kernels below are compiled: for a GPU by nvcc, or as C++ for a CPU through host_shim.h. The two sets of functions
// live in namespaces of their own, because one program may hold both.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define POOLSIM_SIDE on_gpu
#else
#include "models/cuda/host_shim.h"
#define POOLSIM_SIDE on_host
#endif

#include "models/cuda/kernels/args.h"

namespace poolsim::bench::POOLSIM_SIDE {

#ifdef __CUDACC__

using Stream = cudaStream_t;
#define POOLSIM_UNROLL _Pragma("unroll")

// A block's shared memory as one struct; the launch says its size.
#define POOLSIM_SHARED(Type, name)                                      \
  extern __shared__ __align__(16) unsigned char poolsim_shared_bytes[]; \
  Type& name = *reinterpret_cast<Type*>(poolsim_shared_bytes)

// Queues a kernel. Errors of the launch are left for cudaGetLastError, which the device layer asks after every call.
template <class... Parameters, class... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream stream,
            Arguments... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
}

#else

using Stream = int;
#define POOLSIM_UNROLL
inline int min(int a, int b) { return a < b ? a : b; }

#define POOLSIM_SHARED(Type, name) Type& name = *static_cast<Type*>(host_shim::SharedMemory(sizeof(Type)))

template <class... Parameters, class... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream /*stream*/,
            Arguments... arguments) {
  host_shim::RunGrid(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

#endif

inline constexpr int kWarp = 32;
// What a block may use without asking the driver for more.
inline constexpr std::size_t kStaticSharedBytes = 48 * 1024;

POOLSIM_HOST_DEVICE constexpr int DivideUp(int a, int b) { return (a + b - 1) / b; }

}  // namespace poolsim::bench::POOLSIM_SIDE

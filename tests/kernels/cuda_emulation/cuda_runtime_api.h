#pragma once

// A GPU in place of which the CPU runs the kernels, block after block: the threads of a block are fibers that switch at
// barriers. Stands in front of CUDA's own header. Checks what a GPU would not say: that all threads of a block meet at
// each barrier, and (built with -fsanitize=alignment) that vectors are aligned.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __host__
#define __device__
#define __global__ static
#define __forceinline__ inline
#define __grid_constant__
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;
enum { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
// Three blocks' worth of work stays for the grid's stride: that is where indices go wrong.
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  const char* count = std::getenv("TTUNE_EMULATED_MULTIPROCESSORS");
  *value = count ? std::atoi(count) : 132;
  return 0;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Dim {
  unsigned x;
};
inline Dim threadIdx, blockIdx, blockDim, gridDim;
using std::min;

inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

namespace emulation {

// The first entry is a context's; after it, jumps switch, which cost no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf here;
  bool started = false;
  std::vector<char> stack = std::vector<char>(1 << 17);
  bool done = false;
  double shuffled = 0;
};
inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline std::function<void()> kernel;
inline double dynamic_shared[1 << 16];

inline void run_fiber() {
  kernel();
  fibers[threadIdx.x].done = true;
  _longjmp(scheduler, 1);
}

inline void barrier() {
  if (!_setjmp(fibers[threadIdx.x].here)) _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

inline void run_block() {
  const unsigned threads = blockDim.x;
  if (fibers.size() < threads) fibers.resize(threads);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.done = fiber.started = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  const bool backwards = std::getenv("TTUNE_EMULATED_BACKWARDS") != nullptr;
  for (unsigned done = 0; done < threads;) {
    done = 0;
    for (unsigned i = 0; i < threads; ++i) {
      threadIdx.x = backwards ? threads - 1 - i : i;
      Fiber& fiber = fibers[threadIdx.x];
      resume(fiber);
      done += fiber.done;
    }
    if (done > 0 && done < threads) {
      std::fprintf(stderr, "%u of %u threads wait at a barrier that the others never reach\n", threads - done, threads);
      std::abort();
    }
  }
}

template <class Kernel>
void launch(unsigned blocks, unsigned threads, size_t shared_bytes, Kernel run) {
  if (blocks == 0 || shared_bytes > 48 * 1024 || threads > 1024) {
    std::fprintf(stderr, "a launch of %u blocks of %u threads with %zu bytes\n", blocks, threads, shared_bytes);
    std::abort();
  }
  kernel = run;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned block = 0; block < blocks; ++block) {
    // What a block leaves in shared memory is not there for the next one.
    for (double& x : dynamic_shared) x = std::nan("");
    blockIdx.x = block;
    run_block();
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::barrier(); }

// Only whole blocks shuffle in the kernels, so a barrier of the block serves as one of the warp.
inline double __shfl_down_sync(unsigned, double x, int delta) {
  const unsigned thread = threadIdx.x;
  emulation::fibers[thread].shuffled = x;
  emulation::barrier();
  const bool inside = thread % 32 + unsigned(delta) < 32;
  const double y = emulation::fibers[inside ? thread + unsigned(delta) : thread].shuffled;
  emulation::barrier();
  return y;
}

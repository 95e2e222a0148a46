#pragma once

// Formulas are written once, for the host and for CUDA.
#ifdef __CUDACC__
#define TTUNE_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Always inlined, so that a loop compiled for an instruction set (target_clones) compiles the formula for it too.
#define TTUNE_HOST_DEVICE __attribute__((always_inline)) inline
#else
#define TTUNE_HOST_DEVICE inline
#endif

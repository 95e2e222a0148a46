#pragma once

// GCC compiles an entry function, with all that is inlined into it, once per instruction set and picks at load time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define TTUNE_HAS_CLONES 1
#define TTUNE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TTUNE_HAS_CLONES 0
#define TTUNE_CLONES
#endif
// Intrinsics in functions with a target attribute, for the few loops that compilers do not see through.
#if defined(__x86_64__) && defined(__GNUC__)
#define TTUNE_HAS_X86 1
#else
#define TTUNE_HAS_X86 0
#endif
// Into the clone that calls it: what is not inlined is compiled for the default instruction set only.
#define TTUNE_INLINE __attribute__((always_inline)) inline

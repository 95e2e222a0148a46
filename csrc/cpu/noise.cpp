#include "cpu/noise.h"

#include <algorithm>

#include "cpu/clones.h"
#include "cpu/noise_simd.h"
#include "math/philox.h"

namespace ttune {
namespace {

constexpr int kCounters = kNoiseRoom / 4;  // a run that starts inside a counter's four elements ends inside one more

TTUNE_CLONES void words(int64_t seed, int64_t draw, int64_t first, int count, uint32_t (&out)[4][kCounters]) {
#pragma omp simd
  for (int q = 0; q < count; ++q) {
    const Words w = philox_block(seed, draw, first + q);
    out[0][q] = w.a;
    out[1][q] = w.b;
    out[2][q] = w.c;
    out[3][q] = w.d;
  }
}

template <class A>
TTUNE_INLINE void normals_of(const uint32_t (&words)[4][kCounters], int count, A* y) {
#pragma omp simd
  for (int q = 0; q < count; ++q) {
    box_muller(words[0][q], words[1][q], y[4 * q], y[4 * q + 1]);
    box_muller(words[2][q], words[3][q], y[4 * q + 2], y[4 * q + 3]);
  }
}
TTUNE_CLONES void normals(const uint32_t (&words)[4][kCounters], int count, float* y) { normals_of(words, count, y); }
TTUNE_CLONES void normals(const uint32_t (&words)[4][kCounters], int count, double* y) { normals_of(words, count, y); }

bool has_avx512() {
#if TTUNE_HAS_X86
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
#else
  return false;
#endif
}

bool has_avx2() {
#if TTUNE_HAS_X86
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
#else
  return false;
#endif
}

#if TTUNE_HAS_X86
static_assert(kNoiseRoom >= kMaxNoise + 4 * kCountersAtOnce);
using Apart = void(int64_t, int64_t, int64_t, int, float*, float*);
int rounded_up(int counters) { return (counters + kCountersAtOnce - 1) / kCountersAtOnce * kCountersAtOnce; }
#endif

// The four elements each of counters first ... first + count - 1, and of some more.
template <class A>
void make(int64_t seed, int64_t draw, int64_t first, int count, A* out) {
#if TTUNE_HAS_X86
  if constexpr (sizeof(A) == sizeof(float)) {
    if (has_avx512()) return normals_avx512(seed, draw, first, rounded_up(count), out);
    if (has_avx2()) return normals_avx2(seed, draw, first, rounded_up(count), out);
  }
#endif
  uint32_t made[4][kCounters];
  words(seed, draw, first, count, made);
  normals(made, count, out);
}

struct Run {
  int64_t seed, first;  // counter
  int skip;
  int64_t length;  // elements: of the first counter, and to be made
  int counters() const { return int((skip + length + 3) / 4); }
};

// From element `at`: of one sample, and of counters with the same upper 32 bits.
Run run_at(const int64_t* seeds, int64_t sample_size, int64_t at, int64_t count) {
  constexpr int64_t kSpan = int64_t(4) << 32;
  const int64_t sample = at / sample_size, element = at % sample_size;
  const int64_t left = std::min(sample_size - element, kSpan - element % kSpan);
  return {seeds[sample], element / 4, int(element % 4), std::min(count, left)};
}

template <class A>
void make_noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, A* out) {
  for (int done = 0; done < count;) {
    const Run run = run_at(seeds, sample_size, at + done, count - done);
    if (run.skip == 0) {  // what is written behind the run, the next one overwrites
      make(run.seed, draw, run.first, run.counters(), out + done);
    } else {
      A made[kNoiseRoom];
      make(run.seed, draw, run.first, run.counters(), made);
      std::copy(made + run.skip, made + run.skip + run.length, out + done);
    }
    done += int(run.length);
  }
}

}  // namespace

void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* out) {
  make_noise(seeds, draw, sample_size, at, count, out);
}
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, double* out) {
  make_noise(seeds, draw, sample_size, at, count, out);
}

void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* even, float* odd) {
  for (int done = 0; done < count;) {
    const Run run = run_at(seeds, sample_size, at + done, count - done);
#if TTUNE_HAS_X86
    if (has_avx2() && run.skip == 0 && done % 2 == 0) {
      const auto normals = has_avx512() ? static_cast<Apart*>(normals_avx512) : static_cast<Apart*>(normals_avx2);
      normals(run.seed, draw, run.first, rounded_up(run.counters()), even + done / 2, odd + done / 2);
      done += int(run.length);
      continue;
    }
#endif
    float made[kNoiseRoom];
    make(run.seed, draw, run.first, run.counters(), made);
    for (int i = 0; i < run.length; ++i, ++done) {
      float* const half = done % 2 ? odd : even;
      half[done / 2] = made[run.skip + i];
    }
  }
}

int64_t add_noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int64_t count,
                  const float* const* x, int n, const float* weights, float* out) {
#if TTUNE_HAS_X86
  if (n > kMaxFused || !has_avx512()) return 0;
  const Run run = run_at(seeds, sample_size, at, count);
  constexpr int64_t kElements = 4 * kCountersAtOnce, kMost = int64_t(1) << 30;
  const int64_t elements = std::min(run.length, kMost) / kElements * kElements;
  if (run.skip == 0 && elements > 0) {
    add_normals_avx512(run.seed, draw, run.first, int(elements / 4), x, n, weights, out);
    return elements;
  }
  const int rest = int(std::min<int64_t>(count, kMaxNoise));
  float y[kNoiseRoom];
  noise(seeds, draw, sample_size, at, rest, y);
  add_normals_avx512(y, rest, x, n, weights, out);
  return rest;
#else
  return 0;
#endif
}

}  // namespace ttune

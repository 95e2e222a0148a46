#include "cpu/timestep_embedding.h"

#include <cmath>

#include "cpu/clones.h"
#include "math/sinusoid.h"

namespace ttune {
namespace {

template <class A>
TTUNE_INLINE void run(const TimestepEmbedding& e, int64_t begin, int64_t end) {
  const int64_t half = e.dim / 2;
  const double* frequencies = e.frequencies;
  for (int64_t i = begin; i < end; ++i) {
    A* row = static_cast<A*>(e.out) + i * e.dim;
    A *sin = row + (e.cos_first ? half : 0), *cos = row + (e.cos_first ? 0 : half);
    const double time = e.scale * time_at(e.times, e.time_dtype, i);
#pragma omp simd
    for (int64_t k = 0; k < half; ++k) {
      const SinCos<A> value = sin_cos(time * frequencies[k], A());
      sin[k] = value.sin;
      cos[k] = value.cos;
    }
    if (e.dim % 2) row[e.dim - 1] = 0;
  }
}

TTUNE_CLONES void run_float32(const TimestepEmbedding& e, int64_t begin, int64_t end) { run<float>(e, begin, end); }

TTUNE_CLONES void exponentials(double rate, double divisor, int64_t half, double* out) {
#pragma omp simd
  for (int64_t k = 0; k < half; ++k) out[k] = exponential(rate * double(k) / divisor);
}

}  // namespace

void frequencies(double max_period, double shift, int64_t half, double* out) {
  const double rate = -std::log(max_period), divisor = double(half) - shift;
  if (std::abs(rate * double(half) / divisor) <= 700) return exponentials(rate, divisor, half, out);
  for (int64_t k = 0; k < half; ++k) out[k] = std::exp(rate * double(k) / divisor);
}

void timestep_embedding(const TimestepEmbedding& embedding, int64_t begin, int64_t end) {
  if (embedding.wide) return run<double>(embedding, begin, end);
  run_float32(embedding, begin, end);
}

}  // namespace ttune

#include "cpu/linear_update.h"

#include <algorithm>
#include <vector>

#include "cpu/clones.h"
#include "cpu/combine.h"
#include "math/half.h"
#include "math/philox.h"

namespace ttune {
namespace {

// Unit Gaussian noise of elements [at, at + count), counted over all samples in row-major order.
template <class A>
TTUNE_INLINE void noise(const LinearUpdate& u, int64_t at, int count, A* y) {
  constexpr int kBlocks = kTile / 4 + 1;  // a run that starts inside a block of four ends inside one more
  uint32_t words[4][kBlocks];
  A normals[4 * kBlocks];
  for (int done = 0; done < count;) {
    const int64_t sample = (at + done) / u.sample_size, element = (at + done) % u.sample_size;
    const int run = int(std::min<int64_t>(count - done, u.sample_size - element));
    const int64_t block = element / 4, seed = u.seeds[sample], draw = u.draw;
    const int skip = int(element % 4), blocks = (skip + run + 3) / 4;
#pragma omp simd
    for (int q = 0; q < blocks; ++q) {
      const Words w = philox_block(seed, draw, block + q);
      words[0][q] = w.a;
      words[1][q] = w.b;
      words[2][q] = w.c;
      words[3][q] = w.d;
    }
#pragma omp simd
    for (int q = 0; q < blocks; ++q) {
      box_muller(words[0][q], words[1][q], normals[4 * q], normals[4 * q + 1]);
      box_muller(words[2][q], words[3][q], normals[4 * q + 2], normals[4 * q + 3]);
    }
    std::copy(normals + skip, normals + skip + run, y + done);
    done += run;
  }
}

template <class T>
bool aliased(const LinearUpdate& u) {
  for (int r = 0; r < u.n_outs; ++r)
    for (int j = 0; j < u.n_terms; ++j)
      if (u.outs[r] == u.terms[j]) return true;
  return false;
}

template <class T>
TTUNE_INLINE void run(const LinearUpdate& u, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int columns = u.n_terms + u.clipped + (u.seeds != nullptr);
  // A row that is written before the rows after it have read the terms must wait, if it is written over a term.
  const bool wait = u.n_outs > 1 && aliased<T>(u);
  std::vector<A> waiting(wait ? size_t(u.n_outs - 1) * kTile : 0);
  A sum[kTile], clamped[kTile], gaussian[kTile];

  for (int64_t at = begin; at < end; at += kTile) {
    const int count = int(std::min<int64_t>(kTile, end - at));
    if (u.seeds) noise(u, at, count, gaussian);
    for (int r = 0; r < u.n_outs; ++r) {
      const double* weights = u.coeffs + r * columns;
      T* out = static_cast<T*>(u.outs[r]) + at;
      const bool last = r == u.n_outs - 1;
      if (columns == u.n_terms && columns <= kMaxUnrolled && (last || !wait)) {
        combine<T>(u.terms, u.n_terms, weights, at, count, out, sum);
        continue;
      }
      const int unrolled = std::min(u.n_terms, kMaxUnrolled);
      if (unrolled == 0) std::fill(sum, sum + count, A(0));
      combine<T>(u.terms, unrolled, weights, at, count, sum, sum);
      for (int j = unrolled; j < u.n_terms; ++j) add(static_cast<const T*>(u.terms[j]) + at, A(weights[j]), count, sum);
      if (u.clipped && r > 0) add(clamped, A(weights[u.n_terms]), count, sum);
      if (u.seeds) add(gaussian, A(weights[columns - 1]), count, sum);
      if (u.clipped && r == 0) {
        clamp(A(u.clip), count, sum);
        std::copy(sum, sum + count, clamped);
      }
      if (last || !wait)
        store(sum, count, out);
      else
        std::copy(sum, sum + count, waiting.data() + size_t(r) * kTile);
    }
    for (int r = 0; wait && r < u.n_outs - 1; ++r)
      store(waiting.data() + size_t(r) * kTile, count, static_cast<T*>(u.outs[r]) + at);
  }
}

TTUNE_CLONES void run_float64(const LinearUpdate& u, int64_t begin, int64_t end) { run<double>(u, begin, end); }
TTUNE_CLONES void run_float32(const LinearUpdate& u, int64_t begin, int64_t end) { run<float>(u, begin, end); }
TTUNE_CLONES void run_bfloat16(const LinearUpdate& u, int64_t begin, int64_t end) { run<BFloat16>(u, begin, end); }
TTUNE_CLONES void run_float16(const LinearUpdate& u, int64_t begin, int64_t end) { run<Float16>(u, begin, end); }

}  // namespace

void linear_update(const LinearUpdate& update, int64_t begin, int64_t end) {
  switch (update.dtype) {
    case DType::float64:
      return run_float64(update, begin, end);
    case DType::float32:
      return run_float32(update, begin, end);
    case DType::bfloat16:
      return run_bfloat16(update, begin, end);
    case DType::float16:
      return run_float16(update, begin, end);
  }
}

}  // namespace ttune

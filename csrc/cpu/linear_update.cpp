#include "cpu/linear_update.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/clones.h"
#include "cpu/combine.h"
#include "cpu/float16.h"
#include "cpu/noise.h"
#include "math/half.h"

namespace ttune {
namespace {

static_assert(kTile <= kMaxNoise);
constexpr int kMaxRows = 4;  // whose sums are on the stack

// Terms [first, first + n) of a tile, as the loops read them: float16 widened into `buffer`, others where they are.
template <class T, class A>
TTUNE_INLINE void fetch(const LinearUpdate& u, int first, int n, int64_t at, int, A*, const T** x) {
  for (int j = 0; j < n; ++j) x[j] = static_cast<const T*>(u.terms[first + j]) + at;
}
TTUNE_INLINE void fetch(const LinearUpdate& u, int first, int n, int64_t at, int count, float* buffer, const float** x,
                        Float16) {
  for (int j = 0; j < n; ++j) {
    x[j] = buffer + j * kTile;
    widen_float16(static_cast<const Float16*>(u.terms[first + j]) + at, count, buffer + j * kTile);
  }
}

template <class T>
TTUNE_INLINE void run_tiles(const LinearUpdate& u, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  constexpr bool kWidened = std::is_same_v<T, Float16>;
  using X = std::conditional_t<kWidened, float, T>;
  const int columns = u.n_terms + u.clipped + (u.seeds != nullptr), together = std::min(u.n_terms, kMaxUnrolled);
  A on_stack[kMaxRows * kTile], gaussian[kNoiseRoom], widened[kWidened ? kMaxUnrolled * kTile : 1];
  std::vector<A> on_heap(u.n_outs > kMaxRows ? size_t(u.n_outs) * kTile : 0);
  A* const sums = u.n_outs > kMaxRows ? on_heap.data() : on_stack;
  const auto load = [&](int first, int n, int64_t at, int count, const X** x) {
    if constexpr (kWidened)
      fetch(u, first, n, at, count, widened, x, Float16());
    else
      fetch<T>(u, first, n, at, count, widened, x);
  };

  for (int64_t at = begin; at < end; at += kTile) {
    const int count = int(std::min<int64_t>(kTile, end - at));
    const X* x[kMaxUnrolled] = {};
    load(0, together, at, count, x);
    for (int r = 0; r < u.n_outs; r += 2) {
      A* const pair[2] = {sums + r * kTile, sums + (r + 1) * kTile};
      const int rows = std::min(2, u.n_outs - r);
      if (together == 0) std::fill(pair[0], pair[0] + rows * kTile, A(0));
      combine(x, together, u.coeffs + r * columns, columns, rows, count, pair, sums);
    }
    for (int j = together; j < u.n_terms; ++j) {
      load(j, 1, at, count, x);
      for (int r = 0; r < u.n_outs; ++r) add(x[0], weight_of<A>(u.coeffs[r * columns + j]), count, sums + r * kTile);
    }
    if (u.seeds) noise(u.seeds, u.draw, u.sample_size, at, count, gaussian);
    for (int r = 0; r < u.n_outs; ++r) {
      A* const sum = sums + r * kTile;
      const double* weights = u.coeffs + r * columns;
      if (u.clipped && r > 0) add(sums, weight_of<A>(weights[u.n_terms]), count, sum);
      if (u.seeds) add(gaussian, weight_of<A>(weights[columns - 1]), count, sum);
      if (u.clipped && r == 0) clamp(A(u.clip), count, sum);
    }
    // Only now: an output may be a term.
    for (int r = 0; r < u.n_outs; ++r) store(sums + r * kTile, count, static_cast<T*>(u.outs[r]) + at);
  }
}

// Noise as one term more: only a tile of it exists.
template <class T>
TTUNE_INLINE void run_with_noise(const LinearUpdate& u, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int n = u.n_terms, columns = n + 1;
  [[maybe_unused]] float weights[kMaxUnrolled] = {};
  for (int j = 0; j < columns; ++j) weights[j] = weight_of<float>(u.coeffs[j]);
  for (int64_t at = begin; at < end;) {
    const T* x[kMaxUnrolled] = {};
    T* y[2] = {};
    for (int j = 0; j < n; ++j) x[j] = static_cast<const T*>(u.terms[j]) + at;
    for (int r = 0; r < u.n_outs; ++r) y[r] = static_cast<T*>(u.outs[r]) + at;
    if constexpr (std::is_same_v<T, float>) {
      const int64_t done =
          u.n_outs == 1 ? add_noise(u.seeds, u.draw, u.sample_size, at, end - at, x, n, weights, y[0]) : 0;
      at += done;
      if (done) continue;
    }
    const int count = int(std::min<int64_t>(kTile, end - at));
    if constexpr (std::is_same_v<T, BFloat16>) {
      float even[kNoiseRoom / 2], odd[kNoiseRoom / 2];
      noise(u.seeds, u.draw, u.sample_size, at, count, even, odd);
      if (u.n_outs == 1)
        combine_rows_and_noise<1>(x, n, u.coeffs, columns, count, y, even, odd);
      else
        combine_rows_and_noise<2>(x, n, u.coeffs, columns, count, y, even, odd);
    } else {
      A gaussian[kNoiseRoom];
      noise(u.seeds, u.draw, u.sample_size, at, count, gaussian);
      x[n] = gaussian;
      combine(x, n + 1, u.coeffs, columns, u.n_outs, count, y, gaussian);
    }
    at += count;
  }
}

template <class T>
TTUNE_INLINE void run(const LinearUpdate& u, int64_t begin, int64_t end) {
  if constexpr (!std::is_same_v<T, Float16>) {
    if (u.seeds && !u.clipped && u.n_outs <= 2 && u.n_terms < kMaxUnrolled) return run_with_noise<T>(u, begin, end);
    if (!u.seeds && u.n_outs <= 2 && u.n_terms > 0 && u.n_terms <= kMaxUnrolled) {
      const T* terms[kMaxUnrolled] = {};
      T* outs[2] = {};
      for (int j = 0; j < u.n_terms; ++j) terms[j] = static_cast<const T*>(u.terms[j]) + begin;
      for (int r = 0; r < u.n_outs; ++r) outs[r] = static_cast<T*>(u.outs[r]) + begin;
      using A = arithmetic_t<T>;
      if (u.clipped)
        return combine_clipped(terms, u.n_terms, u.coeffs, u.n_terms + 1, u.n_outs, end - begin, outs, A(u.clip));
      const A* const a = nullptr;
      return combine(terms, u.n_terms, u.coeffs, u.n_terms, u.n_outs, end - begin, outs, a);
    }
  }
  run_tiles<T>(u, begin, end);
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

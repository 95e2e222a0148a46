#include "cpu/trajectory_loss.h"

#include <algorithm>

#include "cpu/clones.h"
#include "cpu/combine.h"
#include "cpu/tile_sum.h"

namespace ttune {
namespace {

// The target enters the combination as one more term, with this weight: one loop instead of two.
constexpr double kTargetWeight = -1;

template <class A>
struct Constant {
  A value;
  A operator[](int) const { return value; }
};

template <LossKind K, class A, class W>
TTUNE_INLINE void elements(const A* __restrict d, W weight, A delta, int count, A* __restrict e) {
#pragma omp simd
  for (int i = 0; i < count; ++i) e[i] = weight[i] * loss_element<K>(d[i], delta);
}

template <LossKind K, class T, class A, class W>
TTUNE_INLINE void slopes(const A* __restrict d, W weight, A delta, int count, T* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) narrow(weight[i] * loss_slope<K>(d[i], delta), y[i]);
}

template <LossKind K, class T, class A, class W>
TTUNE_INLINE void measure_as(const A* d, W weight, A delta, int count, A* e, T* gradient) {
  elements<K>(d, weight, delta, count, e);
  if (gradient) slopes<K>(d, weight, delta, count, gradient);
}

template <class T, class A, class W>
TTUNE_INLINE void measure(LossKind kind, const A* d, W weight, A delta, int count, A* e, T* gradient) {
  switch (kind) {
    case LossKind::l2:
      return measure_as<LossKind::l2>(d, weight, delta, count, e, gradient);
    case LossKind::l1:
      return measure_as<LossKind::l1>(d, weight, delta, count, e, gradient);
    case LossKind::huber:
      return measure_as<LossKind::huber>(d, weight, delta, count, e, gradient);
  }
}

// The update less the target, elements [at, at + count).
template <class T, class A>
class Difference {
 public:
  explicit Difference(const TrajectoryLoss& loss) : loss_(loss) {
    const int columns = loss.n_terms + loss.clipped, fused = std::min(loss.n_terms, kMaxUnrolled - 1);
    last_ = loss.coeffs + (loss.rows - 1) * columns;
    std::copy(loss.terms, loss.terms + fused, columns_);
    std::copy(last_, last_ + fused, weights_);
    columns_[fused] = loss.target;
    weights_[fused] = kTargetWeight;
  }

  TTUNE_INLINE void operator()(int64_t at, int count, A* d) const {
    const int n = loss_.n_terms;
    if (!loss_.clipped && n < kMaxUnrolled) return combine<T>(columns_, n + 1, weights_, at, count, d, d);
    if (!loss_.clipped) {
      row(last_, at, count, d);
    } else {
      A clamped[kTile];
      row(loss_.coeffs, at, count, clamped);
      clamp(A(loss_.clip), count, clamped);
      if (loss_.rows == 1) {
        std::copy(clamped, clamped + count, d);
      } else {
        row(last_, at, count, d);
        add(clamped, A(last_[n]), count, d);
      }
    }
    add(static_cast<const T*>(loss_.target) + at, A(kTargetWeight), count, d);
  }

 private:
  TTUNE_INLINE void row(const double* weights, int64_t at, int count, A* y) const {
    const int unrolled = std::min(loss_.n_terms, kMaxUnrolled);
    combine<T>(loss_.terms, unrolled, weights, at, count, y, y);
    for (int j = unrolled; j < loss_.n_terms; ++j)
      add(static_cast<const T*>(loss_.terms[j]) + at, A(weights[j]), count, y);
  }

  const TrajectoryLoss& loss_;
  const double* last_;
  const void* columns_[kMaxUnrolled];
  double weights_[kMaxUnrolled];
};

template <class T>
TTUNE_INLINE void run(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  using A = arithmetic_t<T>;
  const Difference<T, A> difference(loss);
  const int64_t chunks = chunks_of(loss.sample_size);
  const A delta = A(loss.delta), *weights = static_cast<const A*>(loss.weight);
  A d[kTile], e[kTile];
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t sample = chunk / chunks, first = sample * loss.sample_size;
    const int64_t from = first + chunk % chunks * kChunk, to = std::min(from + kChunk, first + loss.sample_size);
    const Constant<A> constant{weights && !loss.weight_per_element ? weights[sample] : A(1)};
    double lanes[kSumLanes] = {};
    for (int64_t at = from; at < to; at += kTile) {
      const int count = int(std::min<int64_t>(kTile, to - at));
      T* gradient = loss.gradient ? static_cast<T*>(loss.gradient) + at : nullptr;
      difference(at, count, d);
      if (loss.weight_per_element)
        measure(loss.kind, d, weights + at, delta, count, e, gradient);
      else
        measure(loss.kind, d, constant, delta, count, e, gradient);
      std::fill(e + count, e + kTile, A(0));
      add_tile(e, lanes);
    }
    sums[chunk] = sum_of(lanes);
  }
}

TTUNE_CLONES void run_float64(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  run<double>(loss, begin, end, sums);
}
TTUNE_CLONES void run_float32(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  run<float>(loss, begin, end, sums);
}
TTUNE_CLONES void run_bfloat16(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  run<BFloat16>(loss, begin, end, sums);
}
TTUNE_CLONES void run_float16(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  run<Float16>(loss, begin, end, sums);
}

}  // namespace

int64_t trajectory_loss_chunks(const TrajectoryLoss& loss) { return loss.samples * chunks_of(loss.sample_size); }

void trajectory_loss(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums) {
  switch (loss.dtype) {
    case DType::float64:
      return run_float64(loss, begin, end, sums);
    case DType::float32:
      return run_float32(loss, begin, end, sums);
    case DType::bfloat16:
      return run_bfloat16(loss, begin, end, sums);
    case DType::float16:
      return run_float16(loss, begin, end, sums);
  }
}

void trajectory_loss_finish(const TrajectoryLoss& loss, const double* sums, void* out) {
  const int64_t chunks = chunks_of(loss.sample_size);
  for (int64_t b = 0; b < loss.samples; ++b) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += sums[b * chunks + c];
    if (loss.dtype == DType::float64)
      static_cast<double*>(out)[b] = sum;
    else
      static_cast<float*>(out)[b] = float(sum);
  }
}

}  // namespace ttune

#pragma once

#include <cstdint>

namespace ttune {

constexpr int kMaxNoise = 512;  // elements per call: the words and normals of a call stay in the first-level cache

// Unit Gaussian noise of elements [at, at + count), counted over all samples in row-major order; seeds: one per sample.
// Element i of a sample is a function of its seed, draw and i alone.
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* out);
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, double* out);

}  // namespace ttune

#pragma once

#include <cstdint>

namespace ttune {

constexpr int kMaxNoise = 512;  // elements per call: all that a call touches stays in the first-level cache
constexpr int kNoiseRoom = kMaxNoise + 128;  // of a buffer: what is behind the elements may be overwritten

// Unit Gaussian noise of elements [at, at + count), counted over all samples in row-major order; seeds: one per sample.
// Element i of a sample is a function of its seed, draw and i alone.
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* out);
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, double* out);
// Elements at, at + 2, ... and at + 1, at + 3, ... apart, with half the room each.
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* even, float* odd);

// out = sum of weights[j] * x[j] over j < n, plus weights[n] * noise, of elements [at, at + count) or of the first of
// them; the pointers are to element `at`, and an output may be a term. Returns how many were made: none, where this
// machine has no instructions for it.
int64_t add_noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int64_t count,
                  const float* const* x, int n, const float* weights, float* out);

}  // namespace ttune

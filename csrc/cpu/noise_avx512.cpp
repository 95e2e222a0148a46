// Philox and Box-Muller in registers of sixteen lanes, bound by the two ports that execute AVX-512: 55 instructions for
// the words of 32 elements, 34 for their normals.

#define TTUNE_TARGET "avx512f"

#include "cpu/noise_lanes.h"
#include "cpu/noise_simd.h"

#if TTUNE_HAS_X86

namespace ttune {
namespace {

struct Avx512 {
  using Words = __m512i;
  using Floats = __m512;
  static constexpr int kCounters = 8;
  static constexpr int kStreams = 4;  // one takes 0.7 ns an element, two 0.6, four 0.49
  static constexpr int kXor = 0x96;   // of three
  static constexpr auto kUpper = _MM_PERM_ENUM(0xf5), kLower = _MM_PERM_ENUM(0xa0);  // halves, into both

  TTUNE_SIMD static Words all(uint32_t word) { return _mm512_set1_epi32(int(word)); }
  TTUNE_SIMD static Words all64(int64_t value) { return _mm512_set1_epi64(value); }
  TTUNE_SIMD static Words in_order() { return _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0); }
  TTUNE_SIMD static Words interleaved() { return _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0); }
  TTUNE_SIMD static Words multiply(Words a, Words b) { return _mm512_mul_epu32(a, b); }
  TTUNE_SIMD static Words add64(Words a, Words b) { return _mm512_add_epi64(a, b); }
  TTUNE_SIMD static Words xor2(Words a, Words b) { return _mm512_xor_si512(a, b); }
  TTUNE_SIMD static Words xor3(Words a, Words b, Words c) { return _mm512_ternarylogic_epi32(a, b, c, kXor); }
  TTUNE_SIMD static Words upper(Words a) { return _mm512_shuffle_epi32(a, kUpper); }
  TTUNE_SIMD static Words uppers(Words a, Words b) { return _mm512_mask_shuffle_epi32(b, 0x5555, a, kUpper); }
  TTUNE_SIMD static Words lowers(Words a, Words b) { return _mm512_mask_shuffle_epi32(a, 0xaaaa, b, kLower); }
  TTUNE_SIMD static Floats unpack_low(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
  TTUNE_SIMD static Floats unpack_high(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
  TTUNE_SIMD static void store(float* out, Floats a) { _mm512_storeu_ps(out, a); }
};
static_assert(kCountersAtOnce == Avx512::kCounters * Avx512::kStreams);

// -2 ln u, u in (0, 1] as philox.h rounds it: u = m 2^e with m in [3/4, 3/2), and m is within 1/16 of the c of its
// upper four bits. Around 1 both c and the sum of the other two logarithms are exact, or the result would lose its
// digits there. Errors below 1.2e-8 but for the sum's rounding.
alignas(64) constexpr float kReciprocals[16] = {0x1.000000p+0f, 0x1.d43636p-1f, 0x1.badefep-1f, 0x1.a43a42p-1f,
                                                0x1.8f9708p-1f, 0x1.7cdaccp-1f, 0x1.6bf5eap-1f, 0x1.5c7e0ap-1f,
                                                0x1.4e5f7ep+0f, 0x1.41345cp+0f, 0x1.352496p+0f, 0x1.29dd74p+0f,
                                                0x1.1f774cp+0f, 0x1.15a5e8p+0f, 0x1.0c9956p+0f, 0x1.000000p+0f};
// -2 ln c, and -2 ln 2 more where m was halved; each reciprocal was chosen so that this is a float to 1e-10.
alignas(64) constexpr float kLogarithms[16] = {0x0.000000p+0f,  -0x1.6e32d6p-3f, -0x1.290ddap-2f, -0x1.9489aep-2f,
                                               -0x1.fbab7ep-2f, -0x1.2f022ep-1f, -0x1.5d783ep-1f, -0x1.89f0fep-1f,
                                               -0x1.b44b06p-1f, -0x1.dd6fbcp-1f, -0x1.025092p+0f, -0x1.15579ep+0f,
                                               -0x1.278962p+0f, -0x1.39542ap+0f, -0x1.4a4b3ap+0f, -0x1.62e430p+0f};

TTUNE_SIMD inline __m512 minus_two_log(__m512i words, __m512 reciprocals, __m512 logarithms) {
  const __m512 u = _mm512_fmadd_ps(_mm512_cvtepu32_ps(words), _mm512_set1_ps(0x1p-32f), _mm512_set1_ps(0x1p-33f));
  const __m512 exponent = _mm512_getexp_ps(u), m = _mm512_getmant_ps(u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
  const __m512i upper_bits = _mm512_srli_epi32(_mm512_castps_si512(u), 19);
  const __m512 reciprocal = _mm512_permutexvar_ps(upper_bits, reciprocals);
  const __m512 sum = _mm512_fmadd_ps(exponent, _mm512_set1_ps(-0x1.62e430p+0f),  // -2 ln 2
                                     _mm512_permutexvar_ps(upper_bits, logarithms));
  const __m512 x = _mm512_fmsub_ps(m, reciprocal, _mm512_set1_ps(1));
  // -2 ln(1 + x) / x by least squares on |x| < 0.033
  __m512 series = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.e962a8p-2f), _mm512_set1_ps(-0x1.557bf2p-1f));
  series = _mm512_fmadd_ps(x, series, _mm512_set1_ps(0x1.00012ep+0f));
  series = _mm512_fmadd_ps(x, series, _mm512_set1_ps(-2));
  return _mm512_fmadd_ps(x, series, sum);
}

// Cosine and sine of the middles of 32 parts of a turn.
alignas(64) constexpr float kCosines[32] = {
    0x1.fd88dap-1f,  0x1.e9f416p-1f,  0x1.c38b30p-1f,  0x1.8bc806p-1f,  0x1.44cf32p-1f,  0x1.e2b5d4p-2f,
    0x1.294062p-2f,  0x1.917a6cp-4f,  -0x1.917a6cp-4f, -0x1.294062p-2f, -0x1.e2b5d4p-2f, -0x1.44cf32p-1f,
    -0x1.8bc806p-1f, -0x1.c38b30p-1f, -0x1.e9f416p-1f, -0x1.fd88dap-1f, -0x1.fd88dap-1f, -0x1.e9f416p-1f,
    -0x1.c38b30p-1f, -0x1.8bc806p-1f, -0x1.44cf32p-1f, -0x1.e2b5d4p-2f, -0x1.294062p-2f, -0x1.917a6cp-4f,
    0x1.917a6cp-4f,  0x1.294062p-2f,  0x1.e2b5d4p-2f,  0x1.44cf32p-1f,  0x1.8bc806p-1f,  0x1.c38b30p-1f,
    0x1.e9f416p-1f,  0x1.fd88dap-1f};
alignas(64) constexpr float kSines[32] = {
    0x1.917a6cp-4f,  0x1.294062p-2f,  0x1.e2b5d4p-2f,  0x1.44cf32p-1f,  0x1.8bc806p-1f,  0x1.c38b30p-1f,
    0x1.e9f416p-1f,  0x1.fd88dap-1f,  0x1.fd88dap-1f,  0x1.e9f416p-1f,  0x1.c38b30p-1f,  0x1.8bc806p-1f,
    0x1.44cf32p-1f,  0x1.e2b5d4p-2f,  0x1.294062p-2f,  0x1.917a6cp-4f,  -0x1.917a6cp-4f, -0x1.294062p-2f,
    -0x1.e2b5d4p-2f, -0x1.44cf32p-1f, -0x1.8bc806p-1f, -0x1.c38b30p-1f, -0x1.e9f416p-1f, -0x1.fd88dap-1f,
    -0x1.fd88dap-1f, -0x1.e9f416p-1f, -0x1.c38b30p-1f, -0x1.8bc806p-1f, -0x1.44cf32p-1f, -0x1.e2b5d4p-2f,
    -0x1.294062p-2f, -0x1.917a6cp-4f};

TTUNE_SIMD inline Normals<Avx512> box_muller(const WordPairs<Avx512>& words) {
  const __m512 reciprocals = _mm512_load_ps(kReciprocals), logarithms = _mm512_load_ps(kLogarithms);
  const __m512 cosines[2] = {_mm512_load_ps(kCosines), _mm512_load_ps(kCosines + 16)};
  const __m512 sines[2] = {_mm512_load_ps(kSines), _mm512_load_ps(kSines + 16)};
  const __m512 radius = _mm512_sqrt_ps(minus_two_log(words.first, reciprocals, logarithms));
  // The part of the turn in the low bits, where a permutation looks for it; the place in it above them.
  const __m512i turn = _mm512_rol_epi32(words.second, 5);
  const __m512 c = _mm512_mul_ps(radius, _mm512_permutex2var_ps(cosines[0], turn, cosines[1]));
  const __m512 s = _mm512_mul_ps(radius, _mm512_permutex2var_ps(sines[0], turn, sines[1]));
  // From the middle of the part: up to pi / 32, where the next terms of the series are below 1e-8.
  const __m512 x =
      _mm512_fmadd_ps(_mm512_cvtepu32_ps(turn), _mm512_set1_ps(0x1.921fb6p-35f), _mm512_set1_ps(-0x1.921fb6p-4f));
  const __m512 x2 = _mm512_mul_ps(x, x);
  const __m512 sine = _mm512_fmadd_ps(_mm512_mul_ps(x2, _mm512_set1_ps(-0x1.55307ep-3f)), x, x);
  const __m512 cosine = _mm512_fmadd_ps(
      x2, _mm512_fmadd_ps(x2, _mm512_set1_ps(0x1.552e0ap-5f), _mm512_set1_ps(-0x1.fffffcp-2f)), _mm512_set1_ps(1));
  return {_mm512_fmsub_ps(c, cosine, _mm512_mul_ps(s, sine)), _mm512_fmadd_ps(s, cosine, _mm512_mul_ps(c, sine))};
}

// Fused by hand, not by the compiler: every element is made by the same operations.
template <int N>
TTUNE_SIMD inline void add(__m512 normals, __mmask16 mask, const float* const* x, const float* weights, int at,
                           float* out) {
  __m512 sum = _mm512_setzero_ps();
  if constexpr (N > 0) sum = _mm512_mul_ps(_mm512_set1_ps(weights[0]), _mm512_maskz_loadu_ps(mask, x[0] + at));
  for (int j = 1; j < N; ++j)
    sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[j]), _mm512_maskz_loadu_ps(mask, x[j] + at), sum);
  _mm512_mask_storeu_ps(out + at, mask, _mm512_fmadd_ps(_mm512_set1_ps(weights[N]), normals, sum));
}

template <int N>
TTUNE_SIMD_ENTRY void add_made(int64_t seed, int64_t draw, int64_t first, int count, const float* const* terms,
                               const float* weights, float* out) {
  const float* x[N + 1] = {};
  for (int j = 0; j < N; ++j) x[j] = terms[j];
  make<Avx512>(seed, draw, first, count, Avx512::interleaved(), [&](int q, const Normals<Avx512>& y) TTUNE_SIMD {
    add<N>(_mm512_unpacklo_ps(y.even, y.odd), 0xffff, x, weights, 4 * q, out);
    add<N>(_mm512_unpackhi_ps(y.even, y.odd), 0xffff, x, weights, 4 * q + 16, out);
  });
}

template <int N>
TTUNE_SIMD_ENTRY void add_given(const float* normals, int count, const float* const* x, const float* weights,
                                float* out) {
  for (int at = 0; at < count; at += 16) {
    const __mmask16 mask = count - at < 16 ? __mmask16((1 << (count - at)) - 1) : __mmask16(0xffff);
    add<N>(_mm512_maskz_loadu_ps(mask, normals + at), mask, x, weights, at, out);
  }
}

}  // namespace

void add_normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, const float* const* x, int n,
                        const float* weights, float* out) {
  constexpr decltype(&add_made<0>) kOf[kMaxFused + 1] = {add_made<0>, add_made<1>, add_made<2>,
                                                         add_made<3>, add_made<4>, add_made<5>};
  kOf[n](seed, draw, first, count, x, weights, out);
}

void add_normals_avx512(const float* normals, int count, const float* const* x, int n, const float* weights,
                        float* out) {
  constexpr decltype(&add_given<0>) kOf[kMaxFused + 1] = {add_given<0>, add_given<1>, add_given<2>,
                                                          add_given<3>, add_given<4>, add_given<5>};
  kOf[n](normals, count, x, weights, out);
}

TTUNE_SIMD_ENTRY void normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, float* out) {
  normals_in_order<Avx512>(seed, draw, first, count, out);
}

TTUNE_SIMD_ENTRY void normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, float* even, float* odd) {
  normals_apart<Avx512>(seed, draw, first, count, even, odd);
}

}  // namespace ttune
#endif

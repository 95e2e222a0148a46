#pragma once

#include <cstdint>

// What vectors of counters share in Philox4x32-10 (math/philox.h).

namespace ttune {

constexpr uint32_t kFactor0 = 0xD2511F53, kFactor1 = 0xCD9E8D57, kStep0 = 0x9E3779B9, kStep1 = 0xBB67AE85;

// Of one seed and draw: the keys of the rounds, and what the first two rounds make of the words that all counters
// share.
struct Rounds {
  uint32_t key0[10], key1[10];
  uint32_t c1, a2, c2, d2;  // the shared part of a word of rounds 1 and 2

  Rounds(int64_t seed, int64_t draw, int64_t first) {
    key0[0] = uint32_t(seed), key1[0] = uint32_t(uint64_t(seed) >> 32);
    for (int round = 1; round < 10; ++round) {
      key0[round] = key0[round - 1] + kStep0;
      key1[round] = key1[round - 1] + kStep1;
    }
    const uint64_t r1 = uint64_t(uint32_t(draw)) * kFactor1;
    c1 = uint32_t(uint64_t(draw) >> 32) ^ key1[0];
    const uint32_t a1 = uint32_t(r1 >> 32) ^ uint32_t(uint64_t(first) >> 32) ^ key0[0];
    const uint64_t p2 = uint64_t(a1) * kFactor0;
    a2 = uint32_t(r1) ^ key0[1];
    c2 = uint32_t(p2 >> 32) ^ key1[1];
    d2 = uint32_t(p2);
  }
};

}  // namespace ttune

/* bytes.h: short strings without calls: loads that never leave the string, equality, the hash. */
#ifndef KNHK_BYTES_H
#define KNHK_BYTES_H

#include <string.h>

#include "knhk_kernels.h"
#include "knhk_perfect.h"

typedef struct {
  const uint8_t *p;
  uint32_t n;
} knhk_text;

KNHK_INLINE uint32_t knhk_umin(uint32_t a, uint32_t b) { return a < b ? a : b; }
KNHK_INLINE uint64_t knhk_bytes8(const uint8_t *p) {
  uint64_t w;
  memcpy(&w, p, 8);
  return w;
}
KNHK_INLINE uint64_t knhk_bytes4(const uint8_t *p) {
  uint32_t w;
  memcpy(&w, p, 4);
  return w;
}

/* Zeros, without a call where they are few. */
KNHK_INLINE void knhk_clear(uint8_t *p, size_t n) {
  if (n > 64) {
    memset(p, 0, n);
    return;
  }
  for (; n >= 8; p += 8, n -= 8) {
    memset(p, 0, 8);
    __asm__("" : "+r"(p)); /* else it becomes the call again */
  }
  for (; n > 0; p++, n--) {
    *p = 0;
    __asm__("" : "+r"(p));
  }
}

/* The n < 8 bytes at p as a little-endian number. */
KNHK_INLINE uint64_t knhk_tail(const uint8_t *p, size_t n) {
  if (n >= 4) return knhk_bytes4(p) | (knhk_bytes4(p + n - 4) << (8 * (n - 4)));
  if (n == 0) return 0;
  return (uint64_t)p[0] | ((uint64_t)p[n / 2] << (8 * (n / 2))) | ((uint64_t)p[n - 1] << (8 * (n - 1)));
}

/* The first 8 bytes, zeros after the end. */
KNHK_INLINE uint64_t knhk_head(knhk_text s) { return s.n >= 8 ? knhk_bytes8(s.p) : knhk_tail(s.p, s.n); }

KNHK_INLINE int knhk_equal(const uint8_t *a, const uint8_t *b, size_t n) {
  if (n > 32) return memcmp(a, b, n) == 0;
  if (n >= 16)
    return ((knhk_bytes8(a) ^ knhk_bytes8(b)) | (knhk_bytes8(a + 8) ^ knhk_bytes8(b + 8)) | (knhk_bytes8(a + n - 16) ^ knhk_bytes8(b + n - 16)) |
            (knhk_bytes8(a + n - 8) ^ knhk_bytes8(b + n - 8))) == 0;
  if (n >= 8) return ((knhk_bytes8(a) ^ knhk_bytes8(b)) | (knhk_bytes8(a + n - 8) ^ knhk_bytes8(b + n - 8))) == 0;
  return knhk_tail(a, n) == knhk_tail(b, n);
}
KNHK_INLINE int knhk_same(knhk_text a, knhk_text b) { return a.n == b.n && knhk_equal(a.p, b.p, a.n); }
KNHK_INLINE int knhk_order(knhk_text a, knhk_text b) {
  const int c = memcmp(a.p, b.p, knhk_umin(a.n, b.n));
  return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

#define KNHK_PRIME (((uint64_t)1 << 61) - 1)
#define KNHK_CHUNK (((uint64_t)1 << 56) - 1)

/* acc · r + w modulo 2^61 - 1, not wholly reduced: below 2^63 as long as acc is, for r is below 2^60. */
KNHK_INLINE uint64_t knhk_hash_step(uint64_t acc, uint64_t r, uint64_t w) {
  const unsigned __int128 x = (unsigned __int128)acc * r + w;
  return ((uint64_t)x & KNHK_PRIME) + (uint64_t)(x >> 61);
}

/* The length and the chunks of 7 bytes as a polynomial at r (Carter, Wegman 1979), then mixed by bijections: over all seeds two strings of
 * n bytes meet with a probability below (n / 7 + 2) / 2^60. The sum is left as the steps give it, which only tells more strings apart. Tables draw their seed from their keys (formats/perfect.md), so nobody
 * chooses keys, or inputs without having the pack, against it. knhk_gen/perfect.py computes the same. */
KNHK_INLINE uint64_t knhk_hash(knhk_text s, knhk_seed seed) {
  const uint8_t *p = s.p;
  size_t n = s.n;
  uint64_t acc = s.n;
  for (; n > 7; p += 7, n -= 7) acc = knhk_hash_step(acc, seed.r, knhk_bytes8(p) & KNHK_CHUNK);
  acc = knhk_hash_step(acc, seed.r, knhk_tail(p, n));
  const uint64_t h = (acc ^ seed.x) * KNHK_MIX2;
  return h ^ (h >> 32);
}

#endif /* KNHK_BYTES_H */

/* bytes.h: short strings without calls: loads that never leave the string, equality, the hash. */
#ifndef KNHK_BYTES_H
#define KNHK_BYTES_H

#include <string.h>

#include "knhk_kernels.h"

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

#define KNHK_MIX1 0x9e3779b97f4a7c15ull
#define KNHK_MIX2 0xbf58476d1ce4e5b9ull

/* Not keyed against an adversary: tables of constants have bounded probes by construction, tables of inputs give up after a bound.
 * knhk_gen/emit_terms.py computes the same. */
KNHK_INLINE uint64_t knhk_hash(knhk_text s, uint64_t seed) {
  const uint8_t *p = s.p;
  size_t n = s.n;
  uint64_t h = seed ^ ((uint64_t)n * KNHK_MIX1);
  for (; n >= 8; p += 8, n -= 8) {
    h = (h ^ knhk_bytes8(p)) * KNHK_MIX1;
    h ^= h >> 32;
  }
  h = (h ^ knhk_tail(p, n)) * KNHK_MIX1;
  h ^= h >> 29;
  h *= KNHK_MIX2;
  return h ^ (h >> 32);
}

#endif /* KNHK_BYTES_H */

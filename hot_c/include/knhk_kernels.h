/* knhk_kernels.h: the six kernels over one chunk of 8 lanes.
 *
 * Each yields an 8-bit mask, bit i for lane i; none branches on lane data, none calls, none writes. Absent lanes have key 0, which is
 * no key, for node 0 with predicate 0 cannot occur (string 0 is the empty string, and no predicate is empty).
 * Compiled with AVX2 when the compiler says so, else scalar; both give the same masks (tests/hot/test_kernels.py).
 */
#ifndef KNHK_KERNELS_H
#define KNHK_KERNELS_H

#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef struct { /* 64-byte aligned, 256 bytes; lanes of one subject */
  uint64_t key[8]; /* node << 32 | predicate */
  uint64_t obj[8]; /* identity of the value */
  uint64_t val[8]; /* family and scaled value */
  uint64_t meta[8];
} knhk_chunk;

#define KNHK_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX2__)

KNHK_INLINE __m256i knhk_load4(const uint64_t *lane) { return _mm256_load_si256((const __m256i *)(const void *)lane); }
KNHK_INLINE __m256i knhk_splat(uint64_t x) { return _mm256_set1_epi64x((long long)x); }
KNHK_INLINE uint32_t knhk_join(__m256i lo, __m256i hi) {
  return (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(lo)) | ((uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(hi)) << 4);
}

/* lanes equal to x */
KNHK_INLINE uint32_t knhk_eq8(const uint64_t *lane, uint64_t x) {
  const __m256i v = knhk_splat(x);
  return knhk_join(_mm256_cmpeq_epi64(knhk_load4(lane), v), _mm256_cmpeq_epi64(knhk_load4(lane + 4), v));
}

/* lanes with lo <= lane <= hi, unsigned; values and bounds stay below 2^63, so that the signed comparison of AVX2 serves */
KNHK_INLINE uint32_t knhk_range8(const uint64_t *lane, uint64_t lo, uint64_t hi) {
  const __m256i l = knhk_splat(lo), h = knhk_splat(hi), a = knhk_load4(lane), b = knhk_load4(lane + 4);
  const __m256i out_a = _mm256_or_si256(_mm256_cmpgt_epi64(l, a), _mm256_cmpgt_epi64(a, h));
  const __m256i out_b = _mm256_or_si256(_mm256_cmpgt_epi64(l, b), _mm256_cmpgt_epi64(b, h));
  /* a lane with the top bit set (inexact) is negative: below every lo */
  return 0xffu & ~knhk_join(out_a, out_b);
}

KNHK_INLINE uint32_t knhk_meta8(const uint64_t *meta, uint64_t mask, uint64_t want, uint64_t kinds, uint64_t min, uint64_t max) {
  const __m256i m = knhk_splat(mask), w = knhk_splat(want), k = knhk_splat(kinds), lo = knhk_splat(min), hi = knhk_splat(max);
  const __m256i zero = _mm256_setzero_si256();
  uint32_t bits[2];
  for (int i = 0; i < 2; i++) {
    const __m256i x = knhk_load4(meta + 4 * i), n = _mm256_srli_epi64(x, 40);
    const __m256i good = _mm256_cmpeq_epi64(_mm256_and_si256(x, m), w);
    const __m256i bad = _mm256_or_si256(_mm256_cmpeq_epi64(_mm256_and_si256(x, k), zero),
                                        _mm256_or_si256(_mm256_cmpgt_epi64(lo, n), _mm256_cmpgt_epi64(n, hi)));
    bits[i] = (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_andnot_si256(bad, good)));
  }
  return bits[0] | (bits[1] << 4);
}

/* lanes of `among` whose value occurs in another lane of `among`: each half against its own rotations and those of the other half.
 * Other lanes become 0 … 7, which are no terms and differ from one another. */
KNHK_INLINE uint32_t knhk_twice8(const uint64_t *lane, uint32_t among) {
  const __m256i low = _mm256_set_epi64x(8, 4, 2, 1), high = _mm256_set_epi64x(128, 64, 32, 16), set = knhk_splat(among);
  const __m256i in_a = _mm256_cmpeq_epi64(_mm256_and_si256(set, low), low), in_b = _mm256_cmpeq_epi64(_mm256_and_si256(set, high), high);
  const __m256i a = _mm256_blendv_epi8(_mm256_set_epi64x(3, 2, 1, 0), knhk_load4(lane), in_a);
  const __m256i b = _mm256_blendv_epi8(_mm256_set_epi64x(7, 6, 5, 4), knhk_load4(lane + 4), in_b);
  __m256i twice_a = _mm256_cmpeq_epi64(a, b), twice_b = twice_a;
#define KNHK_ROTATED(by)                                                                                                  \
  {                                                                                                                       \
    const __m256i ra = _mm256_permute4x64_epi64(a, by), rb = _mm256_permute4x64_epi64(b, by);                             \
    twice_a = _mm256_or_si256(twice_a, _mm256_or_si256(_mm256_cmpeq_epi64(a, ra), _mm256_cmpeq_epi64(a, rb)));            \
    twice_b = _mm256_or_si256(twice_b, _mm256_or_si256(_mm256_cmpeq_epi64(b, rb), _mm256_cmpeq_epi64(b, ra)));            \
  }
  KNHK_ROTATED(0x39) KNHK_ROTATED(0x4e) KNHK_ROTATED(0x93)
#undef KNHK_ROTATED
  return knhk_join(twice_a, twice_b);
}

#else

KNHK_INLINE uint32_t knhk_eq8(const uint64_t *lane, uint64_t x) {
  uint32_t mask = 0;
  for (int i = 0; i < 8; i++) mask |= (uint32_t)(lane[i] == x) << i;
  return mask;
}

KNHK_INLINE uint32_t knhk_range8(const uint64_t *lane, uint64_t lo, uint64_t hi) {
  uint32_t mask = 0;
  for (int i = 0; i < 8; i++) mask |= ((uint32_t)(lane[i] >= lo) & (uint32_t)(lane[i] <= hi)) << i;
  return mask;
}

KNHK_INLINE uint32_t knhk_meta8(const uint64_t *meta, uint64_t mask, uint64_t want, uint64_t kinds, uint64_t min, uint64_t max) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; i++) {
    const uint64_t x = meta[i], n = x >> 40;
    bits |= ((uint32_t)((x & mask) == want) & (uint32_t)((x & kinds) != 0) & (uint32_t)(n >= min) & (uint32_t)(n <= max)) << i;
  }
  return bits;
}

/* lanes of `among` whose value occurs in another lane of `among` */
KNHK_INLINE uint32_t knhk_twice8(const uint64_t *lane, uint32_t among) {
  uint32_t twice = 0;
#define KNHK_AGAINST(i) twice |= (uint32_t)((knhk_eq8(lane, lane[i]) & among & ~(1u << (i))) != 0) << (i);
  KNHK_AGAINST(0) KNHK_AGAINST(1) KNHK_AGAINST(2) KNHK_AGAINST(3) KNHK_AGAINST(4) KNHK_AGAINST(5) KNHK_AGAINST(6) KNHK_AGAINST(7)
#undef KNHK_AGAINST
  return twice & among;
}

#endif

/* ---- the six: key is node << 32 | predicate ---- */
KNHK_INLINE uint32_t knhk_ask_sp(const knhk_chunk *c, uint64_t key) { return knhk_eq8(c->key, key); }
KNHK_INLINE uint32_t knhk_ask_spo(const knhk_chunk *c, uint64_t key, uint64_t obj) { return knhk_eq8(c->key, key) & knhk_eq8(c->obj, obj); }
/* lanes counted; the count is their number */
KNHK_INLINE uint32_t knhk_count(const knhk_chunk *c, uint64_t key, uint32_t *n) {
  const uint32_t mask = knhk_eq8(c->key, key);
  *n = (uint32_t)__builtin_popcount(mask);
  return mask;
}
KNHK_INLINE uint32_t knhk_compare(const knhk_chunk *c, uint64_t key, uint64_t lo, uint64_t hi) {
  return knhk_eq8(c->key, key) & knhk_range8(c->val, lo, hi);
}
KNHK_INLINE uint32_t knhk_validate(const knhk_chunk *c, uint64_t key, uint64_t mask, uint64_t want, uint64_t kinds, uint64_t min, uint64_t max) {
  return knhk_eq8(c->key, key) & knhk_meta8(c->meta, mask, want, kinds, min, max);
}
KNHK_INLINE uint32_t knhk_unique(const knhk_chunk *c, uint64_t key) { return knhk_twice8(c->obj, knhk_eq8(c->key, key)); }

#endif /* KNHK_KERNELS_H */

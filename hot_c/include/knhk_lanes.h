/* knhk_lanes.h: eight lanes of 64 bits, by what the compiler may use: AVX-512, AVX2, NEON (with KNHK_NEON), else plain C. One name for each
 * operation; a comparison gives an 8-bit mask, bit i for lane i. All give the same bits (tests/hot/test_kernels.py). */
#ifndef KNHK_LANES_H
#define KNHK_LANES_H

#include <stdint.h>

#define KNHK_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512CD__)
#include <immintrin.h>
#define KNHK_ISA avx512
#define KNHK_TWICE 1
typedef __m512i knhk_v8;

/* gcc 12 spills such a mask as 8 bits and reads it back as 32 where it goes into a wider variable at once */
KNHK_INLINE uint32_t knhk_bits(__mmask8 mask) {
  uint8_t bits = mask;
#if !defined(__clang__)
  __asm__("" : "+r"(bits));
#endif
  return bits;
}

KNHK_INLINE knhk_v8 knhk_load(const uint64_t *at) { return _mm512_load_si512((const void *)at); }
KNHK_INLINE knhk_v8 knhk_load_any(const uint64_t *at) { return _mm512_loadu_si512((const void *)at); }
KNHK_INLINE knhk_v8 knhk_splat(uint64_t x) { return _mm512_set1_epi64((long long)x); }
KNHK_INLINE knhk_v8 knhk_and(knhk_v8 a, knhk_v8 b) { return _mm512_and_si512(a, b); }
KNHK_INLINE knhk_v8 knhk_lengths(knhk_v8 meta) { return _mm512_srli_epi64(meta, 40); }
KNHK_INLINE uint32_t knhk_eq(knhk_v8 a, knhk_v8 b) { return knhk_bits(_mm512_cmpeq_epi64_mask(a, b)); }
KNHK_INLINE uint32_t knhk_meet(knhk_v8 a, knhk_v8 b) { return knhk_bits(_mm512_test_epi64_mask(a, b)); }
KNHK_INLINE uint32_t knhk_within(knhk_v8 x, knhk_v8 lo, knhk_v8 hi) {
  return knhk_bits(_mm512_mask_cmple_epi64_mask(_mm512_cmple_epi64_mask(lo, x), x, hi));
}
KNHK_INLINE knhk_v8 knhk_pick(const uint64_t *base, const uint8_t number[8]) {
  const __m512i at = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)number));
  return _mm512_permutex2var_epi64(knhk_load_any(base), at, knhk_load_any(base + 8));
}
KNHK_INLINE knhk_v8 knhk_only(knhk_v8 x, uint32_t among) {
  return _mm512_mask_mov_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), (__mmask8)among, x);
}
/* Each lane's conflicts are bits of the equal lanes before it: who has any, and whoever is one. One instruction that is quick on AMD's cores; others may
 * take longer for it than for rotations. */
KNHK_INLINE uint32_t knhk_twice(knhk_v8 x, uint32_t among) {
  const __m512i before = _mm512_conflict_epi64(knhk_only(x, among));
  const __m256i four = _mm256_or_si256(_mm512_castsi512_si256(before), _mm512_extracti64x4_epi64(before, 1));
  const __m128i two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  const __m128i one = _mm_or_si128(two, _mm_unpackhi_epi64(two, two));
  return knhk_meet(before, before) | (uint32_t)_mm_cvtsi128_si32(one);
}

#elif defined(__AVX2__)
#include <immintrin.h>
#define KNHK_ISA avx2
#define KNHK_TWICE 2
typedef struct {
  __m256i lo, hi;
} knhk_v8;

KNHK_INLINE knhk_v8 knhk_pair(__m256i lo, __m256i hi) {
  const knhk_v8 v = {lo, hi};
  return v;
}
KNHK_INLINE uint32_t knhk_bits(__m256i lo, __m256i hi) {
  return (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(lo)) | ((uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(hi)) << 4);
}
KNHK_INLINE knhk_v8 knhk_load(const uint64_t *at) {
  return knhk_pair(_mm256_load_si256((const __m256i *)(const void *)at), _mm256_load_si256((const __m256i *)(const void *)(at + 4)));
}
KNHK_INLINE knhk_v8 knhk_load_any(const uint64_t *at) {
  return knhk_pair(_mm256_loadu_si256((const __m256i *)(const void *)at), _mm256_loadu_si256((const __m256i *)(const void *)(at + 4)));
}
KNHK_INLINE knhk_v8 knhk_splat(uint64_t x) { return knhk_pair(_mm256_set1_epi64x((long long)x), _mm256_set1_epi64x((long long)x)); }
KNHK_INLINE knhk_v8 knhk_and(knhk_v8 a, knhk_v8 b) { return knhk_pair(_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)); }
KNHK_INLINE knhk_v8 knhk_lengths(knhk_v8 meta) { return knhk_pair(_mm256_srli_epi64(meta.lo, 40), _mm256_srli_epi64(meta.hi, 40)); }
KNHK_INLINE uint32_t knhk_eq(knhk_v8 a, knhk_v8 b) { return knhk_bits(_mm256_cmpeq_epi64(a.lo, b.lo), _mm256_cmpeq_epi64(a.hi, b.hi)); }
KNHK_INLINE uint32_t knhk_meet(knhk_v8 a, knhk_v8 b) {
  const knhk_v8 both = knhk_and(a, b);
  return 0xffu & ~knhk_eq(both, knhk_splat(0));
}
/* values and bounds stay below 2^63, so that the signed comparison serves; a lane with the top bit set (inexact) is below every lo */
KNHK_INLINE uint32_t knhk_within(knhk_v8 x, knhk_v8 lo, knhk_v8 hi) {
  const __m256i out_lo = _mm256_or_si256(_mm256_cmpgt_epi64(lo.lo, x.lo), _mm256_cmpgt_epi64(x.lo, hi.lo));
  const __m256i out_hi = _mm256_or_si256(_mm256_cmpgt_epi64(lo.hi, x.hi), _mm256_cmpgt_epi64(x.hi, hi.hi));
  return 0xffu & ~knhk_bits(out_lo, out_hi);
}
KNHK_INLINE knhk_v8 knhk_pick(const uint64_t *base, const uint8_t n[8]) {
#define KNHK_AT(i) ((long long)base[n[i]])
  return knhk_pair(_mm256_set_epi64x(KNHK_AT(3), KNHK_AT(2), KNHK_AT(1), KNHK_AT(0)), _mm256_set_epi64x(KNHK_AT(7), KNHK_AT(6), KNHK_AT(5), KNHK_AT(4)));
#undef KNHK_AT
}
/* Lanes whose value occurs in another lane. Seven comparisons of four lanes meet each of the 28 pairs once; who is met is read from a table. */
KNHK_INLINE uint32_t knhk_met(knhk_v8 x) {
  static const uint8_t met[6][16] = {
    {0, 33, 18, 51, 132, 165, 150, 183, 72, 105, 90, 123, 204, 237, 222, 255},
    {0, 65, 130, 195, 20, 85, 150, 215, 40, 105, 170, 235, 60, 125, 190, 255},
    {0, 129, 66, 195, 36, 165, 102, 231, 24, 153, 90, 219, 60, 189, 126, 255},
    {0, 3, 48, 51, 12, 15, 60, 63, 192, 195, 240, 243, 204, 207, 252, 255},
    {0, 5, 10, 15, 80, 85, 90, 95, 160, 165, 170, 175, 240, 245, 250, 255},
    {0, 9, 6, 15, 144, 153, 150, 159, 96, 105, 102, 111, 240, 249, 246, 255},
  };
#define KNHK_MET(a, b) ((uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b))))
  const __m256i a = _mm256_permute2x128_si256(x.lo, x.hi, 0x20), b = _mm256_permute2x128_si256(x.lo, x.hi, 0x31); /* 0 1 4 5, 2 3 6 7 */
  const uint32_t across = KNHK_MET(x.lo, x.hi) * 0x11u | met[0][KNHK_MET(x.lo, _mm256_shuffle_epi32(x.hi, 0x4e))] |
                          met[1][KNHK_MET(x.lo, _mm256_permute4x64_epi64(x.hi, 0x4e))] | met[2][KNHK_MET(x.lo, _mm256_permute4x64_epi64(x.hi, 0x1b))];
  return across | met[3][KNHK_MET(_mm256_unpacklo_epi64(x.lo, x.hi), _mm256_unpackhi_epi64(x.lo, x.hi))] | met[4][KNHK_MET(a, b)] |
         met[5][KNHK_MET(a, _mm256_shuffle_epi32(b, 0x4e))];
#undef KNHK_MET
}
KNHK_INLINE knhk_v8 knhk_chosen(knhk_v8 x, __m256i in_lo, __m256i in_hi) {
  return knhk_pair(_mm256_blendv_epi8(_mm256_set_epi64x(3, 2, 1, 0), x.lo, in_lo), _mm256_blendv_epi8(_mm256_set_epi64x(7, 6, 5, 4), x.hi, in_hi));
}
KNHK_INLINE uint32_t knhk_twice(knhk_v8 x, uint32_t among) {
  const __m256i low = _mm256_set_epi64x(8, 4, 2, 1), high = _mm256_set_epi64x(128, 64, 32, 16), set = _mm256_set1_epi64x((long long)among);
  return knhk_met(knhk_chosen(x, _mm256_cmpeq_epi64(_mm256_and_si256(set, low), low), _mm256_cmpeq_epi64(_mm256_and_si256(set, high), high)));
}
KNHK_INLINE uint32_t knhk_twice_of(knhk_v8 x, knhk_v8 key, knhk_v8 want) {
  return knhk_met(knhk_chosen(x, _mm256_cmpeq_epi64(key.lo, want.lo), _mm256_cmpeq_epi64(key.hi, want.hi)));
}

#else /* NEON and plain C: vectors of two lanes by the compiler's own extension, or numbers */

#if defined(KNHK_NEON)
#include <arm_neon.h>
#define KNHK_ISA neon
#define KNHK_SIMD 1
typedef struct {
  uint64x2_t two[4];
} knhk_v8;

KNHK_INLINE uint32_t knhk_bits(const uint64x2_t m[4]) {
  static const uint8_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint32x4_t a = vcombine_u32(vmovn_u64(m[0]), vmovn_u64(m[1])), b = vcombine_u32(vmovn_u64(m[2]), vmovn_u64(m[3]));
  return vaddv_u8(vand_u8(vmovn_u16(vcombine_u16(vmovn_u32(a), vmovn_u32(b))), vld1_u8(bit)));
}
#define KNHK_EACH2(made, expr)                                          \
  knhk_v8 made;                                                         \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) made.two[i] = (expr)
#define KNHK_MASK2(expr)                                                \
  uint64x2_t mask[4];                                                   \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) mask[i] = (expr);                         \
  return knhk_bits(mask)

KNHK_INLINE knhk_v8 knhk_load_any(const uint64_t *at) { KNHK_EACH2(v, vld1q_u64(at + 2 * i)); return v; }
KNHK_INLINE knhk_v8 knhk_load(const uint64_t *at) { return knhk_load_any(at); }
KNHK_INLINE knhk_v8 knhk_splat(uint64_t x) { KNHK_EACH2(v, vdupq_n_u64(x)); return v; }
KNHK_INLINE knhk_v8 knhk_and(knhk_v8 a, knhk_v8 b) { KNHK_EACH2(v, vandq_u64(a.two[i], b.two[i])); return v; }
KNHK_INLINE knhk_v8 knhk_lengths(knhk_v8 meta) { KNHK_EACH2(v, vshrq_n_u64(meta.two[i], 40)); return v; }
KNHK_INLINE uint32_t knhk_eq(knhk_v8 a, knhk_v8 b) { KNHK_MASK2(vceqq_u64(a.two[i], b.two[i])); }
KNHK_INLINE uint32_t knhk_meet(knhk_v8 a, knhk_v8 b) { KNHK_MASK2(vtstq_u64(a.two[i], b.two[i])); }
KNHK_INLINE uint32_t knhk_within(knhk_v8 x, knhk_v8 lo, knhk_v8 hi) {
  KNHK_MASK2(vandq_u64(vcgeq_u64(x.two[i], lo.two[i]), vcleq_u64(x.two[i], hi.two[i])));
}
KNHK_INLINE knhk_v8 knhk_pick(const uint64_t *base, const uint8_t n[8]) {
  KNHK_EACH2(v, vcombine_u64(vld1_u64(base + n[2 * i]), vld1_u64(base + n[2 * i + 1])));
  return v;
}
KNHK_INLINE knhk_v8 knhk_only(knhk_v8 x, uint32_t among) {
  static const uint64_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128}, number[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const uint64x2_t set = vdupq_n_u64(among);
  KNHK_EACH2(v, vbslq_u64(vtstq_u64(set, vld1q_u64(bit + 2 * i)), x.two[i], vld1q_u64(number + 2 * i)));
  return v;
}
KNHK_INLINE uint32_t knhk_eq_rotated1(knhk_v8 x) { KNHK_MASK2(vceqq_u64(x.two[i], vextq_u64(x.two[i], x.two[(i + 1) & 3], 1))); }
KNHK_INLINE uint32_t knhk_eq_rotated2(knhk_v8 x) { KNHK_MASK2(vceqq_u64(x.two[i], x.two[(i + 1) & 3])); }
KNHK_INLINE uint32_t knhk_eq_rotated3(knhk_v8 x) { KNHK_MASK2(vceqq_u64(x.two[i], vextq_u64(x.two[(i + 1) & 3], x.two[(i + 2) & 3], 1))); }
KNHK_INLINE uint32_t knhk_eq_rotated4(knhk_v8 x) { KNHK_MASK2(vceqq_u64(x.two[i], x.two[(i + 2) & 3])); }
#undef KNHK_EACH2
#undef KNHK_MASK2

#else
#define KNHK_ISA scalar
#define KNHK_PLAIN 1
typedef struct {
  uint64_t one[8];
} knhk_v8;

/* by hand, for a loop that stays a loop ends in a branch */
#define KNHK_STEP(number, what) { enum { i = number }; what; }
#define KNHK_EIGHT(what)                                                                                           \
  KNHK_STEP(0, what) KNHK_STEP(1, what) KNHK_STEP(2, what) KNHK_STEP(3, what) KNHK_STEP(4, what) KNHK_STEP(5, what) \
  KNHK_STEP(6, what) KNHK_STEP(7, what)
#define KNHK_EACH1(made, expr)                                          \
  knhk_v8 made;                                                         \
  KNHK_EIGHT(made.one[i] = (expr))
#define KNHK_MASK1(expr)                                                \
  uint32_t mask = 0;                                                    \
  KNHK_EIGHT(mask |= (uint32_t)(expr) << i)                             \
  return mask

KNHK_INLINE knhk_v8 knhk_load_any(const uint64_t *at) { KNHK_EACH1(v, at[i]); return v; }
KNHK_INLINE knhk_v8 knhk_load(const uint64_t *at) { return knhk_load_any(at); }
KNHK_INLINE knhk_v8 knhk_splat(uint64_t x) { KNHK_EACH1(v, x); return v; }
KNHK_INLINE knhk_v8 knhk_and(knhk_v8 a, knhk_v8 b) { KNHK_EACH1(v, a.one[i] & b.one[i]); return v; }
KNHK_INLINE knhk_v8 knhk_lengths(knhk_v8 meta) { KNHK_EACH1(v, meta.one[i] >> 40); return v; }
KNHK_INLINE uint32_t knhk_eq(knhk_v8 a, knhk_v8 b) { KNHK_MASK1(a.one[i] == b.one[i]); }
KNHK_INLINE uint32_t knhk_meet(knhk_v8 a, knhk_v8 b) { KNHK_MASK1((a.one[i] & b.one[i]) != 0); }
KNHK_INLINE uint32_t knhk_within(knhk_v8 x, knhk_v8 lo, knhk_v8 hi) {
  KNHK_MASK1((uint32_t)(x.one[i] >= lo.one[i]) & (uint32_t)(x.one[i] <= hi.one[i]));
}
KNHK_INLINE knhk_v8 knhk_pick(const uint64_t *base, const uint8_t n[8]) { KNHK_EACH1(v, base[n[i]]); return v; }
KNHK_INLINE uint32_t knhk_eq_rotated1(knhk_v8 x) { KNHK_MASK1(x.one[i] == x.one[(i + 1) & 7]); }
KNHK_INLINE uint32_t knhk_eq_rotated2(knhk_v8 x) { KNHK_MASK1(x.one[i] == x.one[(i + 2) & 7]); }
KNHK_INLINE uint32_t knhk_eq_rotated3(knhk_v8 x) { KNHK_MASK1(x.one[i] == x.one[(i + 3) & 7]); }
KNHK_INLINE uint32_t knhk_eq_rotated4(knhk_v8 x) { KNHK_MASK1(x.one[i] == x.one[(i + 4) & 7]); }
#undef KNHK_EACH1
#undef KNHK_MASK1
#undef KNHK_EIGHT
#undef KNHK_STEP
#endif
#endif

#if !defined(KNHK_TWICE)
#define KNHK_TWICE 0
/* Lanes of `among` whose value occurs in another lane of `among`. Each lane is compared with those 1 to 4 places on; who is met on the way is met
 * by both. The other lanes become 0 … 7, which are no terms and differ from one another; in plain C their bits are taken away, for a choice
 * between two numbers may become a branch. */
KNHK_INLINE uint32_t knhk_twice(knhk_v8 x, uint32_t among) {
#define KNHK_BACK(m, by) ((uint32_t)(uint8_t)((m) << (by) | (m) >> (8 - (by))))
#if defined(KNHK_SIMD)
#define KNHK_BOTH(m, by) (m)
  const knhk_v8 v = knhk_only(x, among);
#else
#define KNHK_BOTH(m, by) ((m) & among & KNHK_BACK(among, 8 - (by)))
  const knhk_v8 v = x;
#endif
  const uint32_t one = KNHK_BOTH(knhk_eq_rotated1(v), 1), two = KNHK_BOTH(knhk_eq_rotated2(v), 2), three = KNHK_BOTH(knhk_eq_rotated3(v), 3);
  return one | two | three | KNHK_BOTH(knhk_eq_rotated4(v), 4) | KNHK_BACK(one, 1) | KNHK_BACK(two, 2) | KNHK_BACK(three, 3);
#undef KNHK_BOTH
#undef KNHK_BACK
}
#endif

/* The same among lanes whose key is as wanted. */
#if KNHK_TWICE != 2
KNHK_INLINE uint32_t knhk_twice_of(knhk_v8 x, knhk_v8 key, knhk_v8 want) { return knhk_twice(x, knhk_eq(key, want)); }
#endif

#endif /* KNHK_LANES_H */

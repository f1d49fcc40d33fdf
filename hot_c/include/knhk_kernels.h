/* knhk_kernels.h: the six kernels over one chunk of 8 lanes.
 *
 * Each yields an 8-bit mask, bit i for lane i; none branches on lane data, none calls, none writes. Absent lanes have key 0, which is
 * no key, for node 0 with predicate 0 cannot occur (string 0 is the empty string, and no predicate is empty).
 * Compiled for AVX-512, AVX2, NEON or none (knhk_lanes.h); all give the same masks (tests/hot/test_kernels.py).
 */
#ifndef KNHK_KERNELS_H
#define KNHK_KERNELS_H

#include "knhk_lanes.h"

typedef struct { /* 64-byte aligned, 256 bytes; lanes of one subject */
  uint64_t key[8]; /* node << 32 | predicate */
  uint64_t obj[8]; /* identity of the value */
  uint64_t val[8]; /* family and scaled value */
  uint64_t meta[8];
} __attribute__((aligned(64))) knhk_chunk;

/* lanes equal to x */
KNHK_INLINE uint32_t knhk_eq8(const uint64_t *lane, uint64_t x) { return knhk_eq(knhk_load(lane), knhk_splat(x)); }

/* lanes with lo <= lane <= hi */
KNHK_INLINE uint32_t knhk_range8(const uint64_t *lane, uint64_t lo, uint64_t hi) {
  return knhk_within(knhk_load(lane), knhk_splat(lo), knhk_splat(hi));
}

KNHK_INLINE uint32_t knhk_meta8(const uint64_t *meta, uint64_t mask, uint64_t want, uint64_t kinds, uint64_t min, uint64_t max) {
  const knhk_v8 x = knhk_load(meta);
  return knhk_eq(knhk_and(x, knhk_splat(mask)), knhk_splat(want)) & knhk_meet(x, knhk_splat(kinds)) &
         knhk_within(knhk_lengths(x), knhk_splat(min), knhk_splat(max));
}

/* lanes of `among` whose value occurs in another lane of `among` */
KNHK_INLINE uint32_t knhk_twice8(const uint64_t *lane, uint32_t among) { return knhk_twice(knhk_load(lane), among); }

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
KNHK_INLINE uint32_t knhk_unique(const knhk_chunk *c, uint64_t key) {
  return knhk_twice_of(knhk_load(c->obj), knhk_load(c->key), knhk_splat(key));
}

#endif /* KNHK_KERNELS_H */

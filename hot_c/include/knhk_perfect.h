/* knhk_perfect.h: a minimal perfect hash of strings, read in place (formats/perfect.md). Little-endian tables without alignment. */
#ifndef KNHK_PERFECT_H
#define KNHK_PERFECT_H

#include <stdint.h>
#include <string.h>

#define KNHK_MIX1 0x9e3779b97f4a7c15ull
#define KNHK_MIX2 0xbf58476d1ce4e5b9ull

typedef struct {
  uint64_t r, x; /* r: 1 … 2^60 - 1 */
} knhk_seed;

typedef struct {
  uint32_t n, nbuckets, nslots; /* n ≥ 1 keys; n / 4 + 1; n + n / 32 + 2 */
  const void *pilots;           /* u16[nbuckets] */
  const void *remap;            /* u32[nslots - n], each below n */
} knhk_perfect;

static inline knhk_perfect knhk_perfect_of(uint32_t n, const void *pilots, const void *remap) {
  const knhk_perfect p = {n, n / 4 + 1, n + n / 32 + 2, pilots, remap};
  return p;
}

static inline const uint8_t *knhk_pilot_at(const knhk_perfect *p, uint64_t hash) {
  return (const uint8_t *)p->pilots + 2 * (((hash >> 32) * p->nbuckets) >> 32);
}
static inline uint32_t knhk_slot_of(uint64_t hash, uint64_t pilot, uint32_t nslots) {
  return (uint32_t)(((((hash ^ (pilot * KNHK_MIX1)) * KNHK_MIX2) >> 32) * nslots) >> 32);
}

/* The place of a key, by its hash; of any other string some place below n. Whoever asks compares the bytes. */
static inline uint32_t knhk_place(const knhk_perfect *p, uint64_t hash) {
  uint16_t pilot;
  uint32_t to;
  memcpy(&pilot, knhk_pilot_at(p, hash), sizeof pilot);
  const uint32_t slot = knhk_slot_of(hash, pilot, p->nslots);
  if (__builtin_expect(slot < p->n, 1)) return slot;
  memcpy(&to, (const uint8_t *)p->remap + 4 * (size_t)(slot - p->n), sizeof to);
  return to;
}

#endif /* KNHK_PERFECT_H */

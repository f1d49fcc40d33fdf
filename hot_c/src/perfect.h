/* perfect.h: perfect hashes made and asked in bulk, for the cffi binding (formats/perfect.md; knhk_gen/perfect.py is the definition). */
#ifndef KNHK_PERFECT_BUILD_H
#define KNHK_PERFECT_BUILD_H

#include <stddef.h>

#include "knhk_perfect.h"

/* Places n ≥ 1 distinct keys, key i from text + offset[i] to text + offset[i + 1] (no more than 2^32 - 1 bytes each): fills pilots
 * (n / 4 + 1), remap (n / 32 + 2) and order (n: the key of each place). Returns 1; 0 when this seed cannot serve; -1 without memory. */
int knhk_perfect_place(const uint8_t *text, const uint64_t *offset, uint32_t n, knhk_seed seed, uint16_t *pilots, uint32_t *remap, uint32_t *order);

/* Looks m strings up among n keys that lie at their places: the number of each in found, 0xffffffff when it is none of the keys. Bytes are
 * compared. Works in groups whose cache lines are fetched ahead. */
void knhk_perfect_find(const uint8_t *text, const uint64_t *offset, uint32_t n, knhk_seed seed, const uint16_t *pilots, const uint32_t *remap,
                       const uint8_t *asked, const uint64_t *asked_offset, uint32_t m, uint32_t *found);

#endif

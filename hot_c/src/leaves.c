/* leaves.c: see leaves.h. */
#include "leaves.h"

#include <string.h>

#define DECISION 1u

static int is_zero(const uint8_t *p, size_t n) {
  uint8_t any = 0;
  for (size_t i = 0; i < n; i++) any |= p[i];
  return any == 0;
}

static int is_sound(const uint8_t *item, const uint8_t *allowed) {
  const uint8_t *leaf = item + KNHK_KEY_SIZE + 2;
  int sound = item[KNHK_KEY_SIZE] == 0 && item[KNHK_KEY_SIZE + 1] == KNHK_LEAF_SIZE;
  for (size_t i = 0; i < KNHK_LEAF_FIELDS; i++) sound &= allowed[256 * i + leaf[i]] != 0;
  sound &= leaf[1] == DECISION ? leaf[3] != 0 : is_zero(leaf + 40, 32); /* a verdict; else no A */
  sound &= memcmp(leaf + 100, item, 16) == 0 && (leaf[5] & 1) == item[16];
  return sound & ((leaf[116] | leaf[117]) == 0);
}

size_t knhk_sound_leaves(const uint8_t *items, size_t n, const uint8_t *allowed) {
  size_t i = 0;
  while (i < n && is_sound(items + i * KNHK_ENTRY_SIZE, allowed)) i++;
  return i;
}

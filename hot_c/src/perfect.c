/* perfect.c: hash and displace (formats/perfect.md): buckets by size, the largest first, each with the least pilot that finds room. */
#include "perfect.h"

#include <stdlib.h>

#include "bytes.h"

enum { PILOTS = 1 << 16, BUCKET_MAX = 256, GROUP = 16 };
#define NONE 0xffffffffu

typedef struct {
  const uint64_t *hash; /* of the keys, bucket by bucket */
  const uint32_t *key;
  uint64_t *used;       /* a bit for each slot */
  uint32_t *key_at;     /* of each slot that is used */
  uint32_t nslots;
} board;

static int is_used(const board *b, uint32_t slot) { return ((b->used[slot / 64] >> (slot % 64)) & 1) != 0; }

static knhk_text text_at(const uint8_t *text, const uint64_t *offset, uint32_t i) {
  const knhk_text t = {text + offset[i], (uint32_t)(offset[i + 1] - offset[i])};
  return t;
}

static int has_twin(const uint64_t *hash, uint32_t n) {
  for (uint32_t i = 1; i < n; i++)
    for (uint32_t k = 0; k < i; k++)
      if (hash[i] == hash[k]) return 1;
  return 0;
}

/* The slots of a bucket of n keys that begins at `from` under that pilot; 0 when they are not all free and distinct. */
static int fits(const board *b, uint32_t from, uint32_t n, uint32_t pilot, uint32_t *slots) {
  for (uint32_t i = 0; i < n; i++) {
    slots[i] = knhk_slot_of(b->hash[from + i], pilot, b->nslots);
    if (is_used(b, slots[i])) return 0;
    for (uint32_t k = 0; k < i; k++)
      if (slots[k] == slots[i]) return 0;
  }
  return 1;
}

static int settle(const board *b, uint32_t from, uint32_t n, uint16_t *pilot) {
  uint32_t slots[BUCKET_MAX], p = 0;
  if (n > BUCKET_MAX || has_twin(b->hash + from, n)) return 0;
  while (p < PILOTS && !fits(b, from, n, p, slots)) p++;
  if (p == PILOTS) return 0;
  *pilot = (uint16_t)p;
  for (uint32_t i = 0; i < n; i++) {
    b->used[slots[i] / 64] |= (uint64_t)1 << (slots[i] % 64);
    b->key_at[slots[i]] = b->key[from + i];
  }
  return 1;
}

/* Slots beyond the keys send theirs to the places that stayed free. */
static void compact(const board *b, uint32_t n, uint32_t *remap, uint32_t *order) {
  uint32_t free_at = 0;
  for (uint32_t slot = n; slot < b->nslots; slot++) {
    remap[slot - n] = 0;
    if (!is_used(b, slot)) continue;
    while (is_used(b, free_at)) free_at++;
    b->key_at[free_at] = b->key_at[slot];
    remap[slot - n] = free_at++;
  }
  memcpy(order, b->key_at, 4 * (size_t)n);
}

/* Memory of one build: hashes twice (by key, by bucket), keys by bucket, first key of each bucket, buckets by size, slots. */
typedef struct {
  uint64_t *hash, *sorted, *used;
  uint32_t *key, *first, *by_size, *key_at;
} workspace;

static void release(workspace *w) {
  free(w->hash);
  free(w->sorted);
  free(w->used);
  free(w->key);
  free(w->first);
  free(w->by_size);
  free(w->key_at);
}

static int acquire(workspace *w, const knhk_perfect *p) {
  w->hash = malloc(8 * (size_t)p->n);
  w->sorted = malloc(8 * (size_t)p->n);
  w->used = calloc((size_t)p->nslots / 64 + 1, 8);
  w->key = malloc(4 * (size_t)p->n);
  w->first = calloc((size_t)p->nbuckets + 1, 4);
  w->by_size = malloc(4 * (size_t)p->nbuckets);
  w->key_at = malloc(4 * (size_t)p->nslots);
  return w->hash != NULL && w->sorted != NULL && w->used != NULL && w->key != NULL && w->first != NULL && w->by_size != NULL && w->key_at != NULL;
}

static uint32_t bucket_of(const knhk_perfect *p, uint64_t hash) { return (uint32_t)(((hash >> 32) * p->nbuckets) >> 32); }

/* Keys bucket by bucket, in their order within each; first[b] … first[b + 1] are those of b. */
static void group(const workspace *w, const knhk_perfect *p) {
  for (uint32_t i = 0; i < p->n; i++) w->first[bucket_of(p, w->hash[i]) + 1]++;
  for (uint32_t b = 0; b < p->nbuckets; b++) w->first[b + 1] += w->first[b];
  for (uint32_t i = p->n; i-- > 0;) {
    const uint32_t at = --w->first[bucket_of(p, w->hash[i]) + 1];
    w->sorted[at] = w->hash[i];
    w->key[at] = i;
  }
  for (uint32_t b = 0; b < p->nbuckets; b++) w->first[b] = w->first[b + 1];
  w->first[p->nbuckets] = p->n;
}

/* Buckets by descending size, equal ones ascending. False without memory. */
static int order_buckets(const workspace *w, const knhk_perfect *p) {
  uint32_t most = 0;
  for (uint32_t b = 0; b < p->nbuckets; b++) {
    const uint32_t size = w->first[b + 1] - w->first[b];
    most = size > most ? size : most;
  }
  uint32_t *at = calloc((size_t)most + 2, 4);
  if (at == NULL) return 0;
  for (uint32_t b = 0; b < p->nbuckets; b++) at[most - (w->first[b + 1] - w->first[b]) + 1]++;
  for (uint32_t s = 0; s <= most; s++) at[s + 1] += at[s];
  for (uint32_t b = 0; b < p->nbuckets; b++) w->by_size[at[most - (w->first[b + 1] - w->first[b])]++] = b;
  free(at);
  return 1;
}

static int place_all(const workspace *w, const board *b, const knhk_perfect *p, uint16_t *pilots) {
  memset(pilots, 0, 2 * (size_t)p->nbuckets);
  for (uint32_t i = 0; i < p->nbuckets; i++) {
    const uint32_t bucket = w->by_size[i], from = w->first[bucket], size = w->first[bucket + 1] - from;
    if (size > 0 && !settle(b, from, size, &pilots[bucket])) return 0;
  }
  return 1;
}

int knhk_perfect_place(const uint8_t *text, const uint64_t *offset, uint32_t n, knhk_seed seed, uint16_t *pilots, uint32_t *remap, uint32_t *order) {
  const knhk_perfect p = knhk_perfect_of(n, pilots, remap);
  workspace w = {NULL, NULL, NULL, NULL, NULL, NULL, NULL};
  int done = -1;
  if (acquire(&w, &p)) {
    const board b = {w.sorted, w.key, w.used, w.key_at, p.nslots};
    for (uint32_t i = 0; i < n; i++) w.hash[i] = knhk_hash(text_at(text, offset, i), seed);
    group(&w, &p);
    done = order_buckets(&w, &p) ? place_all(&w, &b, &p, pilots) : -1;
    if (done == 1) compact(&b, n, remap, order);
  }
  release(&w);
  return done;
}

void knhk_perfect_find(const uint8_t *text, const uint64_t *offset, uint32_t n, knhk_seed seed, const uint16_t *pilots, const uint32_t *remap,
                       const uint8_t *asked, const uint64_t *asked_offset, uint32_t m, uint32_t *found) {
  const knhk_perfect p = knhk_perfect_of(n, pilots, remap);
  uint64_t hash[GROUP];
  for (uint32_t from = 0; from < m; from += GROUP) {
    const uint32_t k = knhk_umin(GROUP, m - from);
    for (uint32_t i = 0; i < k; i++) {
      hash[i] = knhk_hash(text_at(asked, asked_offset, from + i), seed);
      __builtin_prefetch(knhk_pilot_at(&p, hash[i]));
    }
    for (uint32_t i = 0; i < k; i++) {
      found[from + i] = knhk_place(&p, hash[i]);
      __builtin_prefetch(offset + found[from + i]);
    }
    for (uint32_t i = 0; i < k; i++) __builtin_prefetch(text + offset[found[from + i]]);
    for (uint32_t i = 0; i < k; i++)
      if (!knhk_same(text_at(text, offset, found[from + i]), text_at(asked, asked_offset, from + i))) found[from + i] = NONE;
  }
}

/* loops.c: the loops that Python is too slow to time, and the load for Envoy's rings. Built by bench/native.py for each run.
 *
 * Times are nanoseconds: wall time for the loops over kernels (batches of a microsecond), CPU time of the thread for the rest, so that
 * neighbours on the machine do not count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "knhk_pack.h"

#define API __attribute__((visibility("default")))

typedef uint64_t (*many_fn)(uint32_t kernel, const knhk_chunk *c, uint32_t n, uint32_t rounds, const uint64_t x[6]);
typedef void (*sha256_fn)(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t *digest);

static uint64_t now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- kernels: `samples` batches of n × rounds evaluations, the time of each into out ---- */
API uint64_t bench_many(many_fn many, uint32_t kernel, const knhk_chunk *c, uint32_t n, uint32_t rounds, const uint64_t x[6], uint64_t *out,
                        uint32_t samples) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < samples; i++) {
    const uint64_t begun = now(CLOCK_MONOTONIC);
    sum += many(kernel, c, n, rounds, x);
    out[i] = now(CLOCK_MONOTONIC) - begun;
  }
  return sum;
}

/* ---- packs ---- */
typedef struct {
  const knhk_pack *pack;
  const knhk_variant *variant;
  const knhk_binding *binding;
  uint8_t *a, *scratch;
  size_t scratch_len;
} bench_pack;

static void *aligned(size_t n) { return aligned_alloc(64, (n + 63) & ~(size_t)63); }

/* NULL when the file is no pack, has no such variant or refuses the bundle. Freed with the process. */
API bench_pack *bench_open(const char *path, const char *variant, const uint8_t *bundle, size_t len, size_t o_max) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const knhk_pack *pack = library == NULL ? NULL : dlsym(library, "knhk_pack_v1");
  if (pack == NULL) return NULL;
  bench_pack *p = calloc(1, sizeof *p);
  p->pack = pack;
  for (uint32_t i = 0; i < pack->nvariants; i++)
    if (strcmp(pack->variants[i].name, variant) == 0 && pack->variants[i].supported()) p->variant = &pack->variants[i];
  int32_t error = 0;
  const size_t size = pack->bind_size(bundle, len);
  p->binding = pack->bind(bundle, len, aligned(size), size, &error);
  p->scratch_len = pack->batch_size(o_max);
  p->scratch = aligned(p->scratch_len);
  p->a = aligned(pack->a_max);
  memset(p->scratch, 0, p->scratch_len);
  return p->variant == NULL || p->binding == NULL ? NULL : p;
}

/* The m observations that lie one after the other in o, `rounds` times; verdicts of the last round (0: not decided here). */
API uint64_t bench_decide(bench_pack *p, const uint8_t *o, const size_t *len, size_t m, uint32_t rounds, uint8_t *verdicts) {
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  for (uint32_t r = 0; r < rounds; r++) {
    const uint8_t *at = o;
    for (size_t i = 0; i < m; at += len[i++]) {
      const knhk_result got = p->variant->decide(p->binding, at, len[i], p->a, p->pack->a_max, p->scratch, p->scratch_len);
      verdicts[i] = got.status == KNHK_OK ? got.verdict : 0;
    }
  }
  return now(CLOCK_THREAD_CPUTIME_ID) - begun;
}

/* The same by decide_batch. */
API uint64_t bench_batch(bench_pack *p, const uint8_t *o, const size_t *len, size_t m, uint32_t rounds, uint8_t *verdicts) {
  const uint8_t **at = malloc(m * sizeof *at);
  knhk_result *got = malloc(m * sizeof *got);
  uint8_t *a = malloc(m * p->pack->a_max);
  for (size_t i = 0; i < m; o += len[i++]) at[i] = o;
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  for (uint32_t r = 0; r < rounds; r++) p->variant->decide_batch(p->binding, m, at, len, a, p->pack->a_max, got, p->scratch, p->scratch_len);
  const uint64_t took = now(CLOCK_THREAD_CPUTIME_ID) - begun;
  for (size_t i = 0; i < m; i++) verdicts[i] = got[i].status == KNHK_OK ? got[i].verdict : 0;
  free(at);
  free(got);
  free(a);
  return took;
}

/* The Δ of one observation again and again: reading it (what = 0), its guards alone (what = 1). 0 when it cannot be read. */
API uint64_t bench_part(bench_pack *p, const uint8_t *o, size_t len, uint32_t rounds, uint32_t what) {
  const void *lanes = NULL;
  if (p->pack->extract(p->binding, o, len, p->scratch, p->scratch_len, &lanes) != KNHK_OK) return 0;
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  if (what == 0)
    for (uint32_t r = 0; r < rounds; r++) p->pack->extract(p->binding, o, len, p->scratch, p->scratch_len, &lanes);
  else
    for (uint32_t r = 0; r < rounds; r++) p->variant->decide_lanes(p->binding, lanes, p->a, p->pack->a_max, p->scratch, p->scratch_len);
  return now(CLOCK_THREAD_CPUTIME_ID) - begun;
}

#define TOGETHER 16u

/* The guards of one observation, read TOGETHER times, by decide_lanes_batch. 0 when it cannot be read. */
API uint64_t bench_lanes_batch(bench_pack *p, const uint8_t *o, size_t len, uint32_t rounds) {
  const size_t room = (p->pack->scratch_size(len) + 63) & ~(size_t)63;
  uint8_t *scratch = aligned_alloc(64, TOGETHER * room), *a = malloc(TOGETHER * (size_t)p->pack->a_max);
  const void *lanes[TOGETHER];
  knhk_result got[TOGETHER];
  uint64_t took = 0;
  for (uint32_t i = 0; i < TOGETHER; i++)
    if (p->pack->extract(p->binding, o, len, scratch + i * room, room, &lanes[i]) != KNHK_OK) goto done;
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  for (uint32_t r = 0; r < rounds; r++) p->variant->decide_lanes_batch(TOGETHER, lanes, a, p->pack->a_max, got, p->scratch, p->scratch_len);
  took = now(CLOCK_THREAD_CPUTIME_ID) - begun;
done:
  free(scratch);
  free(a);
  return took;
}

/* ---- dictionaries: m look-ups of strings among n keys that lie at their places (formats/perfect.md), `rounds` times ---- */
typedef struct {
  const uint8_t *text;
  const uint64_t *offset;
  knhk_seed seed;
  knhk_perfect perfect;
  const uint64_t *hash;   /* of each place */
  uint32_t *slots, mask;  /* an open-addressing table of the same keys: place + 1 */
} bench_keys;
enum { ASK_HASH, ASK_PLACE, ASK_MEMBER, ASK_TEXT, ASK_DEPENDENT, ASK_OPEN };

static knhk_text key_at(const uint8_t *text, const uint64_t *offset, uint32_t i) {
  const knhk_text t = {text + offset[i], (uint32_t)(offset[i + 1] - offset[i])};
  return t;
}

/* Freed with the process. */
API bench_keys *bench_keys_of(const uint8_t *text, const uint64_t *offset, uint32_t n, uint64_t r, uint64_t x, const uint16_t *pilots, const uint32_t *remap) {
  bench_keys *k = calloc(1, sizeof *k);
  uint64_t *hash = malloc(8 * (size_t)n);
  uint32_t size = 1;
  while (size < 2 * n) size *= 2;
  *k = (bench_keys){text, offset, {r, x}, knhk_perfect_of(n, pilots, remap), hash, calloc(size, 4), size - 1};
  for (uint32_t i = 0; i < n; i++) {
    hash[i] = knhk_hash(key_at(text, offset, i), k->seed);
    uint32_t at = (uint32_t)hash[i] & k->mask;
    while (k->slots[at] != 0) at = (at + 1) & k->mask;
    k->slots[at] = i + 1;
  }
  return k;
}

static uint32_t find(const bench_keys *k, knhk_text s) {
  const uint32_t i = knhk_place(&k->perfect, knhk_hash(s, k->seed));
  return knhk_same(key_at(k->text, k->offset, i), s) ? i : 0xffffffffu;
}

static uint32_t find_open(const bench_keys *k, knhk_text s) {
  for (uint32_t at = (uint32_t)knhk_hash(s, k->seed) & k->mask;; at = (at + 1) & k->mask) {
    if (k->slots[at] == 0) return 0xffffffffu;
    if (knhk_same(key_at(k->text, k->offset, k->slots[at] - 1), s)) return k->slots[at] - 1;
  }
}

/* what: ASK_*; asked_hash: hashes of the m strings. found: strings that are keys (all, for ASK_HASH). Wall time, for these are batches of microseconds. */
API uint64_t bench_keys_ask(const bench_keys *k, const uint8_t *asked, const uint64_t *offset, const uint64_t *asked_hash, uint32_t m, uint32_t what,
                            uint64_t *found) {
  uint64_t sum = 0;
  uint32_t last = 0;
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  for (uint32_t i = 0; i < m; i++) {
    switch (what) {
      case ASK_HASH: sum += knhk_hash(key_at(asked, offset, i), k->seed) & 1; break;
      case ASK_PLACE: sum += knhk_place(&k->perfect, asked_hash[i]) & 1; break;
      case ASK_MEMBER: sum += k->hash[knhk_place(&k->perfect, asked_hash[i])] == asked_hash[i]; break;
      case ASK_TEXT: sum += find(k, key_at(asked, offset, i)) != 0xffffffffu; break;
      case ASK_DEPENDENT: last = find(k, key_at(asked, offset, i + (last >> 31))); sum += last != 0xffffffffu; break;
      default: sum += find_open(k, key_at(asked, offset, i)) != 0xffffffffu;
    }
  }
  *found = sum;
  return now(CLOCK_THREAD_CPUTIME_ID) - begun;
}

/* ---- leaves: 118 bytes put together and hashed as RFC 6962 says, n times ---- */
API uint64_t bench_leaf(sha256_fn sha256, uint32_t rounds, uint8_t *digest) {
  uint8_t leaf[118] = {1, 1, 1, 1, 1, 0};
  static const uint8_t prefix = 0;
  const uint64_t begun = now(CLOCK_THREAD_CPUTIME_ID);
  for (uint32_t r = 0; r < rounds; r++) {
    memcpy(leaf + 8, digest, 32);
    memcpy(leaf + 40, digest, 32);
    memcpy(leaf + 72, digest, 20);
    memcpy(leaf + 92, &r, sizeof r);
    sha256(&prefix, 1, leaf, sizeof leaf, digest);
  }
  return now(CLOCK_THREAD_CPUTIME_ID) - begun;
}

/* ---- a ring's producer (formats/ring.md): copies of `record` with their own receipt ids until `most` or until there is no room ---- */
enum { RING_DATA = 4096, RING_HEAD = 128, RING_TAIL = 192 };

API uint64_t bench_produce(uint8_t *ring, uint64_t capacity, const uint8_t *record, uint32_t length, uint64_t most, uint64_t *sequence) {
  uint64_t *head_at = (uint64_t *)(void *)(ring + RING_HEAD), *tail_at = (uint64_t *)(void *)(ring + RING_TAIL);
  uint64_t head = *head_at, made = 0;
  for (; made < most; made++) {
    const uint64_t to_end = capacity - head % capacity, pad = to_end < length ? to_end : 0;
    if (head + pad + length - __atomic_load_n(tail_at, __ATOMIC_ACQUIRE) > capacity) break;
    if (pad > 0) {
      uint8_t *at = ring + RING_DATA + head % capacity;
      const uint32_t words[2] = {(uint32_t)pad, 2};
      memcpy(at + 8, words, sizeof words);
      __atomic_store_n((uint64_t *)(void *)at, head + 1, __ATOMIC_RELEASE);
      head += pad;
    }
    uint8_t *at = ring + RING_DATA + head % capacity;
    memcpy(at + 8, record + 8, length - 8);
    const uint64_t number = __builtin_bswap64(++*sequence);
    memcpy(at + 24, &number, sizeof number);
    __atomic_store_n((uint64_t *)(void *)at, head + 1, __ATOMIC_RELEASE);
    head += length;
    __atomic_store_n(head_at, head, __ATOMIC_RELEASE);
  }
  return made;
}

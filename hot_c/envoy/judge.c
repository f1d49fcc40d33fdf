/* judge.c: O -> one leaf per arm. The verdict that counts is that of the enforced arm alone; the other arm is evidence. */
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "shim.h"

enum { SCRATCH_KEPT = 4 << 20, HEAT_EVERY = 64 };

static const uint8_t A_ADMIT_ALL[] = {'K', 'N', 'A', '1', KNHK_ADMIT, 0, 0, 0, 0, 0}; /* zero guards, zero triples */

/* First 8 bytes, big-endian, of SHA-256(salt || key); never 0, which means no key. */
static uint64_t hash64(const shim_config *config, knhk_buf key) {
  uint8_t text[sizeof config->salt + SHIM_VALUE_MAX], digest[32];
  memcpy(text, config->salt, config->salt_len);
  memcpy(text + config->salt_len, key.p, key.n);
  knhk_sha256(text, config->salt_len + key.n, digest);
  uint64_t hash;
  memcpy(&hash, digest, sizeof hash);
  hash = __builtin_bswap64(hash);
  return hash == 0 ? 1 : hash;
}

/* Monotone in weight: who is in the canary at 100 is in it at 300. */
static int choose_arm(const shim_config *config, const shim_record *record, bool candidate) {
  if (!candidate || !config->canary) return ARM_STABLE;
  uint64_t hash = record->cluster != 0 ? record->cluster : hash64(config, (knhk_buf){(const char *)record->receipt, sizeof record->receipt});
  return hash % 1000 < config->weight ? ARM_CANDIDATE : ARM_STABLE;
}

static void set(shim_leaf *leaf, int kind, int klass, int verdict) {
  leaf->kind = (uint8_t)kind;
  leaf->klass = (uint8_t)klass;
  leaf->verdict = (uint8_t)verdict;
}

/* A point whose stable arm has no pack yet. */
static void judge_baseline(const shim_config *config, uint8_t *a, shim_leaf *leaf) {
  if (!config->baseline_admit) {
    set(leaf, KIND_REFUSED, KNHK_CLASS_NONE, KNHK_DENY);
    return;
  }
  memcpy(a, A_ADMIT_ALL, sizeof A_ADMIT_ALL);
  leaf->a_len = sizeof A_ADMIT_ALL;
  set(leaf, KIND_DECISION, KNHK_CLASS_NONE, KNHK_ADMIT);
}

static bool is_sound(const knhk_result *r, const uint8_t *a, uint32_t a_max) {
  return (r->verdict == KNHK_ADMIT || r->verdict == KNHK_DENY) && r->a_len >= 10 && r->a_len <= a_max && memcmp(a, "KNA1", 4) == 0 && a[4] == r->verdict;
}

/* As the ring has it: at least 1, for 0 means that no pack was asked. */
static uint32_t duration(uint64_t ns) { return ns == 0 ? 1 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns; }

/* heat: count what this decision touches. */
static void judge_pack(const shim_config *config, int number, shim_worker *worker, const uint8_t *o, size_t o_len, uint8_t *a, bool heat, shim_leaf *leaf) {
  const shim_arm *arm = &config->arms[number];
  const knhk_pack *api = arm->pack->api;
  if (!residency_here(config, worker, number, shim_now_ns(CLOCK_MONOTONIC)) && config->park_absent) {
    set(leaf, KIND_PARK, KNHK_CLASS_W1, 0);
    return;
  }
  const size_t scratch = api->scratch_size(o_len); /* reads tables of the pack, which are resident by now */
  const uint64_t began_ns = shim_now_ns(CLOCK_MONOTONIC); /* what the look costs is no pack's time */
  knhk_result r = arm->pack->variant->decide(arm->binding, o, o_len, a, api->a_max, worker->scratch, scratch);
  leaf->duration_ns = duration(shim_now_ns(CLOCK_MONOTONIC) - began_ns);
  if (heat && r.status >= 0) heat_sample(config, worker, number);
  if (scratch > SCRATCH_KEPT) madvise(worker->scratch + SCRATCH_KEPT, (scratch - SCRATCH_KEPT) & ~(size_t)4095, MADV_DONTNEED);
  if (r.status == KNHK_OK && is_sound(&r, a, api->a_max)) {
    set(leaf, KIND_DECISION, r.klass, r.verdict);
    leaf->a_len = r.a_len;
  } else if (r.status == KNHK_COLD || r.status == KNHK_ESCAPE) {
    set(leaf, KIND_PARK, r.klass, 0);
  } else if (r.status == KNHK_E_ROUTE) {
    set(leaf, KIND_REFUSED, KNHK_CLASS_NONE, KNHK_DENY);
  } else {
    set(leaf, KIND_UNAVAILABLE, KNHK_CLASS_NONE, 0);
  }
}

void judge(const shim_config *config, shim_worker *worker, uint8_t *slot, knhk_buf sticky, uint8_t extra_flags, shim_record *record) {
  bool stale = config_is_stale(config, record->time_ns), candidate = config->judge_candidate && !stale;
  uint8_t *a = slot + SHIM_RECORD_HEADER + record->o_len;
  record->o = slot + SHIM_RECORD_HEADER;
  record->cluster = sticky.n == 0 ? 0 : hash64(config, sticky);
  record->enforced = (uint8_t)choose_arm(config, record, candidate);
  record->narms = candidate ? 2 : 1;
  const bool heat = worker->judged++ % HEAT_EVERY == 0;
  for (int i = 0; i < record->narms; i++) {
    shim_leaf *leaf = &record->arms[i];
    memcpy(leaf->pack, config->arms[i].digest, sizeof leaf->pack);
    leaf->mode = record->enforced == i ? MODE_ENFORCED : MODE_OBSERVED;
    leaf->flags = (uint8_t)(extra_flags | (stale ? FLAG_STALE : 0) | (i == ARM_CANDIDATE ? FLAG_CANDIDATE : 0));
    leaf->a = a;
    if (config->arms[i].pack == NULL) {
      judge_baseline(config, a, leaf);
    } else {
      judge_pack(config, i, worker, record->o, record->o_len, a, heat, leaf);
    }
    a += leaf->a_len;
  }
}

static size_t arm_room(const shim_arm *arm) { return arm->pack == NULL ? sizeof A_ADMIT_ALL : arm->pack->api->a_max; }

size_t record_room(const shim_config *config, size_t o_len) {
  return SHIM_RECORD_HEADER + o_len + arm_room(&config->arms[ARM_STABLE]) + arm_room(&config->arms[ARM_CANDIDATE]);
}

static void write_leaf(const shim_leaf *leaf, uint8_t *at) {
  memset(at, 0, 36);
  memcpy(at, leaf->pack, 20);
  at[20] = leaf->kind;
  at[21] = leaf->klass;
  at[22] = leaf->verdict;
  at[23] = leaf->mode;
  at[24] = leaf->flags;
  memcpy(at + 28, &leaf->a_len, 4);
  memcpy(at + 32, &leaf->duration_ns, 4);
}

static uint8_t *place(uint8_t *at, const uint8_t *bytes, size_t n) {
  if (n != 0 && at != bytes) memcpy(at, bytes, n);
  return at + n;
}

size_t record_write(const shim_config *config, const shim_record *record, uint8_t *slot) {
  memcpy(slot + 16, record->receipt, 16);
  memcpy(slot + 32, &record->time_ns, 8);
  memcpy(slot + 40, &record->cluster, 8);
  memcpy(slot + 48, &record->o_len, 4);
  memcpy(slot + 52, &config->region_index, 2);
  slot[54] = record->narms;
  slot[55] = 0;
  memset(slot + 56, 0, SHIM_RECORD_HEADER - 56);
  uint8_t *at = place(slot + SHIM_RECORD_HEADER, record->o, record->o_len);
  for (int i = 0; i < record->narms; i++) {
    write_leaf(&record->arms[i], slot + 56 + 36 * i);
    at = place(at, record->arms[i].a, record->arms[i].a_len);
  }
  return (size_t)(at - slot);
}

/* records.c: see records.h. */
#include "records.h"

#include <string.h>

#define KNHK_BUILDING_PACK /* declares what is of the engine: of that only the parser of O is used */
#include "engine.h"

#define HEAD 28u         /* of a record: type, k, flags, cluster, salt */
#define SALT_AT 12u
#define FRAME_MAX (64u << 20)
#define ERASED 1u
#define SEALED 2u
#define DECISION 1u
#define TRIPLES_MAX 8u
#define ENVELOPE_LEAST 80u /* magic, key id, tag, nonce, and the tag of the cipher */
#define TAG_AT 20u
#define TAG 32u
#define HOUR_NS 3600000000000ull
#define LAST_NS 0x7fffffffffffffffull

static uint64_t big(const uint8_t *p, uint32_t bytes) {
  uint64_t x = 0;
  for (uint32_t i = 0; i < bytes; i++) x = (x << 8) | p[i];
  return x;
}

/* ---- records ---- */

typedef struct {
  uint32_t arms, flags;
  const uint8_t *head, *leaves;
  knhk_text o, a[2];
} record;

/* bytes32 from `at` on, which is moved behind it. */
static int field(const uint8_t **at, const uint8_t *end, knhk_text *out) {
  if ((size_t)(end - *at) < 4) return 0;
  out->n = (uint32_t)big(*at, 4);
  out->p = *at + 4;
  if ((size_t)(end - out->p) < out->n) return 0;
  *at = out->p + out->n;
  return 1;
}

static int parse_record(const uint8_t *p, size_t n, record *r) {
  const uint8_t *end = p + n;
  if (n < HEAD || p[0] != 1 || p[1] < 1 || p[1] > 2) return 0;
  r->head = p;
  r->arms = p[1];
  r->flags = (uint32_t)big(p + 2, 2);
  r->leaves = p + HEAD;
  if (r->flags > SEALED || n - HEAD < (size_t)r->arms * KNHK_LEAF_SIZE) return 0;
  const uint8_t *at = r->leaves + (size_t)r->arms * KNHK_LEAF_SIZE;
  if (!field(&at, end, &r->o)) return 0;
  for (uint32_t i = 0; i < r->arms; i++)
    if (!field(&at, end, &r->a[i])) return 0;
  return at == end;
}

/* Bytes of the guard bits of what may be an A. */
static uint32_t bit_bytes(knhk_text a) {
  if (a.n < 8) return 0;
  const uint32_t bytes = ((uint32_t)big(a.p + 6, 2) + 7) / 8;
  return bytes < a.n - 8 ? bytes : a.n - 8;
}

/* Idempotency key. */
static void put_key(uint8_t *key, const uint8_t *leaf) {
  memcpy(key, leaf + 100, 16);
  key[16] = leaf[5] & 1;
}

static void note(knhk_scanned *s, const record *r, size_t size) {
  uint64_t weight = size;
  for (uint32_t i = 0; i < r->arms; i++) {
    const uint8_t *leaf = r->leaves + (size_t)i * KNHK_LEAF_SIZE, *bits = r->a[i].p + 8;
    put_key(s->keys + (size_t)(s->nleaves + i) * KNHK_KEY_SIZE, leaf);
    for (uint32_t j = 0; j < bit_bytes(r->a[i]); j++) weight += 4u * (uint32_t)__builtin_popcount(bits[j]);
    s->acted += r->a[i].n;
  }
  s->observed += (uint64_t)r->arms * r->o.n;
  s->times[s->nrecords] = big(r->leaves + 92, 8);
  s->weights[s->nrecords] = weight;
  s->nrecords++;
  s->nleaves += r->arms;
  s->starts[s->nrecords] = s->starts[s->nrecords - 1] + (uint32_t)size;
  s->firsts[s->nrecords] = s->nleaves;
}

int32_t knhk_records_scan(const uint8_t *data, size_t len, knhk_scanned *s) {
  s->nrecords = s->nleaves = s->starts[0] = s->firsts[0] = 0;
  s->observed = s->acted = 0;
  for (size_t at = 0; len - at >= 8;) {
    const uint64_t size = big(data + at, 4);
    record r;
    if (size == 0 || size > len - at - 8) return 0;
    if (size > FRAME_MAX || knhk_frame_crc(data + at, data + at + 8, (size_t)size) != big(data + at + 4, 4)) return KNHK_FRAME_ALTERED;
    if (!parse_record(data + at + 8, (size_t)size, &r)) return KNHK_FRAME_NO_RECORD;
    if (s->nrecords == s->cap) return 0;
    note(s, &r, (size_t)size + 8);
    at += (size_t)size + 8;
  }
  return 0;
}

/* ---- what a record is made of ---- */

static int zeros(const uint8_t *p, size_t n) {
  uint8_t all = 0;
  for (size_t i = 0; i < n; i++) all |= p[i];
  return all == 0;
}

/* formats/leaf.md */
static int is_leaf(const uint8_t *p) {
  const uint8_t kind = p[1];
  return p[0] == 1 && kind >= 1 && kind <= 4 && p[2] <= 3 && p[3] <= 2 && (kind != DECISION || p[3] > 0) && p[4] >= 1 && p[4] <= 2 && p[5] < 64 &&
         (kind == DECISION || zeros(p + 40, 32)) && p[116] == 0 && p[117] == 0;
}

/* formats/action.md */
static int is_action(knhk_text a) {
  if (a.n < 8 || memcmp(a.p, "KNA1", 4) != 0 || (a.p[4] != 1 && a.p[4] != 2) || a.p[5] != 0) return 0;
  const uint32_t guards = (uint32_t)big(a.p + 6, 2), bytes = (guards + 7) / 8;
  if (a.n - 8 < bytes + 2 || (guards % 8 != 0 && a.p[7 + bytes] >> guards % 8 != 0)) return 0;
  const uint8_t *at = a.p + 8 + bytes + 2, *end = a.p + a.n;
  const uint64_t triples = big(at - 2, 2);
  knhk_text before = {at, 0}, triple;
  if (triples > TRIPLES_MAX) return 0;
  for (uint64_t i = 0; i < triples; i++, before = triple)
    if (!field(&at, end, &triple) || (i > 0 && knhk_order(before, triple) >= 0)) return 0;
  return at == end;
}

static knhk_text actor_of(const knhk_observation *o) {
  knhk_text sub = {NULL, 0}, peer = {NULL, 0};
  for (uint32_t i = 0; i < o->nattr; i++) {
    if (o->name[i].n == 3 && memcmp(o->name[i].p, "sub", 3) == 0) sub = o->value[i];
    if (o->name[i].n == 4 && memcmp(o->name[i].p, "peer", 4) == 0) peer = o->value[i];
  }
  return sub.n > 0 ? sub : peer;
}

/* ---- columns ---- */

static void put(knhk_columns *c, uint32_t column, const uint8_t *p, size_t n) {
  knhk_text_column *t = &c->text[column];
  const int32_t at = t->offsets[c->nrows];
  if (n > 0) memcpy(t->data + at, p, n);
  t->offsets[c->nrows + 1] = at + (int32_t)n;
  if (t->valid != NULL) t->valid[c->nrows] = 1;
}

static void put_hex(knhk_columns *c, uint32_t column, const uint8_t *p, size_t n) {
  static const char digits[] = "0123456789abcdef";
  knhk_text_column *t = &c->text[column];
  const int32_t at = t->offsets[c->nrows];
  for (size_t i = 0; i < n; i++) {
    t->data[(size_t)at + 2 * i] = (uint8_t)digits[p[i] >> 4];
    t->data[(size_t)at + 2 * i + 1] = (uint8_t)digits[p[i] & 15];
  }
  t->offsets[c->nrows + 1] = at + 2 * (int32_t)n;
  if (t->valid != NULL) t->valid[c->nrows] = 1;
}

static void put_null(knhk_columns *c, uint32_t column) {
  knhk_text_column *t = &c->text[column];
  t->offsets[c->nrows + 1] = t->offsets[c->nrows];
  t->valid[c->nrows] = 0;
}

static size_t unless_zeros(const uint8_t *p, size_t n) { return zeros(p, n) ? 0 : n; }

static void put_observed(knhk_columns *c, const record *r, const knhk_observation *o) {
  static const uint32_t of_o[] = {KNHK_COLUMN_ROUTE, KNHK_COLUMN_ACTOR, KNHK_COLUMN_BUNDLE, KNHK_COLUMN_EVALUATOR, KNHK_COLUMN_SALT};
  if (o == NULL) {
    for (uint32_t i = 0; i < sizeof of_o / sizeof *of_o; i++) put_null(c, of_o[i]);
  } else {
    const knhk_text actor = actor_of(o);
    const uint8_t *digests = o->route.p + o->route.n;
    put(c, KNHK_COLUMN_ROUTE, o->route.p, o->route.n);
    if (actor.p == NULL) put_null(c, KNHK_COLUMN_ACTOR);
    else put(c, KNHK_COLUMN_ACTOR, actor.p, actor.n);
    put_hex(c, KNHK_COLUMN_BUNDLE, digests, unless_zeros(digests, 32));
    put_hex(c, KNHK_COLUMN_EVALUATOR, digests + 32, unless_zeros(digests + 32, 32));
    put(c, KNHK_COLUMN_SALT, r->head + SALT_AT, KNHK_SALT_SIZE);
  }
  if (r->flags == ERASED) put_null(c, KNHK_COLUMN_OBSERVATION);
  else put(c, KNHK_COLUMN_OBSERVATION, r->o.p, r->o.n);
  if (r->flags == SEALED && !zeros(r->o.p + TAG_AT, TAG)) put_hex(c, KNHK_COLUMN_SUBJECT, r->o.p + TAG_AT, TAG);
  else put_null(c, KNHK_COLUMN_SUBJECT);
  put_hex(c, KNHK_COLUMN_KEY, r->head + 4, r->flags == ERASED ? 0 : 8);
}

static void put_action(knhk_columns *c, const record *r, knhk_text a) {
  const uint32_t row = c->nrows;
  int32_t at = c->failing_offsets[row];
  c->judged[row] = r->flags != ERASED && a.n > 0;
  c->guards[row] = 0;
  if (c->judged[row]) {
    c->guards[row] = (int32_t)big(a.p + 6, 2);
    for (int32_t i = 0; i < c->guards[row]; i++)
      if ((a.p[8 + i / 8] >> (i % 8) & 1) != 0) c->failing[at++] = i;
    put(c, KNHK_COLUMN_ACTION, a.p, a.n);
  } else {
    put_null(c, KNHK_COLUMN_ACTION);
  }
  c->failing_offsets[row + 1] = at;
}

static void put_leaf(knhk_columns *c, const record *r, const uint8_t *leaf) {
  const uint32_t row = c->nrows;
  const uint64_t time = big(leaf + 92, 8), told = time < LAST_NS ? time : LAST_NS;
  uint8_t digest[32];
  c->time_us[row] = (int64_t)(time / 1000);
  c->time_ns[row] = (int64_t)told;
  c->slot[row] = (int64_t)(big(leaf + 6, 2) << 32 | told / HOUR_NS);
  c->kind[row] = leaf[1];
  c->klass[row] = leaf[2];
  c->verdict[row] = leaf[3];
  c->mode[row] = leaf[4];
  c->flags[row] = (uint8_t)(leaf[5] | (r->flags == SEALED ? KNHK_ROW_SEALED : r->flags == ERASED ? KNHK_ROW_ERASED : 0));
  put_hex(c, KNHK_COLUMN_RECEIPT, leaf + 100, 16);
  put_hex(c, KNHK_COLUMN_PACK, leaf + 72, unless_zeros(leaf + 72, 20));
  put(c, KNHK_COLUMN_LEAF, leaf, KNHK_LEAF_SIZE);
  put_key(c->keys + (size_t)row * KNHK_KEY_SIZE, leaf);
  knhk_sha256(leaf, KNHK_LEAF_SIZE, leaf, 0, digest);
  memcpy(c->digests + (size_t)row * KNHK_DIGEST_SIZE, digest, KNHK_DIGEST_SIZE);
}

/* 1 when O and A are what the leaf commits to. h_o: of the record's O. */
static int commits(const record *r, const uint8_t *leaf, const uint8_t h_o[32], knhk_text a) {
  uint8_t h_a[32] = {0};
  if (leaf[1] == DECISION) knhk_hash_action(r->head + SALT_AT, a.p, a.n, h_a);
  return memcmp(leaf + 8, h_o, 32) == 0 && memcmp(leaf + 40, h_a, 32) == 0;
}

/* 0 when a part is not as its page says: no row was added then. */
static int put_record(knhk_columns *c, const record *r, int64_t at) {
  knhk_observation seen;
  uint8_t h_o[32];
  if (r->flags == 0 && knhk_observe(r->o.p, r->o.n, &seen) != KNHK_OK) return 0;
  if (r->flags == SEALED && (r->o.n < ENVELOPE_LEAST || memcmp(r->o.p, "KNE1", 4) != 0)) return 0;
  for (uint32_t i = 0; i < r->arms; i++)
    if (!is_leaf(r->leaves + (size_t)i * KNHK_LEAF_SIZE) || (r->flags != ERASED && r->a[i].n > 0 && !is_action(r->a[i]))) return 0;
  if (r->flags == 0) knhk_hash_observation(r->head + SALT_AT, r->o.p, r->o.n, h_o);
  for (uint32_t i = 0; i < r->arms; i++, c->nrows++) {
    const uint8_t *leaf = r->leaves + (size_t)i * KNHK_LEAF_SIZE;
    put_leaf(c, r, leaf);
    put_observed(c, r, r->flags == 0 ? &seen : NULL);
    put_action(c, r, r->a[i]);
    c->at[c->nrows] = at;
    c->holds[c->nrows] = r->flags != 0 || commits(r, leaf, h_o, r->a[i]);
  }
  return 1;
}

void knhk_records_columns(const uint8_t *data, const uint32_t *starts, uint32_t nrecords, knhk_columns *c) {
  c->nrows = c->nrefused = 0;
  c->failing_offsets[0] = 0;
  for (uint32_t i = 0; i < KNHK_COLUMNS; i++) c->text[i].offsets[0] = 0;
  for (uint32_t i = 0; i < nrecords; i++) {
    record r;
    const int is_record = parse_record(data + starts[i] + 8, starts[i + 1] - starts[i] - 8, &r);
    if (!is_record || !put_record(c, &r, starts[i])) c->refused[c->nrefused++] = i;
  }
}

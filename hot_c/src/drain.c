/* drain.c: see drain.h. */
#include "drain.h"

#include "crc.h"

#include <dlfcn.h>
#include <string.h>

#define RECORD_TYPE 1u
#define PAD_TYPE 2u
#define O_MAX (1u << 21) /* body of 1 MiB, 64 attributes of 4 KiB, and room */
#define A_MAX (1u << 17)
#define O_MIN 12u /* magic and time */
#define DECISION 1u
#define PARK 2u
#define OBSERVED 2u
#define CANDIDATE 1u

/* ---- SHA-256 ---- */

typedef struct {
  uint64_t words[32]; /* SHA256_CTX has 112 bytes */
} sha_context;
static int (*openssl_init)(sha_context *);
static int (*openssl_update)(sha_context *, const void *, size_t);
static int (*openssl_final)(unsigned char *, sha_context *);
static knhk_sha256_fn chosen;

static void by_openssl(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]) {
  sha_context c;
  openssl_init(&c);
  openssl_update(&c, head, head_len);
  openssl_update(&c, body, body_len);
  openssl_final(digest, &c);
}

static void *symbol(void *library, const char *name) { return library == NULL ? NULL : dlsym(library, name); }

int knhk_use_openssl(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* stays open: the functions are used until the process ends */
  void *init = symbol(library, "SHA256_Init"), *update = symbol(library, "SHA256_Update"), *final = symbol(library, "SHA256_Final");
  if (init == NULL || update == NULL || final == NULL) {
    if (library != NULL) dlclose(library);
    return 0;
  }
  memcpy(&openssl_init, &init, sizeof init); /* ISO C has no conversion between pointers to objects and to functions */
  memcpy(&openssl_update, &update, sizeof update);
  memcpy(&openssl_final, &final, sizeof final);
  chosen = by_openssl;
  return 1;
}

void knhk_use_sha256(knhk_sha256_fn fn) { chosen = fn; }

void knhk_sha256(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]) {
  chosen(head, head_len, body, body_len, digest);
}

void knhk_hash_rows(uint8_t prefix, const uint8_t *rows, size_t row_len, size_t n, uint8_t *out) {
  for (size_t i = 0; i < n; i++) knhk_sha256(&prefix, 1, rows + i * row_len, row_len, out + 32 * i);
}

uint32_t knhk_frame_crc(const uint8_t length[4], const uint8_t *payload, size_t n) { return knhk_crc32(knhk_crc32(0, length, 4), payload, n); }

/* ---- big-endian writing ---- */

static uint8_t *put_number(uint8_t *at, uint64_t x, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i++) at[i] = (uint8_t)(x >> (8 * (bytes - 1 - i)));
  return at + bytes;
}

static uint8_t *put_bytes(uint8_t *at, const void *from, size_t n) {
  if (n > 0) memcpy(at, from, n);
  return at + n;
}

/* ---- leaves and frames ---- */

static void hash_domain(const char *domain, size_t domain_len, const uint8_t *salt, const uint8_t *body, size_t n, uint8_t digest[32]) {
  uint8_t head[32 + KNHK_SALT_SIZE];
  memcpy(head, domain, domain_len);
  memcpy(head + domain_len, salt, KNHK_SALT_SIZE);
  knhk_sha256(head, domain_len + KNHK_SALT_SIZE, body, n, digest);
}
#define HASH(domain, salt, body, n, digest) hash_domain(domain, sizeof(domain) - 1, salt, body, n, digest)

void knhk_hash_observation(const uint8_t *salt, const uint8_t *o, size_t n, uint8_t digest[32]) { HASH("knhk.dev/o/v1\n", salt, o, n, digest); }
void knhk_hash_action(const uint8_t *salt, const uint8_t *a, size_t n, uint8_t digest[32]) { HASH("knhk.dev/a/v1\n", salt, a, n, digest); }

/* `o` and `a` are the copies inside the frame. */
static void put_leaf(uint8_t *at, const knhk_record *r, uint32_t arm, const uint8_t *salt, const uint8_t h_o[32], const uint8_t *time, const uint8_t *a) {
  const knhk_drained_arm *x = &r->arm[arm];
  uint8_t *p = at;
  *p++ = 1;
  *p++ = x->kind;
  *p++ = x->klass;
  *p++ = x->verdict;
  *p++ = x->mode;
  *p++ = x->flags;
  p = put_number(p, r->region, 2);
  p = put_bytes(p, h_o, 32);
  if (x->kind == DECISION) knhk_hash_action(salt, a, x->a_len, p);
  else memset(p, 0, 32);
  p = put_bytes(p + 32, x->pack, 20);
  p = put_bytes(p, time, 8);
  p = put_bytes(p, r->receipt, 16);
  put_number(p, 0, 2);
}

/* {key, length, leaf} of formats/log.md. */
static void put_entry(uint8_t *at, const uint8_t receipt[16], uint8_t candidate, const uint8_t leaf[KNHK_LEAF_SIZE]) {
  at = put_bytes(at, receipt, 16);
  *at++ = candidate;
  put_bytes(put_number(at, KNHK_LEAF_SIZE, 2), leaf, KNHK_LEAF_SIZE);
}

size_t knhk_encode(const knhk_record *r, const uint8_t *salt, uint8_t *frame, size_t cap, uint8_t *leaves, uint8_t *entries) {
  size_t payload = 28 + (size_t)r->arms * KNHK_LEAF_SIZE + 4 + r->o_len;
  for (uint32_t i = 0; i < r->arms; i++) payload += 4 + (size_t)r->arm[i].a_len;
  if (cap < payload + 8) return 0;
  uint8_t *p = frame + 8;
  *p++ = 1;
  *p++ = (uint8_t)r->arms;
  p = put_number(p, 0, 2);
  p = put_number(p, r->cluster, 8);
  p = put_bytes(p, salt, KNHK_SALT_SIZE);
  uint8_t *leaf = p;
  p = put_number(p + (size_t)r->arms * KNHK_LEAF_SIZE, r->o_len, 4);
  const uint8_t *o = p;
  p = put_bytes(p, r->o, r->o_len);
  uint8_t h_o[32];
  knhk_hash_observation(salt, o, r->o_len, h_o);
  for (uint32_t i = 0; i < r->arms; i++, leaf += KNHK_LEAF_SIZE) {
    p = put_number(p, r->arm[i].a_len, 4);
    const uint8_t *a = p;
    p = put_bytes(p, r->a[i], r->arm[i].a_len);
    put_leaf(leaf, r, i, salt, h_o, o + 4, a);
    memcpy(leaves + (size_t)i * KNHK_LEAF_SIZE, leaf, KNHK_LEAF_SIZE);
    put_entry(entries + (size_t)i * KNHK_ENTRY_SIZE, r->receipt, r->arm[i].flags & 1, leaf);
  }
  put_number(frame, payload, 4);
  put_number(frame + 4, knhk_frame_crc(frame, frame + 8, payload), 4);
  return payload + 8;
}

static uint64_t big_number_at(const uint8_t *p, uint32_t bytes) {
  uint64_t x = 0;
  for (uint32_t i = 0; i < bytes; i++) x = x << 8 | p[i];
  return x;
}

size_t knhk_whole_frames(const uint8_t *data, size_t n, size_t *sound) {
  size_t at = 0;
  int is_sound = 1;
  for (*sound = 0; n - at >= 8;) {
    const size_t size = (size_t)big_number_at(data + at, 4);
    if (size == 0 || n - at - 8 < size) break;
    is_sound = is_sound && knhk_frame_crc(data + at, data + at + 8, size) == big_number_at(data + at + 4, 4);
    at += 8 + size;
    if (is_sound) *sound = at;
  }
  return at;
}

size_t knhk_entries_of_frames(const uint8_t *data, size_t n, uint8_t *entries, size_t cap) {
  size_t count = 0;
  for (size_t at = 0; at < n;) {
    const size_t size = n - at < 8 ? 0 : (size_t)big_number_at(data + at, 4);
    if (size < 28 || n - at - 8 < size) return KNHK_NO_ENTRIES;
    const uint8_t *payload = data + at + 8, *leaf = payload + 28;
    if (size < 28 + (size_t)payload[1] * KNHK_LEAF_SIZE) return KNHK_NO_ENTRIES;
    for (size_t i = 0; i < payload[1]; i++, leaf += KNHK_LEAF_SIZE, count++)
      if (count < cap) put_entry(entries + count * KNHK_ENTRY_SIZE, leaf + 100, leaf[5] & 1, leaf);
    at += 8 + size;
  }
  return count;
}

/* ---- ring ---- */

static uint64_t load(const uint8_t *at) { return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE); }

uint64_t knhk_ring_load(const uint8_t *ring, size_t offset) { return load(ring + offset); }

void knhk_ring_store(uint8_t *ring, size_t offset, uint64_t value) {
  __atomic_store_n((uint64_t *)(void *)(ring + offset), value, __ATOMIC_RELEASE);
}

#define HEAD 128
#define ASLEEP 336
#define TAIL 192

/* tail: as it was read once; the word in the ring may be another by now. */
static int64_t pending_after(const uint8_t *ring, size_t ring_len, uint64_t tail) {
  const uint64_t head = load(ring + HEAD), capacity = ring_len - KNHK_RING_HEADER;
  if (head < tail || head - tail > capacity || ((head | tail) & 63) != 0) return KNHK_RING_BAD_HEAD;
  return (int64_t)(head - tail);
}

int64_t knhk_ring_pending(const uint8_t *ring, size_t ring_len) { return pending_after(ring, ring_len, load(ring + TAIL)); }

int64_t knhk_ring_sleep(uint8_t *ring, size_t ring_len) {
  knhk_ring_store(ring, ASLEEP, 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return knhk_ring_pending(ring, ring_len);
}

typedef struct {
  knhk_record record;
  knhk_drained_arm arm[2];
  uint32_t length, type;
  uint64_t size; /* header, O and A */
  int aside;
} parsed;

static uint64_t number_at(const uint8_t *p, uint32_t bytes) {
  uint64_t x = 0;
  memcpy(&x, p, bytes);
  return x;
}

static int parse_arm(const uint8_t *at, knhk_drained_arm *arm) {
  memset(arm, 0, sizeof *arm);
  memcpy(arm->pack, at, 20);
  arm->kind = at[20];
  arm->klass = at[21];
  arm->verdict = at[22];
  arm->mode = at[23];
  arm->flags = at[24];
  arm->a_len = (uint32_t)number_at(at + 28, 4);
  arm->duration_ns = (uint32_t)number_at(at + 32, 4);
  return arm->kind >= 1 && arm->kind <= 4 && arm->klass <= 3 && arm->verdict <= 2 && (arm->mode == 1 || arm->mode == 2) && arm->a_len <= A_MAX &&
         number_at(at + 25, 3) == 0;
}

/* header: a copy of the record's first 128 bytes. */
static int32_t parse(const uint8_t header[KNHK_RECORD_HEADER], const uint8_t *shared, uint64_t room, parsed *out) {
  out->length = (uint32_t)number_at(header + 8, 4);
  out->type = (uint32_t)number_at(header + 12, 4);
  if (out->length == 0 || out->length % 64 != 0 || out->length > room) return KNHK_RING_BAD_LENGTH;
  if (out->type == PAD_TYPE) return 0;
  if (out->type != RECORD_TYPE) return KNHK_RING_BAD_RECORD;
  if (out->length < KNHK_RECORD_HEADER) return KNHK_RING_BAD_LENGTH;
  knhk_record *r = &out->record;
  r->arms = header[54];
  r->o_len = number_at(header + 48, 4);
  r->region = (uint16_t)number_at(header + 52, 2);
  r->cluster = number_at(header + 40, 8);
  r->receipt = header + 16;
  r->arm = out->arm;
  r->o = shared + KNHK_RECORD_HEADER;
  if (r->arms < 1 || r->arms > 2 || header[55] != 0 || r->o_len < O_MIN || r->o_len > O_MAX) return KNHK_RING_BAD_RECORD;
  out->size = KNHK_RECORD_HEADER + r->o_len;
  out->aside = 0;
  for (uint32_t i = 0; i < r->arms; i++) {
    if (!parse_arm(header + 56 + 36 * (size_t)i, &out->arm[i])) return KNHK_RING_BAD_RECORD;
    r->a[i] = shared + out->size;
    out->size += out->arm[i].a_len;
    out->aside |= out->arm[i].kind == PARK && out->arm[i].mode == OBSERVED;
  }
  return out->size <= out->length ? 0 : KNHK_RING_BAD_LENGTH;
}

static int set_aside(knhk_drained *d, const uint8_t *header, const parsed *p) {
  const size_t size = (size_t)(p->size + 7) & ~(size_t)7;
  if (d->aside_cap - d->aside_len < size) return 0;
  uint8_t *at = d->aside + d->aside_len;
  memcpy(at, header, KNHK_RECORD_HEADER);
  memcpy(at + KNHK_RECORD_HEADER, p->record.o, (size_t)p->size - KNHK_RECORD_HEADER);
  memset(at + p->size, 0, size - (size_t)p->size);
  d->aside_len += size;
  d->naside++;
  return 1;
}

/* 0 when there are more kinds of decisions than fit: the batch ends before this record. */
static int count_arm(knhk_drained *d, const knhk_drained_arm *x) {
  for (uint32_t i = 0; i < d->ncounts; i++) {
    knhk_drained_count *c = &d->counts[i];
    if (c->kind == x->kind && c->klass == x->klass && c->verdict == x->verdict && memcmp(c->pack, x->pack, 20) == 0) {
      c->n++;
      return 1;
    }
  }
  if (d->ncounts == KNHK_COUNTS_MAX) return 0;
  knhk_drained_count *c = &d->counts[d->ncounts++];
  memcpy(c->pack, x->pack, 20);
  c->kind = x->kind;
  c->klass = x->klass;
  c->verdict = x->verdict;
  c->pad = 0;
  c->n = 1;
  return 1;
}

uint32_t knhk_latency_bucket(uint32_t duration_ns) {
  if (duration_ns < 4) return duration_ns;
  const uint32_t octave = 31u - (uint32_t)__builtin_clz(duration_ns);
  return 4 * (octave - 1) + ((duration_ns >> (octave - 2)) & 3);
}

static knhk_drained_latency *latency_of(knhk_drained *d, const uint8_t stable[20], const uint8_t candidate[20]) {
  for (uint32_t i = 0; i < d->nlatencies; i++) {
    knhk_drained_latency *l = &d->latencies[i];
    if (memcmp(l->pack[0], stable, 20) == 0 && memcmp(l->pack[1], candidate, 20) == 0) return l;
  }
  if (d->nlatencies == KNHK_LATENCIES_MAX) return NULL;
  knhk_drained_latency *l = &d->latencies[d->nlatencies++];
  memset(l, 0, sizeof *l);
  memcpy(l->pack[0], stable, 20);
  memcpy(l->pack[1], candidate, 20);
  return l;
}

/* 0 when there are more pairs than fit: the batch ends before this record. */
static int time_arms(knhk_drained *d, const parsed *p) {
  const knhk_drained_arm *x = p->arm, *y = p->arm + 1;
  if (p->record.arms != 2 || x->kind != DECISION || y->kind != DECISION || x->duration_ns == 0 || y->duration_ns == 0) return 1;
  if ((x->flags & CANDIDATE) != 0) {
    x = p->arm + 1;
    y = p->arm;
  }
  knhk_drained_latency *l = latency_of(d, x->pack, y->pack);
  if (l == NULL) return 0;
  l->n[0][knhk_latency_bucket(x->duration_ns)]++;
  l->n[1][knhk_latency_bucket(y->duration_ns)]++;
  return 1;
}

static void summarise(knhk_drained *d, const parsed *p, size_t frame_len) {
  knhk_drained_record *s = &d->records[d->nrecords];
  memset(s, 0, sizeof *s);
  memcpy(s->receipt, p->record.receipt, 16);
  s->cluster = p->record.cluster;
  s->frame_at = d->frames_len;
  s->frame_len = (uint32_t)frame_len;
  s->o_len = (uint32_t)p->record.o_len;
  s->arms = p->record.arms;
  uint64_t at = d->frames_len + 8 + 28 + (uint64_t)p->record.arms * KNHK_LEAF_SIZE + 4 + p->record.o_len;
  for (uint32_t i = 0; i < s->arms; i++) {
    s->arm[i] = p->arm[i];
    s->arm[i].a_at = at + 4;
    at += 4 + (uint64_t)p->arm[i].a_len;
  }
  /* A of packs with other guards always differs: what is judged is the verdict (formats/agent.md) */
  s->discordant = s->arms == 2 && s->arm[0].kind == DECISION && s->arm[1].kind == DECISION && s->arm[0].verdict != s->arm[1].verdict;
  d->ndiscordant += s->discordant;
}

/* 1 when the record was taken, 0 when a buffer is full. */
static int take(knhk_drained *d, const uint8_t *header, const parsed *p) {
  if (p->aside) return set_aside(d, header, p);
  if (d->nrecords == d->records_cap || d->ncounts + p->record.arms > KNHK_COUNTS_MAX) return 0;
  const size_t n = knhk_encode(&p->record, d->salts + (size_t)d->nrecords * KNHK_SALT_SIZE, d->frames + d->frames_len, d->frames_cap - d->frames_len,
                               d->leaves + (size_t)d->nleaves * KNHK_LEAF_SIZE, d->entries + (size_t)d->nleaves * KNHK_ENTRY_SIZE);
  if (n == 0 || !time_arms(d, p)) return 0;
  summarise(d, p, n);
  for (uint32_t i = 0; i < p->record.arms; i++) count_arm(d, &p->arm[i]);
  d->frames_len += n;
  d->nrecords++;
  d->nleaves += p->record.arms;
  return 1;
}

int32_t knhk_ring_drain(const uint8_t *ring, size_t ring_len, uint64_t max_bytes, knhk_drained *d) {
  const uint64_t capacity = ring_len - KNHK_RING_HEADER, tail = load(ring + TAIL);
  const int64_t pending = pending_after(ring, ring_len, tail);
  d->frames_len = d->aside_len = 0;
  d->nrecords = d->nleaves = d->naside = d->ncounts = d->ndiscordant = d->nlatencies = 0;
  d->new_tail = d->bad_at = tail;
  if (pending < 0) return KNHK_RING_BAD_HEAD;
  const uint64_t head = tail + (uint64_t)pending;
  while (d->new_tail < head && (d->new_tail == tail || d->new_tail - tail < max_bytes)) {
    const uint64_t at = d->new_tail & (capacity - 1);
    const uint64_t to_end = capacity - at, to_head = head - d->new_tail, room = to_end < to_head ? to_end : to_head;
    const uint8_t *shared = ring + KNHK_RING_HEADER + at;
    uint8_t header[KNHK_RECORD_HEADER];
    parsed p;
    d->bad_at = d->new_tail;
    if (load(shared) != d->new_tail + 1) return KNHK_RING_BAD_COMMIT;
    memset(header, 0, sizeof header);
    memcpy(header, shared, room < sizeof header ? (size_t)room : sizeof header);
    const int32_t bad = parse(header, shared, room, &p);
    if (bad != 0) return bad;
    if (p.type == RECORD_TYPE && !take(d, header, &p)) return 0;
    d->new_tail += p.length;
  }
  return 0;
}

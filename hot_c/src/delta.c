/* delta.c: the Δ of one input: its strings and nodes by open addressing, its triples sorted, distinct, in chunks of 8 lanes. */
#define KNHK_BUILDING_PACK
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

/* ---- strings and nodes ---- */

uint32_t knhk_bits_for(uint32_t n) {
  return n <= 32 ? 6 : 64 - (uint32_t)__builtin_clzll(2 * (uint64_t)n - 1);
}

static uint32_t mix32(uint64_t x) {
  x *= 0x9e3779b97f4a7c15ull;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ull;
  return (uint32_t)(x >> 32);
}

static void grow_locals(knhk_delta *d) {
  d->local_bits += 2;
  if (d->local_bits > d->local_bits_max) d->local_bits = d->local_bits_max;
  memset(d->local_slots, 0, (size_t)4 << d->local_bits);
  const uint32_t mask = (1u << d->local_bits) - 1;
  for (uint32_t i = 0; i < d->nlocal; i++) {
    uint32_t at = (uint32_t)d->local[i].hash & mask;
    while (d->local_slots[at] != 0) at = (at + 1) & mask;
    d->local_slots[at] = i + 1;
  }
}

uint32_t knhk_intern(knhk_delta *d, knhk_text s, int *is_new) {
  const uint64_t h = knhk_hash(s, T->seed);
  *is_new = 0;
  const uint32_t pack = knhk_pack_find(s, h);
  if (pack != KNHK_NONE) return pack;
  const uint32_t bundle = knhk_bundle_may_have(d->binding, h) ? knhk_bundle_find(d->binding, s) : KNHK_NONE;
  if (bundle != KNHK_NONE) return d->binding->id_of[bundle];
  uint32_t mask = (1u << d->local_bits) - 1, at = (uint32_t)h & mask;
  for (uint32_t probes = 0; d->local_slots[at] != 0; at = (at + 1) & mask) {
    const knhk_local *l = &d->local[d->local_slots[at] - 1];
    if (l->hash == h && knhk_same(l->s, s)) return d->base + d->local_slots[at] - 1;
    if (++probes == KNHK_PROBES_MAX) {
      d->over = 1;
      return KNHK_S_EMPTY;
    }
  }
  if (d->nlocal == d->local_cap) {
    d->over = 1;
    return KNHK_S_EMPTY;
  }
  d->local[d->nlocal].s = s;
  d->local[d->nlocal].hash = h;
  d->local_slots[at] = ++d->nlocal;
  *is_new = 1;
  if (2 * d->nlocal >= mask && d->local_bits < d->local_bits_max) grow_locals(d);
  return d->base + d->nlocal - 1;
}

int knhk_text_room(knhk_delta *d, size_t n) {
  if ((size_t)(d->text_end - d->text) >= n) return 1;
  d->over = 1;
  return 0;
}

static void grow_nodes(knhk_delta *d) {
  d->node_bits += 2;
  if (d->node_bits > d->node_bits_max) d->node_bits = d->node_bits_max;
  memset(d->node_slots, 0, (size_t)4 << d->node_bits);
  const uint32_t mask = (1u << d->node_bits) - 1;
  for (uint32_t i = 0; i < d->nnode; i++) {
    uint32_t at = mix32(d->node[i].term) & mask;
    while (d->node_slots[at] != 0) at = (at + 1) & mask;
    d->node_slots[at] = i + 1;
  }
}

uint32_t knhk_node_of(knhk_delta *d, uint64_t term, uint64_t val, uint64_t meta) {
  const uint32_t mask = (1u << d->node_bits) - 1;
  uint32_t at = mix32(term) & mask;
  for (uint32_t probes = 0; d->node_slots[at] != 0; at = (at + 1) & mask) {
    if (d->node[d->node_slots[at] - 1].term == term) return d->node_slots[at] - 1;
    if (++probes == KNHK_PROBES_MAX) {
      d->over = 1;
      return 0;
    }
  }
  if (d->nnode == d->node_cap) {
    d->over = 1;
    return 0;
  }
  knhk_node *n = &d->node[d->nnode];
  n->term = term;
  n->val = val;
  n->meta = meta;
  n->first = n->count = n->nchunk = 0;
  n->chunk = KNHK_NONE;
  d->node_slots[at] = ++d->nnode;
  if (2 * d->nnode >= mask && d->node_bits < d->node_bits_max) grow_nodes(d);
  return d->nnode - 1;
}

/* ---- sorted, distinct, in chunks ---- */

static void sort_few(knhk_triple *t, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    const knhk_triple x = t[i];
    uint32_t j = i;
    for (; j > 0 && knhk_before(&x, &t[j - 1]); j--) t[j] = t[j - 1];
    t[j] = x;
  }
}

static void merge(const knhk_triple *a, uint32_t na, const knhk_triple *b, uint32_t nb, knhk_triple *out) {
  while (na > 0 && nb > 0) {
    if (knhk_before(b, a)) {
      *out++ = *b++;
      nb--;
    } else {
      *out++ = *a++;
      na--;
    }
  }
  memcpy(out, a, na * sizeof *a);
  memcpy(out + na, b, nb * sizeof *b);
}

#define RUN 16u
void knhk_sort_rows(knhk_triple **rows, knhk_triple **spare, uint32_t n) {
  for (uint32_t i = 0; i < n; i += RUN) sort_few(*rows + i, knhk_umin(RUN, n - i));
  for (uint32_t width = RUN; width < n; width *= 2) {
    for (uint32_t i = 0; i < n; i += 2 * width) {
      const uint32_t na = knhk_umin(width, n - i), nb = n - i - na < width ? n - i - na : width;
      merge(*rows + i, na, *rows + i + na, nb, *spare + i);
    }
    knhk_triple *t = *rows;
    *rows = *spare;
    *spare = t;
  }
}

static void drop_equal(knhk_delta *d) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < d->ntriple; i++)
    if (n == 0 || knhk_before(&d->triple[n - 1], &d->triple[i])) d->triple[n++] = d->triple[i];
  d->ntriple = n;
}

static knhk_chunk *new_chunk(knhk_delta *d) {
  knhk_chunk *c = &d->chunk[d->nchunk++];
  memset(c, 0, sizeof *c);
  return c;
}

/* A run of up to 8 stays in one chunk; a longer one begins a chunk. chunks ≤ triples, for each chunk begins with a triple of its own. */
void knhk_cut_chunks(knhk_delta *d, uint32_t node) {
  knhk_node *n = &d->node[node];
  const uint32_t end = n->first + n->count;
  uint32_t lane = 8;
  knhk_chunk *c = NULL;
  n->chunk = d->nchunk;
  for (uint32_t i = n->first; i < end;) {
    uint32_t run = 1;
    while (i + run < end && d->triple[i + run].key == d->triple[i].key) run++;
    if (lane + run > 8) lane = 8;
    for (; run > 0; run--, i++) {
      if (lane == 8) {
        c = new_chunk(d);
        n->nchunk++;
        lane = 0;
      }
      c->key[lane] = d->triple[i].key;
      c->obj[lane] = d->triple[i].obj;
      c->val[lane] = d->triple[i].val;
      c->meta[lane] = d->triple[i].meta;
      lane++;
    }
  }
}

static void find_nodes(knhk_delta *d) {
  for (uint32_t i = 0; i < d->ntriple;) {
    const uint32_t subject = (uint32_t)(d->triple[i].key >> 32), first = i;
    while (i < d->ntriple && d->triple[i].key >> 32 == subject) i++;
    d->node[subject].first = first;
    d->node[subject].count = i - first;
  }
}

void knhk_end_delta(knhk_delta *d) {
  if (d->unordered) {
    knhk_sort_rows(&d->triple, &d->spare, d->ntriple);
    drop_equal(d);
  }
  find_nodes(d);
}

int knhk_is_reserved(const knhk_delta *d, uint32_t node) {
  if (node >= T->nfixed) return 0;
  if (node < 2) return 1; /* request and caller come first */
  return d->binding->bundle != NULL && knhk_bundle_subject(d->binding, knhk_string(d, (uint32_t)d->node[node].term)) != KNHK_NONE;
}

void knhk_begin_delta(knhk_delta *d) {
  d->base = T->nstrings + d->binding->nstr;
  d->text = d->texts;
  d->nlocal = d->nnode = d->ntriple = d->nchunk = d->over = d->inexact = d->unordered = 0;
  d->local_bits = d->node_bits = 6;
  memset(d->local_slots, 0, (size_t)4 << 6);
  memset(d->node_slots, 0, (size_t)4 << 6);
  d->fault.code = KNHK_FAULT_NONE;
  d->fault.depth = 0;
  d->fault.at = 0;
  for (uint32_t i = 0; i < T->nfixed; i++) {
    knhk_node_of(d, T->fixed[3 * i], T->fixed[3 * i + 1], T->fixed[3 * i + 2]);
    d->inexact |= (uint32_t)(T->fixed[3 * i + 1] >> 63);
  }
}

/* ---- heat ---- */

const char *knhk_heat_predicate(uint32_t i, size_t *len) {
  const knhk_text t = knhk_pack_string(T->heat_ids[i]);
  *len = t.n;
  return (const char *)t.p;
}

/* Counters belong to one writer; relaxed stores let others read them meanwhile. */
void knhk_count_heat(const void *scratch, uint64_t *counts, uint32_t n) {
  const knhk_delta *d = scratch;
  for (uint32_t i = 0; i < d->ntriple; i++) {
    const uint32_t p = (uint32_t)d->triple[i].key, number = p < T->nstrings ? T->heat_of[p] : 0u;
    if (number - 1 < n) __atomic_store_n(&counts[number - 1], counts[number - 1] + 1, __ATOMIC_RELAXED);
  }
}

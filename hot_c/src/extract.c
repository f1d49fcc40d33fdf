/* extract.c: O → Δ. Strict JSON by yyjson in the caller's scratch, one walk over the document by the mapping's state table, triples
 * of request and bundle, then sorted, distinct, in chunks of 8 lanes (formats/guardplan.md). All memory is scratch. */
#define KNHK_BUILDING_PACK
#include "engine.h"
#include "yyjson.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define PROBES_MAX 256u /* beyond: an adversary, or a table that is not worth its time; the tier below decides */
#define READ_FLAGS YYJSON_READ_NUMBER_AS_RAW

/* ---- scratch ---- */

typedef struct {
  yyjson_val *value;
  uint32_t next;
} capture;
typedef struct {
  uint32_t node, next;
} made;

typedef struct {
  knhk_delta *d;
  const knhk_mapping *mapping;
  yyjson_val *root;
  uint32_t *members; /* hash table for objects with many members; the memory of gather */
  uint32_t *slot_head, *slot_tail; /* captures + 1; for children: made + 1 at the item's start */
  uint32_t *made_head, *items, *subject; /* per map */
  capture *captures;
  made *mades;
  uint32_t ncapture, capture_cap, nmade, made_cap;
} walker;

typedef struct {
  uint32_t triples, nodes, locals, local_bits, node_bits;
  size_t text, json, gather;
} limits;

static uint32_t bits_for(uint32_t n) {
  uint32_t bits = 6;
  while (((uint64_t)1 << bits) < 2 * (uint64_t)n) bits++;
  return bits;
}

static limits limits_of(size_t o_len) {
  const uint32_t n = o_len < (1u << 17) ? (uint32_t)o_len : 1u << 17;
  limits l;
  l.triples = 4096 + n;
  l.nodes = T->nfixed + 64 + n / 2;
  l.locals = l.triples + l.nodes;
  l.local_bits = bits_for(l.locals);
  l.node_bits = bits_for(l.nodes);
  l.text = 3 * o_len + 32768;
  l.json = yyjson_read_max_memory_usage(o_len, READ_FLAGS) + 1024;
  l.gather = l.triples > o_len / 2 + 64 ? l.triples : o_len / 2 + 64;
  return l;
}

/* Takes n bytes of scratch on a 64-byte boundary; counts when there is none. */
static void *room(size_t *used, uint8_t *base, size_t n) {
  void *at = base == NULL ? NULL : base + *used;
  *used += (n + 63) & ~(size_t)63;
  return at;
}

static size_t lay_out(uint8_t *base, size_t o_len, knhk_delta **delta, walker *w, void **json, size_t *json_len) {
  const limits l = limits_of(o_len);
  size_t used = 0;
  knhk_delta *d = room(&used, base, sizeof(knhk_delta));
  knhk_delta unused;
  if (d == NULL) d = &unused;
  d->regs = room(&used, base, T->nregs);
  d->failing = room(&used, base, T->nguards);
  w->slot_head = room(&used, base, 4 * (size_t)T->nslots);
  w->slot_tail = room(&used, base, 4 * (size_t)T->nslots);
  w->made_head = room(&used, base, 4 * (size_t)T->nmaps);
  w->items = room(&used, base, 4 * (size_t)T->nmaps);
  w->subject = room(&used, base, 4 * (size_t)T->nmaps);
  d->node = room(&used, base, sizeof(knhk_node) * (size_t)l.nodes);
  d->node_slots = room(&used, base, (size_t)4 << l.node_bits);
  d->triple = room(&used, base, sizeof(knhk_triple) * (size_t)l.triples);
  d->local = room(&used, base, sizeof(knhk_local) * (size_t)l.locals);
  d->local_slots = room(&used, base, (size_t)4 << l.local_bits);
  w->captures = room(&used, base, sizeof(capture) * (size_t)l.triples);
  w->mades = room(&used, base, sizeof(made) * (size_t)l.nodes);
  d->text = room(&used, base, l.text);
  *json = room(&used, base, l.json);
  d->chunk = room(&used, base, sizeof(knhk_chunk) * (size_t)l.triples);
  d->spare = room(&used, base, sizeof(knhk_triple) * (size_t)l.triples);
  d->gather = room(&used, base, 16 * l.gather); /* two halves: values and the sorter's spare */
  d->text_end = base == NULL ? NULL : d->text + l.text;
  d->node_cap = l.nodes;
  d->node_bits_max = l.node_bits;
  d->local_cap = l.locals;
  d->local_bits_max = l.local_bits;
  d->triple_cap = l.triples;
  d->chunk_cap = l.triples;
  w->capture_cap = l.triples;
  w->made_cap = l.nodes;
  *json_len = l.json;
  *delta = d;
  return used;
}

size_t knhk_scratch_size(size_t o_len) {
  knhk_delta *d;
  walker w;
  void *json;
  size_t json_len;
  return lay_out(NULL, o_len, &d, &w, &json, &json_len);
}

/* ---- strings and nodes of this input ---- */

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

/* Id of a string; a new one is kept by reference. */
static uint32_t intern(knhk_delta *d, knhk_text s, int *is_new) {
  const uint64_t h = knhk_hash(s.p, s.n, T->seed);
  *is_new = 0;
  const uint32_t pack = knhk_pack_find(s, h);
  if (pack != KNHK_NONE) return pack;
  const uint32_t bundle = knhk_bundle_find(d->binding, s, h);
  if (bundle != KNHK_NONE) return d->binding->id_of[bundle];
  uint32_t mask = (1u << d->local_bits) - 1, at = (uint32_t)h & mask;
  for (uint32_t probes = 0; d->local_slots[at] != 0; at = (at + 1) & mask) {
    const knhk_local *l = &d->local[d->local_slots[at] - 1];
    if (l->hash == h && knhk_same(l->s, s)) return d->base + d->local_slots[at] - 1;
    if (++probes == PROBES_MAX) {
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

static uint32_t intern_kept(knhk_delta *d, knhk_text s) {
  int is_new;
  return intern(d, s, &is_new);
}

/* Interns n bytes that were written at d->text, and keeps them there if they are new. */
static uint32_t intern_made(knhk_delta *d, uint32_t n) {
  const knhk_text s = {d->text, n};
  int is_new;
  const uint32_t id = intern(d, s, &is_new);
  if (is_new) d->text += n;
  return id;
}

static int has_text_room(knhk_delta *d, size_t n) {
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

static uint32_t node_of(knhk_delta *d, uint64_t term, uint64_t val, uint64_t meta) {
  const uint32_t mask = (1u << d->node_bits) - 1;
  uint32_t at = mix32(term) & mask;
  for (uint32_t probes = 0; d->node_slots[at] != 0; at = (at + 1) & mask) {
    if (d->node[d->node_slots[at] - 1].term == term) return d->node_slots[at] - 1;
    if (++probes == PROBES_MAX) {
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
  n->chunk = n->nchunk = 0;
  d->node_slots[at] = ++d->nnode;
  if (2 * d->nnode >= mask && d->node_bits < d->node_bits_max) grow_nodes(d);
  return d->nnode - 1;
}

static void add(knhk_delta *d, uint32_t node, uint32_t p, uint64_t obj, uint64_t val, uint64_t meta) {
  if (d->ntriple == d->triple_cap) {
    d->over = 1;
    return;
  }
  knhk_triple *t = &d->triple[d->ntriple++];
  t->key = ((uint64_t)node << 32) | p;
  t->obj = obj;
  t->val = val;
  t->meta = meta;
  d->inexact |= (uint32_t)(val >> 63);
}

static void add_term(knhk_delta *d, uint32_t node, uint32_t p, uint32_t kind, uint32_t second, uint32_t id, knhk_text s) {
  uint64_t val, meta;
  const uint64_t obj = knhk_lanes(kind, second, id, s, &val, &meta);
  add(d, node, p, obj, val, meta);
}

static void add_text(knhk_delta *d, uint32_t node, uint32_t p, knhk_text s, uint32_t dt) {
  add_term(d, node, p, KNHK_K_LITERAL, dt, intern_kept(d, s), s);
}

/* ---- triples of request and bundle ---- */

static void two_digits(uint8_t *at, uint64_t x) {
  at[0] = (uint8_t)('0' + x / 10 % 10);
  at[1] = (uint8_t)('0' + x % 10);
}

/* 2026-01-02T03:04:05.000006Z, 27 bytes; days to civil date by H. Hinnant's algorithm */
static void time_text(uint64_t time_ns, uint8_t out[27]) {
  const uint64_t micros = time_ns / 1000, second = micros / 1000000, days = second / 86400 + 719468;
  const uint64_t era = days / 146097, doe = days % 146097;
  const uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
  const uint64_t mp = (5 * doy + 2) / 153, month = mp < 10 ? mp + 3 : mp - 9, year = yoe + era * 400 + (month <= 2);
  memcpy(out, "0000-00-00T00:00:00.000000Z", 27);
  two_digits(out, year / 100);
  two_digits(out + 2, year % 100);
  two_digits(out + 5, month);
  two_digits(out + 8, doy - (153 * mp + 2) / 5 + 1);
  two_digits(out + 11, second % 86400 / 3600);
  two_digits(out + 14, second % 3600 / 60);
  two_digits(out + 17, second % 60);
  two_digits(out + 20, micros % 1000000 / 10000);
  two_digits(out + 22, micros % 10000 / 100);
  two_digits(out + 24, micros % 100);
}

static void add_request(knhk_delta *d) {
  static const char prefix[] = "https://knhk.dev/ns/attr#";
  const knhk_observation *o = &d->obs;
  add_text(d, 0, KNHK_S_REGION, o->region, KNHK_S_XSD + KNHK_D_STRING - 1);
  add_text(d, 0, KNHK_S_ROUTE, o->route, KNHK_S_XSD + KNHK_D_STRING - 1);
  if (!has_text_room(d, 27)) return;
  time_text(o->time_ns, d->text);
  const knhk_text now = {d->text, 27};
  const uint32_t id = intern_made(d, 27);
  add_term(d, 0, KNHK_S_TIME, KNHK_K_LITERAL, KNHK_S_XSD + KNHK_D_DATETIME - 1, id, now);
  for (uint32_t i = 0; i < o->nattr; i++) {
    const uint32_t n = (uint32_t)sizeof prefix - 1;
    if (!has_text_room(d, n + o->name[i].n)) return;
    memcpy(d->text, prefix, n);
    memcpy(d->text + n, o->name[i].p, o->name[i].n);
    const uint32_t p = intern_made(d, n + o->name[i].n);
    add_text(d, 0, p, o->value[i], KNHK_S_XSD + KNHK_D_STRING - 1);
  }
}

static void add_facts(knhk_delta *d, uint32_t node, knhk_text iri) {
  const knhk_binding *b = d->binding;
  const uint32_t s = knhk_bundle_subject(b, iri);
  if (s == KNHK_NONE) return;
  for (uint32_t i = b->fact_of[s]; i < b->fact_of[s + 1]; i++) add(d, node, b->facts[i].p, b->facts[i].obj, b->facts[i].val, b->facts[i].meta);
}

/* The caller's IRI from the bundle's template and attribute `sub`, written at d->text; 0 when there is none. */
static uint32_t caller_iri(knhk_delta *d) {
  const knhk_binding *b = d->binding;
  const knhk_observation *o = &d->obs;
  if (b->bundle == NULL || b->caller == KNHK_NONE) return 0;
  for (uint32_t i = 0; i < o->nattr; i++) {
    if (o->name[i].n != 3 || memcmp(o->name[i].p, "sub", 3) != 0) continue;
    const knhk_text t = knhk_bundle_string(b, b->caller);
    uint32_t hole = 0;
    while (hole + 1 < t.n && !(t.p[hole] == '{' && t.p[hole + 1] == '}')) hole++;
    if (hole + 1 >= t.n || !has_text_room(d, (size_t)t.n + 3 * (size_t)o->value[i].n)) return 0;
    memcpy(d->text, t.p, hole);
    uint32_t n = hole + knhk_percent(o->value[i], d->text + hole);
    memcpy(d->text + n, t.p + hole + 2, t.n - hole - 2);
    return n + t.n - hole - 2;
  }
  return 0;
}

static void add_bundle(knhk_delta *d) {
  const uint32_t n = caller_iri(d);
  if (n > 0) {
    const knhk_text iri = {d->text, n};
    const uint32_t id = intern_made(d, n);
    add_term(d, 0, KNHK_S_CALLER, KNHK_K_IRI, 0, id, iri);
    add_facts(d, 1, iri);
  }
  for (uint32_t i = 2; i < T->nfixed; i++) {
    const uint64_t term = T->fixed[3 * i];
    if (term >> 60 == KNHK_K_IRI) add_facts(d, i, knhk_pack_string((uint32_t)term));
  }
}

/* ---- the document ---- */

static knhk_text value_text(yyjson_val *v) {
  knhk_text t = {(const uint8_t *)"", 0};
  if (yyjson_is_str(v) || yyjson_is_raw(v)) {
    t.p = (const uint8_t *)unsafe_yyjson_get_str(v);
    t.n = (uint32_t)unsafe_yyjson_get_len(v);
  } else if (yyjson_is_bool(v)) {
    const int truth = unsafe_yyjson_get_bool(v);
    t.p = (const uint8_t *)(truth ? "true" : "false");
    t.n = truth ? 4 : 5;
  }
  return t;
}

static void fault(walker *w, uint32_t code, uint32_t depth, knhk_text found) {
  knhk_fault *f = &w->d->fault;
  if (f->code != KNHK_FAULT_NONE) return;
  f->code = code;
  f->depth = depth;
  f->found = found;
}

/* A member name that occurs twice in the object, or NULL. */
static yyjson_val *repeated_few(yyjson_val *object, uint32_t n) {
  knhk_text seen[8];
  size_t i, max;
  yyjson_val *key, *value;
  (void)n;
  yyjson_obj_foreach(object, i, max, key, value) {
    seen[i] = value_text(key);
    for (size_t j = 0; j < i; j++)
      if (knhk_same(seen[j], seen[i])) return key;
  }
  return NULL;
}

static yyjson_val *repeated_many(walker *w, yyjson_val *object, uint32_t n) {
  const uint32_t bits = bits_for(n), mask = (1u << bits) - 1;
  size_t i, max;
  yyjson_val *key, *value;
  memset(w->members, 0, (size_t)4 << bits);
  yyjson_obj_foreach(object, i, max, key, value) {
    const knhk_text name = value_text(key);
    uint32_t at = (uint32_t)knhk_hash(name.p, name.n, T->seed) & mask, probes = 0;
    for (; w->members[at] != 0; at = (at + 1) & mask) {
      if (knhk_same(value_text(w->root + w->members[at] - 1), name)) return key;
      if (++probes == PROBES_MAX) { /* names made to collide: the tier below looks at them */
        w->d->over = 1;
        return NULL;
      }
    }
    w->members[at] = (uint32_t)(key - w->root) + 1;
  }
  return NULL;
}

static yyjson_val *repeated(walker *w, yyjson_val *object) {
  const uint32_t n = (uint32_t)unsafe_yyjson_get_len(object);
  if (n < 2) return NULL;
  return n <= 8 ? repeated_few(object, n) : repeated_many(w, object, n);
}

/* State after a member; *hint is the edge expected next, for documents mostly come in one order. */
static uint32_t member_state(const knhk_state *s, knhk_text name, uint32_t *hint) {
  const knhk_edge *edges = T->edges + s->edge;
  if (*hint < s->nedge && knhk_same(knhk_pack_string(edges[*hint].name), name)) return edges[(*hint)++].state;
  if (s->nedge == 0) return 0;
  const uint32_t mask = (1u << s->slot_bits) - 1;
  for (uint32_t at = (uint32_t)knhk_hash(name.p, name.n, T->seed) & mask;; at = (at + 1) & mask) {
    const uint32_t slot = T->edge_slots[s->slot + at];
    if (slot == 0) return 0;
    if (knhk_same(knhk_pack_string(edges[slot - 1].name), name)) {
      *hint = slot;
      return edges[slot - 1].state;
    }
  }
}

static uint32_t element_state(const knhk_state *s, uint32_t index) {
  for (uint32_t i = 0; i < s->nindex; i++)
    if (T->edges[s->index + i].name == index) return T->edges[s->index + i].state;
  return s->each;
}

/* ---- items ---- */

static void begin_items(walker *w, const knhk_state *s) {
  for (uint32_t i = 0; i < s->nitem; i++) {
    const knhk_map *m = &T->maps[T->state_items[s->item + i]];
    for (uint32_t k = 0; k < m->nslot; k++) w->slot_head[m->slot + k] = w->slot_tail[m->slot + k] = 0;
    for (uint32_t k = 0; k < m->nproperty; k++) {
      const knhk_property *p = &T->properties[m->property + k];
      if (p->kind == KNHK_O_CHILD) w->slot_head[p->slot] = w->made_head[p->child];
    }
  }
}

static void capture_value(walker *w, const knhk_state *s, yyjson_val *v) {
  for (uint32_t i = 0; i < s->nref; i++) {
    const uint32_t slot = T->state_refs[s->ref + i];
    if (w->ncapture == w->capture_cap) {
      w->d->over = 1;
      return;
    }
    w->captures[w->ncapture].value = v;
    w->captures[w->ncapture].next = 0;
    w->ncapture++;
    if (w->slot_head[slot] == 0) w->slot_head[slot] = w->ncapture;
    else w->captures[w->slot_tail[slot] - 1].next = w->ncapture;
    w->slot_tail[slot] = w->ncapture;
  }
}

/* letters and digits stay, other bytes become _XX, "_" ends: no label of a `blank` subject ends so */
static uint32_t label_bytes(knhk_text s, uint8_t *out) {
  static const uint8_t hex[16] = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'};
  uint32_t n = 0;
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
      out[n++] = c;
    } else {
      out[n++] = '_';
      out[n++] = hex[c >> 4];
      out[n++] = hex[c & 15];
    }
  }
  return n;
}

typedef struct {
  walker *w;
  const knhk_part *parts;
  uint32_t nparts, node; /* node: KNHK_K_* of the term */
  void (*done)(void *to, uint32_t id, knhk_text s);
  void *to;
} maker;

static uint32_t part_bytes(uint32_t node, int fixed, knhk_text s, uint8_t *out) {
  if (node == KNHK_K_BNODE) return label_bytes(s, out);
  if (node == KNHK_K_IRI && !fixed) return knhk_percent(s, out);
  memcpy(out, s.p, s.n);
  return s.n;
}

static void make_from(maker *m, uint32_t part, uint32_t length);

/* Writes one value of a part after the first `length` bytes at d->text, then the rest. */
static void make_part(maker *m, uint32_t part, uint32_t length, int fixed, knhk_text s) {
  knhk_delta *d = m->w->d;
  const uint8_t *prefix = d->text;
  if (!has_text_room(d, length + 3 * (size_t)s.n + 1)) return;
  const uint32_t n = part_bytes(m->node, fixed, s, d->text + length);
  make_from(m, part + 1, length + n);
  if (d->text == prefix) return;
  if (has_text_room(d, length)) memcpy(d->text, prefix, length); /* the made string was kept: the next value needs the prefix again */
}

/* All strings of a template; a reference with several values gives several. An absent or empty one gives none. */
static void make_from(maker *m, uint32_t part, uint32_t length) {
  knhk_delta *d = m->w->d;
  if (part == m->nparts) {
    if (m->node == KNHK_K_BNODE) d->text[length++] = '_';
    const knhk_text s = {d->text, length};
    m->done(m->to, intern_made(d, length), s);
    return;
  }
  const knhk_part *p = &m->parts[part];
  if (p->slot == KNHK_NONE) {
    make_part(m, part, length, 1, knhk_pack_string(p->text));
    return;
  }
  for (uint32_t c = m->w->slot_head[p->slot]; c != 0; c = m->w->captures[c - 1].next) {
    const knhk_text s = value_text(m->w->captures[c - 1].value);
    if (s.n > 0) make_part(m, part, length, 0, s);
    if (d->over) return;
  }
}

typedef struct {
  knhk_delta *d;
  uint32_t node, kind;
} subject_target;

static void subject_made(void *to, uint32_t id, knhk_text s) {
  subject_target *t = to;
  uint64_t val, meta;
  const uint64_t term = knhk_lanes(t->kind, 0, id, s, &val, &meta);
  t->node = node_of(t->d, term, val, meta);
}

static uint32_t blank_subject(walker *w, const knhk_map *m, uint32_t item) {
  knhk_delta *d = w->d;
  const knhk_text label = knhk_pack_string(m->constant);
  if (!has_text_room(d, label.n + 21)) return KNHK_NONE;
  memcpy(d->text, label.p, label.n);
  const uint32_t n = label.n + knhk_decimal(item, d->text + label.n);
  subject_target t = {d, KNHK_NONE, KNHK_K_BNODE};
  const knhk_text s = {d->text, n};
  subject_made(&t, intern_made(d, n), s);
  return t.node;
}

static uint32_t subject_of(walker *w, const knhk_map *m, uint32_t item) {
  subject_target t = {w->d, KNHK_NONE, m->node};
  if (m->subject == KNHK_SUBJECT_BLANK) return blank_subject(w, m, item);
  if (m->subject == KNHK_SUBJECT_CONSTANT) {
    subject_made(&t, m->constant, knhk_pack_string(m->constant));
  } else {
    maker k = {w, T->parts + m->part, m->npart, m->node, subject_made, &t};
    make_from(&k, 0, 0);
  }
  return t.node;
}

typedef struct {
  knhk_delta *d;
  const knhk_property *p;
  uint32_t node;
} object_target;

static void object_made(void *to, uint32_t id, knhk_text s) {
  object_target *t = to;
  add_term(t->d, t->node, t->p->p, t->p->node, t->p->second, id, s);
}

static uint32_t natural_type(yyjson_val *v, knhk_text s) {
  if (yyjson_is_bool(v)) return KNHK_S_XSD + KNHK_D_BOOLEAN - 1;
  if (yyjson_is_str(v)) return KNHK_S_XSD + KNHK_D_STRING - 1;
  for (uint32_t i = 0; i < s.n; i++)
    if (s.p[i] == '.' || s.p[i] == 'e' || s.p[i] == 'E') return KNHK_S_XSD + KNHK_D_DOUBLE - 1;
  return KNHK_S_XSD + KNHK_D_INTEGER - 1;
}

static void add_references(walker *w, uint32_t node, const knhk_property *p) {
  for (uint32_t c = w->slot_head[p->slot]; c != 0; c = w->captures[c - 1].next) {
    yyjson_val *v = w->captures[c - 1].value;
    const knhk_text s = value_text(v);
    const uint32_t second = p->node == KNHK_K_IRI ? 0 : p->second == KNHK_NATURAL ? natural_type(v, s) : p->second;
    add_term(w->d, node, p->p, p->node, second, intern_kept(w->d, s), s);
  }
}

static void add_property(walker *w, uint32_t node, const knhk_property *p) {
  object_target t = {w->d, p, node};
  maker k = {w, T->parts + p->part, p->npart, p->node, object_made, &t};
  switch (p->kind) {
    case KNHK_O_REF: add_references(w, node, p); return;
    case KNHK_O_TEMPLATE: make_from(&k, 0, 0); return;
    case KNHK_O_TERM: add(w->d, node, p->p, T->words[p->term], T->words[p->term + 1], T->words[p->term + 2]); return;
    default:
      for (uint32_t c = w->made_head[p->child]; c != w->slot_head[p->slot]; c = w->mades[c - 1].next) {
        const knhk_node *child = &w->d->node[w->mades[c - 1].node];
        add(w->d, node, p->p, child->term, child->val, child->meta);
      }
  }
}

/* Subjects of all maps of an item first, so that maps over the same item may be one another's children. */
static void end_items(walker *w, const knhk_state *s) {
  for (uint32_t i = 0; i < s->nitem; i++) {
    const uint32_t id = T->state_items[s->item + i];
    const uint32_t node = w->subject[id] = subject_of(w, &T->maps[id], w->items[id]++);
    if (node == KNHK_NONE) continue;
    if (w->nmade == w->made_cap) {
      w->d->over = 1;
      continue;
    }
    w->mades[w->nmade].node = node;
    w->mades[w->nmade].next = w->made_head[id];
    w->made_head[id] = ++w->nmade;
  }
  for (uint32_t i = 0; i < s->nitem; i++) {
    const uint32_t id = T->state_items[s->item + i], node = w->subject[id];
    const knhk_map *m = &T->maps[id];
    if (node == KNHK_NONE) continue;
    for (uint32_t k = 0; k < m->ncls; k++) {
      const uint32_t cls = (uint32_t)T->words[m->cls + k];
      add_term(w->d, node, KNHK_S_RDF_TYPE, KNHK_K_IRI, 0, cls, knhk_pack_string(cls));
    }
    for (uint32_t k = 0; k < m->nproperty; k++) add_property(w, node, &T->properties[m->property + k]);
  }
}

/* ---- the walk: depth is bounded by max_depth ≤ KNHK_DEPTH_MAX ---- */

static void walk(walker *w, yyjson_val *v, uint32_t state, uint32_t depth);

static void walk_object(walker *w, yyjson_val *v, const knhk_state *s, uint32_t depth) {
  knhk_fault *f = &w->d->fault;
  yyjson_val *twice = repeated(w, v);
  size_t i, max;
  yyjson_val *key, *value;
  uint32_t hint = 0;
  if (twice != NULL) {
    fault(w, KNHK_FAULT_DUPLICATE, depth, value_text(twice));
    return;
  }
  yyjson_obj_foreach(v, i, max, key, value) {
    const knhk_text name = value_text(key);
    const uint32_t next = member_state(s, name, &hint);
    f->path[depth].name = name;
    if (next == 0 && w->mapping->unknown_deny) {
      fault(w, KNHK_FAULT_UNKNOWN, depth, name);
      return;
    }
    walk(w, value, next, depth + 1);
    if (f->code != KNHK_FAULT_NONE) return;
  }
}

static void walk_array(walker *w, yyjson_val *v, const knhk_state *s, uint32_t depth) {
  knhk_fault *f = &w->d->fault;
  size_t i, max;
  yyjson_val *value;
  yyjson_arr_foreach(v, i, max, value) {
    const uint32_t next = element_state(s, (uint32_t)i);
    f->path[depth].name.p = NULL;
    f->path[depth].index = (uint32_t)i;
    if (next == 0 && w->mapping->unknown_deny) {
      fault(w, KNHK_FAULT_UNKNOWN, depth, value_text(value));
      return;
    }
    walk(w, value, next, depth + 1);
    if (f->code != KNHK_FAULT_NONE) return;
  }
}

/* What the mapping needs here and does not find; KNHK_FAULT_NONE when all is well. */
static uint32_t misfit(const knhk_state *s, yyjson_val *v) {
  const int object = yyjson_is_obj(v), array = yyjson_is_arr(v);
  if (s->nref > 0 && (object || array)) return KNHK_FAULT_SCALAR;
  if (s->nedge > 0 && !object) return KNHK_FAULT_OBJECT;
  if ((s->each != 0 || s->nindex > 0) && !array) return KNHK_FAULT_ARRAY;
  for (uint32_t i = 0; i < s->nref; i++)
    if ((T->slots[T->state_refs[s->ref + i]].flags & KNHK_SLOT_IRI) != 0 && (!yyjson_is_str(v) || !knhk_iri_valid(value_text(v))))
      return KNHK_FAULT_IRI;
  return KNHK_FAULT_NONE;
}

static void walk(walker *w, yyjson_val *v, uint32_t state, uint32_t depth) {
  const knhk_state *s = &T->states[state];
  const int container = yyjson_is_ctn(v);
  if (container && depth >= w->mapping->max_depth) {
    fault(w, KNHK_FAULT_DEPTH, depth, value_text(v));
    return;
  }
  const int mapped = state != 0 && !yyjson_is_null(v);
  if (mapped) {
    const uint32_t code = misfit(s, v);
    if (code != KNHK_FAULT_NONE) {
      fault(w, code, depth, value_text(v));
      return;
    }
    begin_items(w, s);
    capture_value(w, s, v);
  }
  if (container) {
    if (yyjson_is_obj(v)) walk_object(w, v, s, depth);
    else walk_array(w, v, s, depth);
  }
  if (mapped && w->d->fault.code == KNHK_FAULT_NONE) end_items(w, s);
}

static void read_body(walker *w, void *json, size_t json_len) {
  knhk_delta *d = w->d;
  const knhk_text body = d->obs.body, none = {(const uint8_t *)"", 0};
  yyjson_alc pool;
  yyjson_read_err error;
  if (body.n == 0) {
    fault(w, KNHK_FAULT_EMPTY, 0, none);
    return;
  }
  memset(&error, 0, sizeof error);
  yyjson_alc_pool_init(&pool, json, json_len);
  /* without YYJSON_READ_INSITU the text is copied, not written */
  yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)body.p, body.n, READ_FLAGS, &pool, &error);
  if (doc == NULL) {
    /* a well-formed document fits in the memory that yyjson asks for; what does not fit is brackets that never close */
    fault(w, KNHK_FAULT_SYNTAX, 0, none);
    d->fault.at = error.pos;
    return;
  }
  memset(w->made_head, 0, 4 * (size_t)T->nmaps);
  memset(w->items, 0, 4 * (size_t)T->nmaps);
  w->root = yyjson_doc_get_root(doc);
  walk(w, w->root, w->mapping->root, 0);
}

/* ---- sorted, distinct, in chunks ---- */

static int before(const knhk_triple *a, const knhk_triple *b) { return a->key != b->key ? a->key < b->key : a->obj < b->obj; }

static void sort_few(knhk_triple *t, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    const knhk_triple x = t[i];
    uint32_t j = i;
    for (; j > 0 && before(&x, &t[j - 1]); j--) t[j] = t[j - 1];
    t[j] = x;
  }
}

static void merge(const knhk_triple *a, uint32_t na, const knhk_triple *b, uint32_t nb, knhk_triple *out) {
  while (na > 0 && nb > 0) {
    if (before(b, a)) {
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
static void sort_triples(knhk_delta *d) {
  const uint32_t n = d->ntriple;
  for (uint32_t i = 0; i < n; i += RUN) sort_few(d->triple + i, knhk_umin(RUN, n - i));
  for (uint32_t width = RUN; width < n; width *= 2) {
    for (uint32_t i = 0; i < n; i += 2 * width) {
      const uint32_t na = knhk_umin(width, n - i), nb = n - i - na < width ? n - i - na : width;
      merge(d->triple + i, na, d->triple + i + na, nb, d->spare + i);
    }
    knhk_triple *t = d->triple;
    d->triple = d->spare;
    d->spare = t;
  }
}

static void drop_equal(knhk_delta *d) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < d->ntriple; i++)
    if (n == 0 || before(&d->triple[n - 1], &d->triple[i])) d->triple[n++] = d->triple[i];
  d->ntriple = n;
}

static knhk_chunk *new_chunk(knhk_delta *d) {
  knhk_chunk *c = &d->chunk[d->nchunk++];
  memset(c, 0, sizeof *c);
  return c;
}

/* A run of up to 8 stays in one chunk; a longer one begins a chunk. chunks ≤ triples, for each chunk begins with a triple of its own. */
static void chunk_triples(knhk_delta *d) {
  uint32_t lane = 8, node = KNHK_NONE;
  knhk_chunk *c = NULL;
  for (uint32_t i = 0; i < d->ntriple;) {
    const uint64_t key = d->triple[i].key;
    uint32_t run = 1;
    while (i + run < d->ntriple && d->triple[i + run].key == key) run++;
    const uint32_t subject = (uint32_t)(key >> 32);
    if (subject != node) {
      node = subject;
      d->node[node].chunk = d->nchunk;
      lane = 8;
    }
    if (lane + run > 8) lane = 8;
    for (; run > 0; run--, i++) {
      if (lane == 8) {
        c = new_chunk(d);
        d->node[node].nchunk++;
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

static const knhk_route *find_route(knhk_text route) {
  uint32_t lo = 0, hi = T->nroutes;
  while (lo < hi) {
    const uint32_t mid = lo + (hi - lo) / 2;
    const int c = knhk_order(knhk_pack_string(T->routes[mid].route), route);
    if (c == 0) return &T->routes[mid];
    if (c < 0) lo = mid + 1;
    else hi = mid;
  }
  return NULL;
}

static void begin(knhk_delta *d, const knhk_binding *b) {
  d->binding = b;
  d->base = T->nstrings + b->nstr;
  d->nlocal = d->nnode = d->ntriple = d->nchunk = d->over = d->inexact = 0;
  d->local_bits = d->node_bits = 6;
  memset(d->local_slots, 0, (size_t)4 << 6);
  memset(d->node_slots, 0, (size_t)4 << 6);
  d->fault.code = KNHK_FAULT_NONE;
  d->fault.depth = 0;
  d->fault.at = 0;
  for (uint32_t i = 0; i < T->nfixed; i++) node_of(d, T->fixed[3 * i], T->fixed[3 * i + 1], T->fixed[3 * i + 2]);
}

int32_t knhk_build(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, knhk_delta **out) {
  walker w;
  void *json;
  size_t json_len;
  knhk_delta *d;
  if (((uintptr_t)scratch & 63) != 0 || scratch_len < knhk_scratch_size(o_len)) return KNHK_E_SPACE;
  lay_out(scratch, o_len, &d, &w, &json, &json_len);
  const int32_t status = knhk_observe(o, o_len, &d->obs);
  if (status != KNHK_OK) return status;
  const knhk_route *route = find_route(d->obs.route);
  if (route == NULL) return KNHK_E_ROUTE;
  begin(d, b);
  w.d = d;
  w.members = (uint32_t *)(void *)d->gather;
  w.ncapture = w.nmade = 0;
  add_request(d);
  add_bundle(d);
  if (route->mapping != KNHK_NONE) {
    w.mapping = &T->mappings[route->mapping];
    read_body(&w, json, json_len);
  } else if (d->obs.body.n > 0) {
    const knhk_text none = {(const uint8_t *)"", 0};
    fault(&w, KNHK_FAULT_BODY, 0, none);
  }
  *out = d;
  if (d->fault.code != KNHK_FAULT_NONE) return KNHK_OK;
  if (d->over) return KNHK_ESCAPE;
  sort_triples(d);
  drop_equal(d);
  chunk_triples(d);
  return KNHK_OK;
}

/* extract.c: O → Δ: triples of request and bundle, then those of the body by the reader of its format (formats/guardplan.md). All memory is
 * scratch of the caller. */
#define KNHK_BUILDING_PACK
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

/* ---- scratch ---- */

typedef struct {
  uint32_t triples, nodes, locals, local_bits, node_bits;
  size_t text, room, gather;
} limits;

/* ---- readers of bodies ---- */

typedef struct {
  void (*read)(knhk_walk *w);
  size_t (*room)(size_t o_len); /* memory for a body within an O of that size */
  int may_be_empty;             /* no bytes are a document of that format */
  int may_be_plain;             /* w->read_plain may read it */
} format;
static const format READERS[KNHK_FORMATS] = {
  [KNHK_FORMAT_JSON] = {knhk_read_json, knhk_json_room, 0, 1},
  [KNHK_FORMAT_XML] = {knhk_read_xml, knhk_xml_room, 0, 0},
  [KNHK_FORMAT_NTRIPLES] = {knhk_read_ntriples, knhk_ntriples_room, 1, 0},
};

static size_t room_of(size_t o_len) {
  size_t most = 0;
  for (uint32_t i = 0; i < KNHK_FORMATS; i++) {
    const size_t n = READERS[i].room(o_len);
    most = n > most ? n : most;
  }
  return most;
}

static limits limits_of(size_t o_len) {
  const uint32_t n = o_len < (1u << 17) ? (uint32_t)o_len : 1u << 17;
  limits l;
  l.triples = 4096 + n;
  l.nodes = T->nfixed + 64 + n / 2;
  l.locals = l.triples + l.nodes;
  l.local_bits = knhk_bits_for(l.locals);
  l.node_bits = knhk_bits_for(l.nodes);
  l.text = 3 * o_len + 32768;
  l.room = room_of(o_len);
  l.gather = l.triples > o_len / 2 + 64 ? l.triples : o_len / 2 + 64;
  return l;
}

/* Takes n bytes of scratch on a 64-byte boundary; counts when there is none. */
static void *room(size_t *used, uint8_t *base, size_t n) {
  void *at = base == NULL ? NULL : base + *used;
  *used += (n + 63) & ~(size_t)63;
  return at;
}

static size_t lay_out(uint8_t *base, size_t o_len, knhk_walk *w) {
  const limits l = limits_of(o_len);
  size_t used = 0;
  knhk_delta *d = room(&used, base, sizeof(knhk_delta));
  knhk_delta unused;
  if (d == NULL) d = &unused;
  d->obj = room(&used, base, 8 * (size_t)(T->nvalues + 16)); /* blocks pick from 16 at once */
  d->val = room(&used, base, 8 * (size_t)(T->nvalues + 16));
  d->meta = room(&used, base, 8 * (size_t)(T->nvalues + 16));
  d->many = room(&used, base, 4 * (size_t)T->nvalues);
  d->bits = room(&used, base, T->nbytes);
  d->regs = room(&used, base, T->nglobals + 8 * (size_t)T->nbytes);
  d->fail = room(&used, base, T->nfail);
  d->makers = room(&used, base, T->nfail);
  w->slot_head = room(&used, base, 4 * (size_t)T->nslots);
  w->slot_tail = room(&used, base, 4 * (size_t)T->nslots);
  w->made_head = room(&used, base, 4 * (size_t)T->nmaps);
  w->items = room(&used, base, 4 * (size_t)T->nmaps);
  w->subject = room(&used, base, 4 * (size_t)T->nmaps);
  w->counts = room(&used, base, 4 * (size_t)T->nedges);
  w->join_cap = T->njoins == 0 ? 0 : l.triples;
  w->joins = room(&used, base, sizeof(knhk_triple) * (size_t)w->join_cap);
  w->joins_spare = room(&used, base, sizeof(knhk_triple) * (size_t)w->join_cap);
  d->node = room(&used, base, sizeof(knhk_node) * (size_t)l.nodes);
  d->node_slots = room(&used, base, (size_t)4 << l.node_bits);
  d->triple = room(&used, base, sizeof(knhk_triple) * (size_t)l.triples);
  d->local = room(&used, base, sizeof(knhk_local) * (size_t)l.locals);
  d->local_slots = room(&used, base, (size_t)4 << l.local_bits);
  w->captures = room(&used, base, sizeof(knhk_capture) * (size_t)l.triples);
  w->mades = room(&used, base, sizeof(knhk_made) * (size_t)l.nodes);
  d->texts = room(&used, base, l.text);
  w->room = room(&used, base, l.room);
  d->chunk = room(&used, base, sizeof(knhk_chunk) * (size_t)l.triples);
  d->spare = room(&used, base, sizeof(knhk_triple) * (size_t)l.triples);
  d->gather = room(&used, base, 16 * l.gather); /* two halves: values and the sorter's spare */
  d->text_end = base == NULL ? NULL : d->texts + l.text;
  d->node_cap = l.nodes;
  d->node_bits_max = l.node_bits;
  d->local_cap = l.locals;
  d->local_bits_max = l.local_bits;
  d->triple_cap = l.triples;
  d->chunk_cap = l.triples;
  w->capture_cap = l.triples;
  w->made_cap = l.nodes;
  w->room_len = l.room;
  w->d = d;
  return used;
}

size_t knhk_scratch_size(size_t o_len) {
  knhk_walk w;
  return lay_out(NULL, o_len, &w);
}

size_t knhk_batch_size(size_t o_len) {
  knhk_batch b;
  return ((knhk_scratch_size(o_len) + 63) & ~(size_t)63) + knhk_lay_batch(NULL, &b);
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

static void add_text(knhk_delta *d, uint32_t node, uint32_t p, knhk_text s, uint32_t dt) {
  knhk_add_term(d, node, p, KNHK_K_LITERAL, dt, knhk_intern_kept(d, s), s);
}

static int wants(const knhk_delta *d, uint32_t p) { return d->whole || ((T->reads[p / 32] >> (p % 32)) & 1) != 0; }

/* exact for years up to 9999, which a 64-bit count of nanoseconds does not leave */
static void add_time(knhk_delta *d) {
  if (!knhk_text_room(d, 27)) return;
  time_text(d->obs.time_ns, d->text);
  const uint32_t dt = KNHK_S_XSD + KNHK_D_DATETIME - 1, id = knhk_intern_made(d, 27);
  const uint64_t val = ((uint64_t)KNHK_F_DATETIME << 60) | (d->obs.time_ns / 1000 + (uint64_t)KNHK_BIAS);
  const uint64_t meta = KNHK_M_LITERAL | KNHK_M_VALID | ((uint64_t)dt << KNHK_M_DT_SHIFT) | ((uint64_t)27 << KNHK_M_LEN_SHIFT);
  knhk_add(d, 0, KNHK_S_TIME, KNHK_TERM(KNHK_K_LITERAL, dt, id), val, meta);
}

static void add_attribute(knhk_delta *d, uint32_t i) {
  static const char prefix[] = "https://knhk.dev/ns/attr#";
  const knhk_observation *o = &d->obs;
  const uint32_t n = (uint32_t)sizeof prefix - 1;
  if (!knhk_text_room(d, n + o->name[i].n)) return;
  memcpy(d->text, prefix, n);
  memcpy(d->text + n, o->name[i].p, o->name[i].n);
  const uint32_t p = knhk_intern_made(d, n + o->name[i].n);
  add_text(d, 0, p, o->value[i], KNHK_S_XSD + KNHK_D_STRING - 1);
}

static void add_known_attribute(knhk_delta *d, uint32_t i) {
  for (uint32_t k = 0; k < T->nattributes; k++) {
    if (!knhk_same(knhk_pack_string(T->attributes[2 * k]), d->obs.name[i])) continue;
    add_text(d, 0, T->attributes[2 * k + 1], d->obs.value[i], KNHK_S_XSD + KNHK_D_STRING - 1);
    return;
  }
}

static void add_request(knhk_delta *d) {
  const knhk_observation *o = &d->obs;
  if (wants(d, KNHK_S_REGION)) add_text(d, 0, KNHK_S_REGION, o->region, KNHK_S_XSD + KNHK_D_STRING - 1);
  if (wants(d, KNHK_S_ROUTE)) add_text(d, 0, KNHK_S_ROUTE, o->route, KNHK_S_XSD + KNHK_D_STRING - 1);
  if (wants(d, KNHK_S_TIME)) add_time(d);
  for (uint32_t i = 0; i < o->nattr; i++) {
    if (d->whole) add_attribute(d, i);
    else add_known_attribute(d, i);
  }
}

static void add_facts(knhk_delta *d, uint32_t node, uint32_t subject) {
  const knhk_binding *b = d->binding;
  if (subject == KNHK_NONE) return;
  for (uint32_t i = b->fact_of[subject]; i < b->fact_of[subject + 1]; i++)
    knhk_add(d, node, b->facts[i].p, b->facts[i].obj, b->facts[i].val, b->facts[i].meta);
}

/* The caller's IRI from the bundle's template and attribute `sub`, written at d->text; 0 when there is none. */
static uint32_t caller_iri(knhk_delta *d) {
  const knhk_binding *b = d->binding;
  const knhk_observation *o = &d->obs;
  if ( b->caller == KNHK_NONE) return 0;
  for (uint32_t i = 0; i < o->nattr; i++) {
    if (o->name[i].n != 3 || memcmp(o->name[i].p, "sub", 3) != 0) continue;
    const knhk_text t = knhk_bundle_string(b, b->caller);
    uint32_t hole = 0;
    while (hole + 1 < t.n && !(t.p[hole] == '{' && t.p[hole + 1] == '}')) hole++;
    if (hole + 1 >= t.n || !knhk_text_room(d, (size_t)t.n + 3 * (size_t)o->value[i].n)) return 0;
    memcpy(d->text, t.p, hole);
    uint32_t n = hole + knhk_percent(o->value[i], d->text + hole);
    memcpy(d->text + n, t.p + hole + 2, t.n - hole - 2);
    return n + t.n - hole - 2;
  }
  return 0;
}

static void add_bundle(knhk_delta *d) {
  if (d->binding->bundle == NULL) return;
  const uint32_t n = caller_iri(d);
  if (n > 0) {
    const knhk_text iri = {d->text, n};
    add_facts(d, 1, knhk_bundle_subject(d->binding, iri));
    if (wants(d, KNHK_S_CALLER)) knhk_add_term(d, 0, KNHK_S_CALLER, KNHK_K_IRI, 0, knhk_intern_made(d, n), iri);
  }
  for (uint32_t i = 2; i < T->nfixed; i++) add_facts(d, i, d->binding->fixed[i]);
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

/* The Δ before the body. */
static void begin(knhk_walk *w) {
  knhk_delta *d = w->d;
  knhk_begin_delta(d);
  add_request(d);
  add_bundle(d);
  w->members = (uint32_t *)(void *)d->gather;
  w->ncapture = w->nmade = w->njoin = 0;
  w->work = 0;
  w->ascii = w->padded = 0;
  memset(w->made_head, 0, 4 * (size_t)T->nmaps);
  memset(w->items, 0, 4 * (size_t)T->nmaps);
}

static void read_mapped(knhk_walk *w) {
  const format *f = &READERS[w->mapping->format];
  if (f->may_be_plain && w->read_plain(w)) return;
  if (f->may_be_plain) begin(w);
  f->read(w);
}

static void read_body(knhk_walk *w, const knhk_route *route) {
  const knhk_text none = {(const uint8_t *)"", 0};
  const uint32_t length = w->d->obs.body.n;
  if (route->mapping == KNHK_NONE) {
    if (length > 0) knhk_fault_at(w, KNHK_FAULT_BODY, 0, none);
    return;
  }
  w->mapping = &T->mappings[route->mapping];
  if (length == 0 && !READERS[w->mapping->format].may_be_empty) {
    knhk_fault_at(w, KNHK_FAULT_EMPTY, 0, none);
    return;
  }
  read_mapped(w);
  if (w->njoin > 0 && w->d->fault.code == KNHK_FAULT_NONE && !w->d->over) knhk_link_joins(w);
}

int32_t knhk_build(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, uint32_t whole,
                   knhk_read_plain *read_plain, knhk_delta **out) {
  knhk_walk w;
  if (((uintptr_t)scratch & 63) != 0 || scratch_len < sizeof(knhk_delta) || scratch_len < lay_out(scratch, o_len, &w)) return KNHK_E_SPACE;
  knhk_delta *d = w.d;
  const int32_t status = knhk_observe(o, o_len, &d->obs);
  if (status != KNHK_OK) return status;
  const knhk_route *route = find_route(d->obs.route);
  if (route == NULL) return KNHK_E_ROUTE;
  w.read_plain = read_plain;
  d->whole = whole;
  d->binding = b;
  begin(&w);
  read_body(&w, route);
  *out = d;
  if (d->fault.code != KNHK_FAULT_NONE) return KNHK_OK;
  if (d->over) return KNHK_ESCAPE;
  knhk_end_delta(d);
  return KNHK_OK;
}

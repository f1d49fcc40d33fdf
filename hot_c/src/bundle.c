/* bundle.c: reads a data bundle in place (formats/bundle.md). Everything is checked once, in bind; lookups trust it. */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define HEADER 40u

typedef struct {
  uint32_t nstr, ntri, strbytes, caller;
  knhk_seed seed;
  size_t remap, offsets, first, text, triples; /* pilots follow the header */
} layout;

static uint32_t u32_at(const uint8_t *p) { return (uint32_t)knhk_bytes4(p); }
static size_t align8(size_t x) { return (x + 7) & ~(size_t)7; }
static size_t align64(size_t x) { return (x + 63) & ~(size_t)63; }

static int read_layout(const uint8_t *b, size_t len, layout *l) {
  if (len < HEADER || memcmp(b, "KNHKBND2", 8) != 0) return 0;
  l->nstr = u32_at(b + 8);
  l->ntri = u32_at(b + 12);
  l->strbytes = u32_at(b + 16);
  l->caller = u32_at(b + 20);
  l->seed.r = knhk_bytes8(b + 24);
  l->seed.x = knhk_bytes8(b + 32);
  if (l->nstr == 0 || l->nstr >= KNHK_ID_LIMIT / 2 || l->ntri >= 1u << 28 || l->seed.r - 1 >= ((uint64_t)1 << 60) - 1) return 0;
  const knhk_perfect p = knhk_perfect_of(l->nstr, b, b);
  l->remap = align8(HEADER + 2 * (size_t)p.nbuckets);
  l->offsets = align8(l->remap + 4 * (size_t)(p.nslots - p.n));
  l->first = align8(l->offsets + 4 * ((size_t)l->nstr + 1));
  l->text = align8(l->first + 4 * ((size_t)l->nstr + 1));
  l->triples = align8(l->text + l->strbytes);
  return l->triples + 16 * (size_t)l->ntri == len;
}

/* Eight bits for a string, at least a word. */
static uint32_t filter_bits(uint32_t n) {
  uint32_t bits = 64;
  while (bits < 8 * (uint64_t)n) bits *= 2;
  return bits;
}

knhk_text knhk_bundle_string(const knhk_binding *b, uint32_t i) {
  const uint32_t from = u32_at(b->offsets + 4 * (size_t)i), to = u32_at(b->offsets + 4 * (size_t)i + 4);
  const knhk_text t = {b->text + from, to - from};
  return t;
}

uint32_t knhk_bundle_find(const knhk_binding *b, knhk_text s) {
  if (b->bundle == NULL) return KNHK_NONE;
  const uint32_t i = knhk_place(&b->perfect, knhk_hash(s, b->seed));
  return knhk_same(knhk_bundle_string(b, i), s) ? i : KNHK_NONE;
}

uint32_t knhk_bundle_subject(const knhk_binding *b, knhk_text iri) {
  const uint32_t i = knhk_bundle_find(b, iri);
  return i != KNHK_NONE && u32_at(b->first + 4 * (size_t)i) != u32_at(b->first + 4 * (size_t)i + 4) ? i : KNHK_NONE;
}

/* u32[n + 1] from 0 to the end, never descending */
static int ascends(const uint8_t *at, uint32_t n, uint32_t end) {
  uint32_t before = 0;
  if (u32_at(at) != 0 || u32_at(at + 4 * (size_t)n) != end) return 0;
  for (uint32_t i = 1; i <= n; i++) {
    const uint32_t here = u32_at(at + 4 * (size_t)i);
    if (here < before) return 0;
    before = here;
  }
  return 1;
}

/* Strings are UTF-8 and each is at its place, so that no two are equal and each is found. */
static int check_strings(const uint8_t *bundle, const layout *l, const knhk_binding *b) {
  if (!ascends(b->offsets, l->nstr, l->strbytes) || !ascends(b->first, l->nstr, l->ntri)) return 0;
  for (uint32_t i = 0; i < b->perfect.nslots - b->perfect.n; i++)
    if (u32_at(bundle + l->remap + 4 * (size_t)i) >= l->nstr) return 0;
  for (uint32_t i = 0; i < l->nstr; i++) {
    const knhk_text s = knhk_bundle_string(b, i);
    if (!knhk_utf8(s.p, s.n) || knhk_place(&b->perfect, knhk_hash(s, b->seed)) != i) return 0;
  }
  return l->caller == KNHK_NONE || l->caller < l->nstr;
}

static int check_triples(const uint8_t *t, const layout *l) {
  for (uint32_t i = 0; i < l->ntri; i++, t += 16) {
    const uint8_t kind = t[12];
    if (u32_at(t) >= l->nstr || u32_at(t + 4) >= l->nstr || kind < 1 || kind > 3 || t[13] != 0 || t[14] != 0 || t[15] != 0) return 0;
    if (kind != 1 && u32_at(t + 8) >= l->nstr) return 0;
  }
  return 1;
}

static int wanted(uint32_t p) { return p < T->nstrings && ((T->bundle_predicates[p / 32] >> (p % 32)) & 1) != 0; }

static knhk_fact read_fact(const knhk_binding *b, const uint8_t *t) {
  static const uint32_t kinds[4] = {0, KNHK_K_IRI, KNHK_K_LITERAL, KNHK_K_LANG};
  knhk_fact f = {0, 0, 0, b->id_of[u32_at(t)], 0};
  const uint32_t lexical = u32_at(t + 4), kind = kinds[t[12]];
  const uint32_t second = kind == KNHK_K_IRI ? 0 : b->id_of[u32_at(t + 8)];
  f.obj = knhk_lanes(kind, second, b->id_of[lexical], knhk_bundle_string(b, lexical), &f.val, &f.meta);
  return f;
}

/* Room: binding, id_of, filter, fact_of, facts (at most one for each triple), fixed. */
size_t knhk_bind_size(const uint8_t *bundle, size_t len) {
  layout l;
  if (bundle == NULL || !read_layout(bundle, len, &l)) return align64(sizeof(knhk_binding));
  return align64(sizeof(knhk_binding)) + align64(4 * (size_t)l.nstr) + align64(filter_bits(l.nstr) / 8) + align64(4 * (size_t)l.nstr + 4) +
         align64(sizeof(knhk_fact) * (size_t)l.ntri) + align64(4 * (size_t)T->nfixed);
}

/* Takes n bytes of the binding's memory on a 64-byte boundary. */
static void *take(uint8_t **at, size_t n) {
  void *taken = *at;
  *at += align64(n);
  return taken;
}

static void index_strings(knhk_binding *b, uint32_t *id_of, uint64_t *filter) {
  memset(filter, 0, filter_bits(b->nstr) / 8);
  for (uint32_t i = 0; i < b->nstr; i++) {
    const knhk_text s = knhk_bundle_string(b, i);
    const uint64_t h = knhk_hash(s, T->seed);
    const uint32_t known = knhk_pack_find(s, h);
    id_of[i] = known != KNHK_NONE ? known : T->nstrings + i;
    filter[(h & b->filter_mask) >> 6] |= (uint64_t)1 << (h & 63);
  }
}

static void index_facts(knhk_binding *b, const uint8_t *bundle, const layout *l, uint32_t *fact_of, knhk_fact *facts) {
  const uint8_t *t = bundle + l->triples;
  for (uint32_t s = 0; s < l->nstr; s++) {
    const uint8_t *first = b->first + 4 * (size_t)s;
    fact_of[s] = b->nfact;
    for (uint32_t k = u32_at(first + 4) - u32_at(first); k > 0; k--, t += 16)
      if (wanted(b->id_of[u32_at(t)])) facts[b->nfact++] = read_fact(b, t);
  }
  fact_of[l->nstr] = b->nfact;
}

const knhk_binding *knhk_bind(const uint8_t *bundle, size_t len, void *mem, size_t mem_len, int32_t *err) {
  knhk_binding *b = mem;
  *err = KNHK_E_SPACE;
  if (mem_len < knhk_bind_size(bundle, len) || ((uintptr_t)mem & 63) != 0) return NULL;
  memset(b, 0, sizeof *b);
  *err = KNHK_OK;
  if (bundle == NULL) return b;
  layout l;
  *err = KNHK_E_BUNDLE;
  if (!read_layout(bundle, len, &l)) return NULL;
  b->bundle = bundle;
  b->nstr = l.nstr;
  b->caller = l.caller;
  b->seed = l.seed;
  b->perfect = knhk_perfect_of(l.nstr, bundle + HEADER, bundle + l.remap);
  b->filter_mask = filter_bits(l.nstr) - 1;
  b->offsets = bundle + l.offsets;
  b->first = bundle + l.first;
  b->text = bundle + l.text;
  if (!check_strings(bundle, &l, b) || !check_triples(bundle + l.triples, &l)) return NULL;
  uint8_t *at = (uint8_t *)mem + align64(sizeof *b);
  uint32_t *id_of = take(&at, 4 * (size_t)l.nstr);
  uint64_t *filter = take(&at, filter_bits(l.nstr) / 8);
  uint32_t *fact_of = take(&at, 4 * (size_t)l.nstr + 4);
  knhk_fact *facts = take(&at, sizeof(knhk_fact) * (size_t)l.ntri);
  uint32_t *fixed = take(&at, 4 * (size_t)T->nfixed);
  b->id_of = id_of;
  b->filter = filter;
  b->fact_of = fact_of;
  b->facts = facts;
  b->fixed = fixed;
  index_strings(b, id_of, filter);
  index_facts(b, bundle, &l, fact_of, facts);
  for (uint32_t i = 0; i < T->nfixed; i++)
    fixed[i] = T->fixed[3 * i] >> 60 == KNHK_K_IRI ? knhk_bundle_subject(b, knhk_pack_string((uint32_t)T->fixed[3 * i])) : KNHK_NONE;
  *err = KNHK_OK;
  return b;
}

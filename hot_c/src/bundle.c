/* bundle.c: reads a data bundle in place (formats/bundle.md). Everything is checked once, in bind; lookups trust it. */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

typedef struct {
  uint32_t nstr, nsub, ntri, hbits, strbytes, caller;
  size_t offsets, text, slots, subjects, triples;
} layout;

static uint32_t u32_at(const uint8_t *p) {
  return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}
static size_t align8(size_t x) { return (x + 7) & ~(size_t)7; }
static size_t align64(size_t x) { return (x + 63) & ~(size_t)63; }

static int read_layout(const uint8_t *b, size_t len, layout *l) {
  if (len < 32 || memcmp(b, "KNHKBND1", 8) != 0) return 0;
  l->nstr = u32_at(b + 8);
  l->nsub = u32_at(b + 12);
  l->ntri = u32_at(b + 16);
  l->hbits = u32_at(b + 20);
  l->strbytes = u32_at(b + 24);
  l->caller = u32_at(b + 28);
  if (l->nstr >= KNHK_ID_LIMIT / 2 || l->nsub > l->nstr || l->ntri >= 1u << 28 || l->hbits > 28) return 0;
  if (l->nsub >= (uint64_t)1 << l->hbits) return 0; /* an empty slot must end every probe */
  l->offsets = 32;
  l->text = align8(l->offsets + 4 * ((size_t)l->nstr + 1));
  l->slots = align8(l->text + l->strbytes);
  l->subjects = align8(l->slots + ((size_t)4 << l->hbits));
  l->triples = align8(l->subjects + 16 * (size_t)l->nsub);
  return l->triples + 16 * (size_t)l->ntri == len;
}

static uint32_t table_bits(uint32_t n) {
  uint32_t bits = 4;
  while (((uint64_t)1 << bits) < 2 * (uint64_t)n) bits++;
  return bits;
}

knhk_text knhk_bundle_string(const knhk_binding *b, uint32_t i) {
  const uint32_t from = u32_at(b->offsets + 4 * (size_t)i), to = u32_at(b->offsets + 4 * (size_t)i + 4);
  const knhk_text t = {b->text + from, to - from};
  return t;
}

uint32_t knhk_bundle_find(const knhk_binding *b, knhk_text s, uint64_t hash) {
  if (b->bundle == NULL) return KNHK_NONE;
  const uint32_t mask = (1u << b->bits) - 1;
  for (uint32_t i = (uint32_t)(hash >> 32) & mask;; i = (i + 1) & mask) {
    const uint32_t slot = b->slots[i], string = (slot & KNHK_SLOT_ID) - 1;
    if (slot == 0) return KNHK_NONE;
    if (slot >> 24 == (uint32_t)hash >> 24 && knhk_same(knhk_bundle_string(b, string), s)) return string;
  }
}

static uint64_t fnv1a(knhk_text s) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (uint32_t i = 0; i < s.n; i++) h = (h ^ s.p[i]) * 0x100000001b3ull;
  return h;
}

uint32_t knhk_bundle_subject(const knhk_binding *b, knhk_text iri) {
  if (b->bundle == NULL) return KNHK_NONE;
  const uint32_t mask = (uint32_t)(((uint64_t)1 << b->hbits) - 1);
  uint32_t i = (uint32_t)fnv1a(iri) & mask;
  for (uint32_t probes = 0; probes <= mask; probes++, i = (i + 1) & mask) {
    const uint32_t slot = u32_at(b->subject_slots + 4 * (size_t)i);
    if (slot == 0) return KNHK_NONE;
    if (knhk_same(knhk_bundle_string(b, u32_at(b->subjects + 16 * (size_t)(slot - 1))), iri)) return slot - 1;
  }
  return KNHK_NONE;
}

/* Strings ascend and are UTF-8; subjects ascend, tile the triples and are all in the hash table; indexes are in range. */
static int check_strings(const uint8_t *bundle, const layout *l, const knhk_binding *b) {
  if (u32_at(bundle + l->offsets) != 0 || u32_at(b->offsets + 4 * (size_t)l->nstr) != l->strbytes) return 0;
  for (uint32_t i = 0; i < l->nstr; i++)
    if (u32_at(b->offsets + 4 * (size_t)i) > u32_at(b->offsets + 4 * (size_t)i + 4) || u32_at(b->offsets + 4 * (size_t)i + 4) > l->strbytes) return 0;
  for (uint32_t i = 0; i < l->nstr; i++) {
    const knhk_text s = knhk_bundle_string(b, i);
    if (!knhk_utf8(s.p, s.n) || (i > 0 && knhk_order(knhk_bundle_string(b, i - 1), s) >= 0)) return 0;
  }
  return l->caller == KNHK_NONE || l->caller < l->nstr;
}

static int check_subjects(const layout *l, const knhk_binding *b) {
  uint32_t next = 0, before = 0;
  for (uint32_t i = 0; i < l->nsub; i++) {
    const uint8_t *s = b->subjects + 16 * (size_t)i;
    const uint32_t iri = u32_at(s), first = u32_at(s + 4), count = u32_at(s + 8);
    if (iri >= l->nstr || (i > 0 && iri <= before) || first != next || count > l->ntri - next || u32_at(s + 12) != 0) return 0;
    before = iri;
    next += count;
  }
  for (uint32_t i = 0; i < (uint32_t)1 << l->hbits; i++)
    if (u32_at(b->subject_slots + 4 * (size_t)i) > l->nsub) return 0;
  for (uint32_t i = 0; i < l->nsub; i++)
    if (knhk_bundle_subject(b, knhk_bundle_string(b, u32_at(b->subjects + 16 * (size_t)i))) != i) return 0;
  return next == l->ntri;
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

/* Room: binding, id_of, slots, fact_of, facts (at most one for each triple), fixed. */
size_t knhk_bind_size(const uint8_t *bundle, size_t len) {
  layout l;
  if (bundle == NULL || !read_layout(bundle, len, &l)) return align64(sizeof(knhk_binding));
  return align64(sizeof(knhk_binding)) + align64(4 * (size_t)l.nstr + 4) + align64((size_t)4 << table_bits(l.nstr)) +
         align64(4 * (size_t)l.nsub + 4) + align64(sizeof(knhk_fact) * (size_t)l.ntri) + align64(4 * (size_t)T->nfixed);
}

static void index_strings(knhk_binding *b, uint32_t *id_of, uint32_t *slots) {
  const uint32_t mask = (1u << b->bits) - 1;
  memset(slots, 0, (size_t)4 << b->bits);
  for (uint32_t i = 0; i < b->nstr; i++) {
    const knhk_text s = knhk_bundle_string(b, i);
    const uint64_t h = knhk_hash(s, T->seed);
    const uint32_t known = knhk_pack_find(s, h);
    id_of[i] = known != KNHK_NONE ? known : T->nstrings + i;
    uint32_t at = (uint32_t)(h >> 32) & mask;
    while (slots[at] != 0) at = (at + 1) & mask;
    slots[at] = ((uint32_t)h & ~KNHK_SLOT_ID) | (i + 1);
  }
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
  b->nsub = l.nsub;
  b->hbits = l.hbits;
  b->bits = table_bits(l.nstr);
  b->caller = l.caller;
  b->offsets = bundle + l.offsets;
  b->text = bundle + l.text;
  b->subject_slots = bundle + l.slots;
  b->subjects = bundle + l.subjects;
  if (!check_strings(bundle, &l, b) || !check_subjects(&l, b) || !check_triples(bundle + l.triples, &l)) return NULL;
  uint8_t *at = (uint8_t *)mem + align64(sizeof *b);
  uint32_t *id_of = (uint32_t *)(void *)at;
  at += align64(4 * (size_t)l.nstr + 4);
  uint32_t *slots = (uint32_t *)(void *)at;
  at += align64((size_t)4 << b->bits);
  uint32_t *fact_of = (uint32_t *)(void *)at;
  at += align64(4 * (size_t)l.nsub + 4);
  knhk_fact *facts = (knhk_fact *)(void *)at;
  b->id_of = id_of;
  b->slots = slots;
  b->fact_of = fact_of;
  b->facts = facts;
  index_strings(b, id_of, slots);
  const uint8_t *t = bundle + l.triples;
  for (uint32_t s = 0; s < l.nsub; s++) {
    fact_of[s] = b->nfact;
    for (uint32_t k = u32_at(b->subjects + 16 * (size_t)s + 8); k > 0; k--, t += 16)
      if (wanted(b->id_of[u32_at(t)])) facts[b->nfact++] = read_fact(b, t);
  }
  fact_of[l.nsub] = b->nfact;
  uint32_t *fixed = (uint32_t *)(void *)((uint8_t *)facts + align64(sizeof(knhk_fact) * (size_t)l.ntri));
  for (uint32_t i = 0; i < T->nfixed; i++)
    fixed[i] = T->fixed[3 * i] >> 60 == KNHK_K_IRI ? knhk_bundle_subject(b, knhk_pack_string((uint32_t)T->fixed[3 * i])) : KNHK_NONE;
  b->fixed = fixed;
  *err = KNHK_OK;
  return b;
}

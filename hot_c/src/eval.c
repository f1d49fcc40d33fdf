/* eval.c: the guards over a Δ. Values of a focus node are looked up once; rows are judged eight at a time over them (blocks), row by row over
 * chunks where a value occurs more than once; folds are passes over registers of 0 and 1. shards.h judges many Δs at once. Compiled once for each
 * instruction set, which names the functions; all give the same bits. */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define PAIRS_MAX 65536u /* comparisons of one property pair on one focus node; beyond, the tier below decides */
#define PAIRS_ALL (1u << 22) /* of all property pairs on all focus nodes */

typedef struct {
  knhk_chunk self; /* the focus node as the one value of KNHK_P_SELF */
  knhk_chunk one;  /* lane 0: a value that a row of TEST looks at; the others are 0 */
  knhk_delta *d;
  uint32_t escape, nmany; /* nmany: values of d->many */
  uint64_t pairs;         /* values gathered and compared so far by rows of pairs */
} context __attribute__((aligned(64)));

typedef struct {
  const knhk_chunk *c;
  uint32_t n;
  uint64_t key;
} run;

/* The chunks that may hold (node, p). Keys ascend; a run of up to 8 lies in one chunk, a longer one begins a chunk. */
static run run_of(const knhk_delta *d, uint32_t node, uint32_t p) {
  const knhk_node *n = &d->node[node];
  if (n->chunk == KNHK_NONE) knhk_cut_chunks((knhk_delta *)(uintptr_t)d, node); /* the Δ lies in writable scratch */
  run r = {d->chunk + n->chunk, n->nchunk, ((uint64_t)node << 32) | p};
  if (n->nchunk <= 2) return r;
  uint32_t lo = 0, hi = n->nchunk;
  while (lo < hi) {
    const uint32_t mid = (lo + hi) / 2;
    if (r.c[mid].key[0] < r.key) lo = mid + 1;
    else hi = mid;
  }
  uint32_t end = lo;
  while (end < n->nchunk && r.c[end].key[0] == r.key) end++;
  const uint32_t first = end > lo ? lo : lo > 0 ? lo - 1 : 0;
  r.c += first;
  r.n = (end > lo ? end : first + 1) - first;
  return r;
}

static run run_of_row(context *x, const knhk_row *row, uint32_t node) {
  const uint32_t focus = row->focus == 0 ? node : row->focus - 1u;
  if (row->p != KNHK_P_SELF) return run_of(x->d, focus, row->p);
  const knhk_node *n = &x->d->node[focus];
  const run r = {&x->self, 1, ((uint64_t)focus << 32) | KNHK_P_SELF};
  x->self.key[0] = r.key;
  x->self.obj[0] = n->term;
  x->self.val[0] = n->val;
  x->self.meta[0] = n->meta;
  return r;
}

static uint32_t inexact8(const uint64_t *val) {
  uint32_t mask = 0;
  for (int i = 0; i < 8; i++) mask |= (uint32_t)(val[i] >> 63) << i;
  return mask;
}

/* ---- tests over lanes ---- */

static uint32_t in8(const knhk_chunk *c, const uint64_t *terms, uint64_t n) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 8; i++) {
    uint64_t lo = 0, hi = n;
    while (lo < hi) {
      const uint64_t mid = (lo + hi) / 2;
      if (terms[mid] < c->obj[i]) lo = mid + 1;
      else hi = mid;
    }
    mask |= (uint32_t)(lo < n && terms[lo] == c->obj[i]) << i;
  }
  return mask;
}

typedef struct {
  uint64_t obj, val, meta;
} lane;

/* SPARQL's = : values of one family, else the same term. */
static int equal_values(lane x, lane y) {
  if (x.obj == y.obj) return 1;
  return x.val != 0 && x.val == y.val;
}

static int is_string(lane x) { return x.obj >> 32 == KNHK_TERM(KNHK_K_LITERAL, KNHK_S_XSD + KNHK_D_STRING - 1, 0) >> 32; }

/* SPARQL's != where it is not an error. */
static int unequal_values(lane x, lane y) {
  if (x.obj == y.obj) return 0;
  if (x.val != 0 && y.val != 0) return x.val >> 60 == y.val >> 60 && x.val != y.val;
  if ((x.meta & y.meta & KNHK_M_LITERAL) == 0) return 1;
  return is_string(x) && is_string(y);
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c; }

/* Basic filtering of RFC 4647, section 3.3.1; an empty tag matches nothing. */
static int lang_matches(knhk_text tag, knhk_text range) {
  if (tag.n == 0) return 0;
  if (range.n == 1 && range.p[0] == '*') return 1;
  if (range.n == 0 || tag.n < range.n || (tag.n > range.n && tag.p[range.n] != '-')) return 0;
  for (uint32_t i = 0; i < range.n; i++)
    if (lower(tag.p[i]) != lower(range.p[i])) return 0;
  return 1;
}

static uint32_t lang8(const knhk_delta *d, const knhk_chunk *c, const uint64_t *ranges, uint64_t n) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 8; i++) {
    if (c->obj[i] >> 60 != KNHK_K_LANG) continue;
    const knhk_text tag = knhk_string(d, (uint32_t)(c->obj[i] >> 32) & 0xfffffffu);
    for (uint64_t k = 0; k < n; k++) mask |= (uint32_t)lang_matches(tag, knhk_pack_string((uint32_t)ranges[k])) << i;
  }
  return mask;
}

static uint32_t value8(const knhk_chunk *c, const knhk_test *t) {
  const lane y = {t->a, t->b, t->c};
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 8; i++) {
    const lane x = {c->obj[i], c->val[i], c->meta[i]};
    mask |= (uint32_t)(t->op == KNHK_V_EQ ? equal_values(x, y) : unequal_values(x, y)) << i;
  }
  return mask;
}

/* Time of day in [a, b) microseconds and weekday (bit 0 Monday) in kinds, of exact dateTime lanes; c moves a lane's count to local time from a
 * Monday, 00:00. */
static uint32_t clock8(const knhk_chunk *c, const knhk_test *t) {
  const uint64_t day = 86400000000u;
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 8; i++) {
    const uint64_t local = (c->val[i] & (((uint64_t)1 << 60) - 1)) + t->c, of_day = local % day;
    const uint32_t weekday = (uint32_t)(local / day % 7);
    mask |= ((uint32_t)(c->val[i] >> 60 == KNHK_F_DATETIME) & (uint32_t)(of_day >= t->a) & (uint32_t)(of_day < t->b) & (t->kinds >> weekday) & 1u) << i;
  }
  return mask;
}

/* x->d may be NULL for values that are exact and a row without KNHK_TEXT. */
static uint32_t test8(context *x, const knhk_row *row, const knhk_chunk *c, uint32_t present) {
  uint8_t mask[KNHK_MASKS];
  for (uint64_t i = row->a; i < row->a + row->b; i++) {
    const knhk_test *t = &T->tests[i];
    uint32_t m = 0;
    switch (t->op) {
      case KNHK_V_VALIDATE: m = knhk_meta8(c->meta, t->a, t->b, t->kinds, t->c & 0xffffffffu, t->c >> 32); break;
      case KNHK_V_RANGE: m = knhk_range8(c->val, t->a, t->b); break;
      case KNHK_V_IN: m = in8(c, T->words + t->a, t->b); break;
      case KNHK_V_EQ: case KNHK_V_NE: m = value8(c, t); break;
      case KNHK_V_LANG: m = lang8(x->d, c, T->words + t->a, t->b); break;
      case KNHK_V_CLOCK: m = clock8(c, t); break;
      case KNHK_V_CONST: m = t->a != 0 ? 0xffu : 0; break;
      case KNHK_V_AND: m = mask[t->x] & mask[t->y]; break;
      case KNHK_V_OR: m = mask[t->x] | mask[t->y]; break;
      case KNHK_V_ANDNOT: m = mask[t->x] & ~(uint32_t)mask[t->y]; break;
      default: m = ~(uint32_t)mask[t->x]; break;
    }
    const int by_value = t->op == KNHK_V_RANGE || t->op == KNHK_V_CLOCK || ((t->op == KNHK_V_EQ || t->op == KNHK_V_NE) && t->b != 0);
    if (x->d != NULL && x->d->inexact && by_value) x->escape |= inexact8(c->val) & present;
    mask[t->dst] = (uint8_t)m;
  }
  return mask[(uint32_t)row->c];
}

/* ---- relations between runs ---- */

/* Lanes of (node, p) as chunk × 8 + lane, ascending by term. */
static uint32_t gather_run(const knhk_delta *d, uint32_t node, uint32_t p, uint64_t *out) {
  const run r = run_of(d, node, p);
  uint32_t n = 0;
  for (uint32_t i = 0; i < r.n; i++)
    for (uint32_t k = 0; k < 8; k++)
      if (r.c[i].key[k] == r.key) out[n++] = (uint64_t)(&r.c[i] - d->chunk) * 8 + k;
  return n;
}

static lane lane_at(const knhk_delta *d, uint64_t at) {
  const knhk_chunk *c = &d->chunk[at / 8];
  const lane x = {c->obj[at % 8], c->val[at % 8], c->meta[at % 8]};
  return x;
}

/* Literals of a type that has an order and no scaled form: times, parts of dates, durations. */
static int ordered_below(lane x) {
  const uint32_t code = ((uint32_t)(x.meta >> KNHK_M_DT_SHIFT) & (KNHK_ID_LIMIT - 1)) - KNHK_S_XSD + 1;
  return (code >= KNHK_D_TIME && code <= KNHK_D_GMONTH) || (code >= KNHK_D_DURATION && code <= KNHK_D_YEARMONTH);
}

/* -1, 0, 1, or 2 when the two cannot be compared: scaled values of one family, or two xsd:string by code point (UTF-8 keeps that order). */
static int ordered(context *x, lane a, lane b) {
  if (x->d->inexact && ((a.val | b.val) >> 63) != 0) {
    x->escape = 1;
    return 2;
  }
  if (a.val != 0 && b.val != 0) return a.val >> 60 != b.val >> 60 ? 2 : (a.val > b.val) - (a.val < b.val);
  if (ordered_below(a) && ordered_below(b)) {
    x->escape = 1;
    return 2;
  }
  if (!is_string(a) || !is_string(b)) return 2;
  const int c = knhk_order(knhk_string(x->d, (uint32_t)a.obj), knhk_string(x->d, (uint32_t)b.obj));
  return (c > 0) - (c < 0);
}

static int related(context *x, uint32_t relation, lane a, lane b) {
  if (relation >= KNHK_REL_EQ) {
    if (x->d->inexact && a.obj != b.obj && a.val != 0 && b.val != 0) x->escape |= (uint32_t)((a.val | b.val) >> 63);
    return relation == KNHK_REL_EQ ? equal_values(a, b) : unequal_values(a, b);
  }
  const int c = ordered(x, a, b);
  switch (relation) {
    case KNHK_REL_LT: return c == -1;
    case KNHK_REL_LE: return c == -1 || c == 0;
    case KNHK_REL_GT: return c == 1;
    default: return c == 1 || c == 0;
  }
}

static int same_terms(const knhk_delta *d, const uint64_t *a, uint32_t na, const uint64_t *b, uint32_t nb) {
  if (na != nb) return 0;
  for (uint32_t i = 0; i < na; i++)
    if (lane_at(d, a[i]).obj != lane_at(d, b[i]).obj) return 0;
  return 1;
}

static int no_common_term(const knhk_delta *d, const uint64_t *a, uint32_t na, const uint64_t *b, uint32_t nb) {
  for (uint32_t i = 0, j = 0; i < na && j < nb;) {
    const uint64_t p = lane_at(d, a[i]).obj, q = lane_at(d, b[j]).obj;
    if (p == q) return 0;
    if (p < q) i++;
    else j++;
  }
  return 1;
}

/* The focus node itself against the values of q: the pair of a node shape. */
static int self_holds(const knhk_delta *d, const knhk_row *row, uint32_t focus) {
  const run r = run_of(d, focus, (uint32_t)row->a);
  uint32_t n = 0, same = 0;
  for (uint32_t i = 0; i < r.n; i++) {
    const uint32_t present = knhk_eq8(r.c[i].key, r.key);
    n += (uint32_t)__builtin_popcount(present);
    same |= present & knhk_eq8(r.c[i].obj, d->node[focus].term);
  }
  return row->kinds == KNHK_REL_EQUALS ? (n == 1 && same != 0) : same == 0;
}

static int too_many(context *x, uint32_t na, uint32_t nb) {
  const uint64_t pairs = (uint64_t)na * nb;
  x->pairs += pairs + na + nb;
  if (pairs <= PAIRS_MAX && x->pairs <= PAIRS_ALL) return 0;
  x->escape = 1;
  return 1;
}

static int pair_holds(context *x, const knhk_row *row, uint32_t node) {
  const uint32_t focus = row->focus == 0 ? node : row->focus - 1u;
  if (row->p == KNHK_P_SELF) return self_holds(x->d, row, focus);
  const knhk_delta *d = x->d;
  uint64_t *a = x->d->gather;
  const uint32_t na = gather_run(d, focus, row->p, a);
  uint64_t *b = a + na;
  const uint32_t nb = gather_run(d, focus, (uint32_t)row->a, b);
  if (row->kinds == KNHK_REL_EQUALS) return same_terms(d, a, na, b, nb);
  if (row->kinds == KNHK_REL_DISJOINT) return no_common_term(d, a, na, b, nb);
  if (too_many(x, na, nb)) return 0;
  int good = 1;
  for (uint32_t i = 0; i < na; i++)
    for (uint32_t j = 0; j < nb; j++) good &= related(x, row->kinds, lane_at(d, a[i]), lane_at(d, b[j]));
  return good;
}

static int within_holds(context *x, const knhk_row *row, uint32_t node) {
  const uint32_t focus = row->focus == 0 ? node : row->focus - 1u, other = row->b == 0 ? node : (uint32_t)row->b - 1;
  const knhk_delta *d = x->d;
  if (x->pairs > PAIRS_ALL) return 0;
  uint64_t *a = x->d->gather;
  const uint32_t na = gather_run(d, focus, row->p, a);
  uint64_t *b = a + na;
  const uint32_t nb = gather_run(d, other, (uint32_t)row->a, b);
  if (too_many(x, na, nb)) return 0;
  const uint32_t every = row->kinds == KNHK_REL_NE;
  int good = na > 0 && nb > 0;
  for (uint32_t i = 0; i < na; i++) {
    uint32_t found = 0;
    for (uint32_t j = 0; j < nb; j++) found += (uint32_t)related(x, row->kinds, lane_at(d, a[i]), lane_at(d, b[j]));
    good &= every ? found == nb : found != 0;
  }
  return good;
}

static int allowed(const uint64_t *words, uint32_t p) { return p < T->nstrings && ((words[p / 64] >> (p % 64)) & 1) != 0; }

static int closed_holds(context *x, const knhk_row *row, uint32_t node) {
  const knhk_node *n = &x->d->node[row->focus == 0 ? node : row->focus - 1u];
  const uint64_t *words = T->words + row->a;
  int good = 1;
  for (uint32_t i = n->first; i < n->first + n->count; i++) good &= allowed(words, (uint32_t)x->d->triple[i].key);
  return good;
}

void knhk_sort64(uint64_t *a, uint64_t *spare, uint32_t n);

static int distinct(context *x, uint64_t *a, uint32_t n) {
  if (n <= 8) {
    knhk_chunk c;
    memset(&c, 0, sizeof c);
    memcpy(c.obj, a, n * sizeof *a);
    return knhk_twice8(c.obj, (1u << n) - 1) == 0;
  }
  knhk_sort64(a, x->d->gather + x->d->triple_cap, n);
  for (uint32_t i = 1; i < n; i++)
    if (a[i] == a[i - 1]) return 0;
  return 1;
}

static int languages_differ(context *x, const knhk_row *row, uint32_t node) {
  const run r = run_of_row(x, row, node);
  uint64_t *tags = x->d->gather;
  uint32_t n = 0;
  for (uint32_t i = 0; i < r.n; i++)
    for (uint32_t k = 0; k < 8; k++)
      if (r.c[i].key[k] == r.key && r.c[i].obj[k] >> 60 == KNHK_K_LANG) tags[n++] = (r.c[i].obj[k] >> 32) & 0xfffffffu;
  return distinct(x, tags, n);
}

/* ---- one row over the chunks of its values ---- */

static uint32_t good8(context *x, const knhk_row *row, const knhk_chunk *c, uint32_t present) {
  switch (row->kernel) {
    case KNHK_R_ASK_SPO: return knhk_eq8(c->obj, row->a);
    case KNHK_R_COMPARE: return knhk_range8(c->val, row->a, row->b);
    case KNHK_R_VALIDATE: return knhk_meta8(c->meta, row->a, row->b, row->kinds, row->c & 0xffffffffu, row->c >> 32);
    case KNHK_R_FEW: case KNHK_R_IN: return in8(c, T->words + row->a, row->b);
    case KNHK_R_TEST: return test8(x, row, c, present);
    default: return present; /* ASK_SP */
  }
}

/* `some` and `bad` join the chunks of a run. */
static int run_holds(context *x, const knhk_row *row, uint32_t node) {
  const run r = run_of_row(x, row, node);
  uint32_t some = 0, bad = 0;
  for (uint32_t k = 0; k < r.n; k++) {
    const knhk_chunk *c = &r.c[k];
    const uint32_t present = knhk_eq8(c->key, r.key), good = good8(x, row, c, present) & present;
    some |= good;
    bad |= present & ~good;
  }
  return row->mode == KNHK_SOME ? some != 0 : bad == 0;
}

static int count_holds(context *x, const knhk_row *row, uint32_t node) {
  const run r = run_of_row(x, row, node);
  uint64_t n = 0;
  for (uint32_t k = 0; k < r.n; k++) n += (uint64_t)__builtin_popcount(knhk_eq8(r.c[k].key, r.key));
  return n >= row->a && n <= row->b;
}

static int one_of(const uint64_t *terms, uint64_t n, uint64_t term) {
  if (n > 32) {
    uint64_t lo = 0;
    while (n > 1) {
      const uint64_t half = n / 2;
      lo += terms[lo + half] <= term ? half : 0;
      n -= half;
    }
    return terms[lo] == term;
  }
  const knhk_v8 t = knhk_splat(term);
  uint32_t found = 0;
  for (uint64_t i = 0; i < n; i += 8) found |= knhk_eq(knhk_load_any(terms + i), t) & ((1u << (n - i < 8 ? n - i : 8)) - 1);
  return found != 0;
}

static int in_holds(const knhk_row *row, uint64_t term) {
  if (term == 0) return row->mode == KNHK_ALL;
  return row->b > 0 && one_of(T->words + row->a, row->b, term);
}

static int row_holds(context *x, const knhk_row *row, uint32_t node) {
  switch (row->kernel) {
    case KNHK_R_COUNT: return count_holds(x, row, node);
    case KNHK_R_UNIQUE: return languages_differ(x, row, node);
    case KNHK_R_PAIR: return pair_holds(x, row, node);
    case KNHK_R_CLOSED: return closed_holds(x, row, node);
    case KNHK_R_WITHIN: return within_holds(x, row, node);
    default: return run_holds(x, row, node);
  }
}

/* ---- the values of a focus node: one each where it has no more, and which have more ---- */

typedef struct { /* where values go: the next is `step` words on */
  uint64_t *obj, *val, *meta;
} lanes;

/* The triples from t on whose predicate is p, of those that end at `end`: the first is value i. Returns what comes after them. */
KNHK_INLINE const knhk_triple *take_value(context *x, lanes to, uint32_t step, uint32_t i, uint32_t p, const knhk_triple *t, const knhk_triple *end) {
  while (t < end && (uint32_t)t->key < p) t++;
  if (t == end || (uint32_t)t->key != p) {
    to.obj[i * step] = 0;
    return t;
  }
  to.obj[i * step] = t->obj;
  to.val[i * step] = t->val;
  to.meta[i * step] = t->meta;
  if (++t == end || (uint32_t)t->key != p) return t;
  x->d->many[x->nmany++] = i;
  while (t < end && (uint32_t)t->key == p) t++;
  return t;
}

KNHK_INLINE void take_self(const knhk_node *n, lanes to, uint32_t at) {
  to.obj[at] = n->term;
  to.val[at] = n->val;
  to.meta[at] = n->meta;
}

/* Values first … last - 1 of a program, which are of one node and ascend by predicate, as triples do; the node itself comes last. */
KNHK_INLINE void take_of(context *x, const knhk_value *v, uint32_t first, uint32_t last, uint32_t node, lanes to, uint32_t step) {
  const knhk_node *n = &x->d->node[node];
  const knhk_triple *t = x->d->triple + n->first, *end = t + n->count;
  for (uint32_t i = first; i < last; i++) {
    t = take_value(x, to, step, i, v[i].p, t, end);
    if (v[i].p == KNHK_P_SELF) take_self(n, to, i * step);
  }
}

/* Those of the focus node, then those of fixed nodes, node by node. */
KNHK_INLINE void take_values(context *x, const knhk_program *program, uint32_t node, lanes to, uint32_t step) {
  const knhk_value *v = T->values + program->value;
  x->nmany = 0;
  take_of(x, v, 0, program->nown, node, to, step);
  for (uint32_t i = program->nown, first = i; i < program->nvalue; first = i) {
    while (i < program->nvalue && v[i].focus == v[first].focus) i++;
    take_of(x, v, first, i, v[first].focus - 1, to, step);
  }
}

/* ---- rows ---- */

/* A row of TEST over eight values, each the only one or absent. */
static uint32_t test_holds(context *x, const knhk_row *row, const knhk_chunk *c) {
  const knhk_v8 terms = knhk_load(c->obj);
  const uint32_t present = knhk_meet(terms, terms), all = 0u - (row->mode == KNHK_ALL);
  return (test8(x, row, c, present) & present) | (~present & all);
}

static int one_test_holds(context *x, const knhk_row *row, lane v) {
  x->one.obj[0] = v.obj;
  x->one.val[0] = v.val;
  x->one.meta[0] = v.meta;
  return (int)(test_holds(x, row, &x->one) & 1);
}

/* A pair of values, each the only one or absent. */
static int one_pair_holds(context *x, const knhk_row *row, lane a, lane b) {
  if (row->kinds == KNHK_REL_EQUALS) return a.obj == b.obj;
  if (a.obj == 0 || b.obj == 0) return 1;
  return row->kinds == KNHK_REL_DISJOINT ? a.obj != b.obj : related(x, row->kinds, a, b);
}

KNHK_INLINE lane taken(lanes from, uint32_t step, uint64_t value) {
  const size_t at = (size_t)(uint32_t)value * step;
  const lane v = {from.obj[at], from.val[at], from.meta[at]};
  return v;
}

/* A row outside of blocks, as if each of its values were the only one: what occurs more than once is judged again. */
static int once_holds(context *x, const knhk_row *row, lanes from, uint32_t step, uint32_t node) {
  switch (row->kernel) {
    case KNHK_R_IN: return in_holds(row, from.obj[row->c * step]);
    case KNHK_R_TEST: return one_test_holds(x, row, taken(from, step, row->c >> 32));
    case KNHK_R_PAIR: return one_pair_holds(x, row, taken(from, step, row->c), taken(from, step, row->c >> 32));
    default: return row_holds(x, row, node);
  }
}

/* Whether a row that is reached by a value that occurs more than once was reached by another one already: a pair has two. */
static int again(const context *x, const knhk_row *row, uint32_t value) {
  const uint32_t first = (uint32_t)row->c;
  if (row->kernel != KNHK_R_PAIR || first == value) return 0;
  for (uint32_t m = 0; m < x->nmany; m++)
    if (x->d->many[m] == first) return 1;
  return 0;
}

/* One loop over the blocks of a kernel: HOLDS over eight values at once. */
#define BLOCKS(kernel, HOLDS)                                                                                    \
  for (uint32_t i = program->blocks[kernel]; i < program->blocks[(kernel) + 1]; i++) {                           \
    const knhk_block *b = &T->blocks[i];                                                                         \
    const uint64_t *k = T->lanes + b->at;                                                                        \
    const knhk_v8 term = PICK(obj);                                                                              \
    const uint32_t present = knhk_meet(term, term);                                                              \
    (void)k;                                                                                                     \
    const uint32_t holds = (present & (HOLDS)) | (b->absent & ~present);                                         \
    bad |= *outs++ & ~holds;                                                                                     \
    *bits++ = (uint8_t)holds;                                                                                    \
  }
#define PICK(lane) knhk_pick(lane + b->base, b->number)
#define K(i) knhk_load(k + 8 * (i))

/* 0 when all outputs of blocks are true. outs: of their bytes; programs without outputs give any bytes and do not ask. */
static uint32_t run_blocks(const knhk_delta *d, const knhk_program *program, const uint8_t *outs, uint8_t *restrict bits) {
  uint32_t bad = 0;
  const uint64_t *const obj = d->obj, *const val = d->val, *const meta = d->meta;
  BLOCKS(KNHK_R_ASK_SP, b->single)
  BLOCKS(KNHK_R_ASK_SPO, knhk_eq(term, K(0)))
  BLOCKS(KNHK_R_COUNT, b->single)
  BLOCKS(KNHK_R_COMPARE, knhk_within(PICK(val), K(0), K(1)))
  BLOCKS(KNHK_R_VALIDATE, knhk_eq(knhk_and(PICK(meta), K(0)), K(1)) & knhk_meet(PICK(meta), K(2)) & knhk_within(knhk_lengths(PICK(meta)), K(3), K(4)))
  BLOCKS(KNHK_R_FEW, knhk_eq(term, K(0)) | knhk_eq(term, K(1)) | knhk_eq(term, K(2)) | knhk_eq(term, K(3)))
  return bad;
}

static void put_bit(uint8_t *bits, uint32_t at, int holds) {
  bits[at / 8] = (uint8_t)((bits[at / 8] & ~(1u << (at % 8))) | ((uint32_t)(holds != 0) << (at % 8)));
}

/* Inexact values under a comparison: only looked for when the Δ has any. */
static void find_inexact(context *x, const knhk_program *program, uint32_t node) {
  for (uint32_t i = program->rows[KNHK_R_COMPARE]; i < program->rows[KNHK_R_COMPARE + 1]; i++) {
    const run r = run_of_row(x, &T->rows[i], node);
    for (uint32_t k = 0; k < r.n; k++) x->escape |= knhk_eq8(r.c[k].key, r.key) & inexact8(r.c[k].val);
  }
}

/* Bits of all rows, over one focus node. 0 when all outputs are known to be true. */
static uint32_t run_rows(context *x, const knhk_program *program, uint32_t node) {
  knhk_delta *d = x->d;
  const lanes values = {d->obj, d->val, d->meta};
  take_values(x, program, node, values, 1);
  const uint8_t *outs = program->kind == KNHK_PROGRAM_GUARDS ? T->outs + program->fail : d->regs;
  const uint32_t bad = run_blocks(d, program, outs, d->bits);
  for (uint32_t i = program->rows[KNHK_R_UNIQUE]; i < program->rows[KNHK_R_KINDS]; i++) {
    const knhk_row *row = &T->rows[i];
    put_bit(d->bits, row->out, once_holds(x, row, values, 1, node));
  }
  for (uint32_t m = 0; m < x->nmany; m++) {
    const knhk_value *v = &T->values[program->value + d->many[m]];
    for (uint32_t i = v->row; i < v->row + v->nrow; i++) {
      const knhk_row *row = &T->rows[T->value_rows[i]];
      if (!again(x, row, d->many[m])) put_bit(d->bits, row->out, row_holds(x, row, node));
    }
  }
  if (d->inexact) find_inexact(x, program, node);
  return bad | x->nmany | (program->rows[KNHK_R_KINDS] - program->rows[KNHK_R_UNIQUE]) | program->nfold;
}

static uint64_t spread(uint8_t bits) { /* bit i to byte i */
  return (((uint64_t)(bits & 0x7f) * 0x02040810204081ull) & 0x0101010101010101ull) | ((uint64_t)(bits >> 7) << 56);
}

/* Registers from bits, folds over them, and the bits of folds. */
static void run_folds(knhk_delta *d, const knhk_program *program) {
  uint8_t *local = d->regs + T->nglobals;
  for (uint32_t i = 0; i < program->fold_byte; i++) {
    const uint64_t eight = spread(d->bits[i]);
    memcpy(local + 8 * i, &eight, 8);
  }
  for (uint32_t i = program->fold; i < program->fold + program->nfold; i++) {
    const knhk_fold *f = &T->folds[i];
    const uint8_t a = f->op == KNHK_B_CONST ? (uint8_t)f->x : d->regs[f->x], b = f->op < KNHK_B_NOT ? d->regs[f->y] : 0;
    const uint8_t made[5] = {a & b, a | b, (uint8_t)(a & (b ^ 1)), a ^ 1, a};
    d->regs[f->dst] = made[f->op];
  }
  for (uint32_t i = program->fold_byte; i < program->nbyte; i++) {
    uint64_t eight;
    memcpy(&eight, local + 8 * i, 8);
    d->bits[i] = (uint8_t)(((eight & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56);
  }
}

/* ---- targets ---- */

static int is_focus(const knhk_delta *d, const knhk_target *t, uint32_t node) {
  const knhk_node *n = &d->node[node];
  const uint32_t p = t->kind == KNHK_T_CLASS ? KNHK_S_RDF_TYPE : t->node;
  for (const knhk_triple *x = d->triple + n->first, *end = x + n->count; x < end && (uint32_t)x->key <= p; x++) {
    if ((uint32_t)x->key != p) continue;
    if (t->kind == KNHK_T_SUBJECTS_OF) return 1;
    for (uint32_t i = 0; i < t->count; i++)
      if (x->obj == T->words[t->first + i]) return 1;
  }
  return 0;
}

static uint32_t next_focus(const knhk_delta *d, const knhk_target *t, uint32_t node) {
  if (t->kind == KNHK_T_NODE) return node <= t->node ? t->node : d->nnode;
  while (node < d->nnode && !is_focus(d, t, node)) node++;
  return node;
}

static void record(const knhk_delta *d, const knhk_program *program, uint32_t node, knhk_recorder *recorder) {
  for (uint32_t i = program->output; i < program->output + program->noutput; i++) {
    const knhk_output *o = &T->outputs[i];
    if (((d->bits[o->bit / 8] >> (o->bit % 8)) & 1) == 0 && T->klass[o->guard] == KNHK_CLASS_R1) recorder->failed(recorder, d, o->guard, node);
  }
}

static void fail_outputs(knhk_delta *d, const knhk_program *program) {
  const uint8_t *outs = T->outs + program->fail;
  uint8_t *fail = d->fail + program->fail;
  for (uint32_t i = 0; i < program->nbyte; i += 8) {
    uint64_t f, o, b;
    memcpy(&f, fail + i, 8);
    memcpy(&o, outs + i, 8);
    memcpy(&b, d->bits + i, 8);
    f |= o & ~b;
    memcpy(fail + i, &f, 8);
  }
}

static void run_guards(context *x, const knhk_program *program, knhk_recorder *recorder) {
  knhk_delta *d = x->d;
  const knhk_target *t = &T->targets[program->target];
  for (uint32_t node = next_focus(d, t, 0); node < d->nnode; node = next_focus(d, t, node + 1)) {
    if (run_rows(x, program, node) == 0) continue;
    if (program->nfold > 0) run_folds(d, program);
    fail_outputs(d, program);
    if (recorder != NULL) record(d, program, node, recorder);
  }
}

static void run_forall(context *x, const knhk_program *program) {
  knhk_delta *d = x->d;
  const knhk_target *t = &T->targets[program->target];
  uint32_t n = 0;
  uint8_t good = 1;
  for (uint32_t node = next_focus(d, t, 0); node < d->nnode; node = next_focus(d, t, node + 1), n++) {
    run_rows(x, program, node);
    run_folds(d, program);
    good &= d->regs[program->output];
  }
  d->regs[program->global] = good & (uint8_t)(n >= program->min);
}

static void run_unique(context *x, const knhk_program *program) {
  knhk_delta *d = x->d;
  const knhk_target *t = &T->targets[program->target];
  uint32_t n = 0;
  for (uint32_t node = next_focus(d, t, 0); node < d->nnode; node = next_focus(d, t, node + 1)) {
    const run r = run_of(d, node, program->output);
    for (uint32_t i = 0; i < r.n; i++)
      for (uint32_t k = 0; k < 8; k++)
        if (r.c[i].key[k] == r.key) d->gather[n++] = r.c[i].obj[k];
  }
  d->regs[program->global] = (uint8_t)distinct(x, d->gather, n);
}

static void make(context *x, uint32_t maker, uint32_t subject, uint32_t p, uint64_t object) {
  knhk_delta *d = x->d;
  const knhk_output_triple t = {d->node[subject].term, object, p, 0};
  d->makers[maker / 8] |= (uint8_t)(1u << (maker % 8));
  for (uint32_t i = 0; i < d->nmade && i < KNHK_MADE_MAX; i++)
    if (d->made[i].s == t.s && d->made[i].p == t.p && d->made[i].o == t.o) return;
  if (d->nmade < KNHK_MADE_MAX) d->made[d->nmade] = t;
  d->nmade = knhk_umin(d->nmade + 1, KNHK_MADE_MAX + 1);
}

static void make_values(context *x, uint32_t maker, const knhk_make *m, uint32_t subject, uint32_t node) {
  const knhk_row row = {.p = m->value_p, .focus = (uint16_t)m->value_of, .a = m->test, .b = m->ntest, .c = m->mask};
  const run r = run_of_row(x, &row, node);
  for (uint32_t i = 0; i < r.n; i++) {
    const uint32_t present = knhk_eq8(r.c[i].key, r.key), good = present & test8(x, &row, &r.c[i], present);
    for (uint32_t k = 0; k < 8; k++)
      if ((good >> k & 1) != 0) make(x, maker, subject, m->p, r.c[i].obj[k]);
  }
}

static void run_construct(context *x, const knhk_program *program) {
  knhk_delta *d = x->d;
  if (d->nmade == 0) memset(d->makers, 0, T->nfail);
  const knhk_target *t = &T->targets[program->target];
  for (uint32_t node = next_focus(d, t, 0); node < d->nnode; node = next_focus(d, t, node + 1)) {
    run_rows(x, program, node);
    run_folds(d, program);
    if (d->regs[program->global] == 0) continue;
    for (uint32_t i = program->output; i < program->output + program->noutput; i++) {
      const knhk_make *m = &T->makes[i];
      const uint32_t subject = m->subject == 0 ? node : m->subject - 1u;
      if (m->kind == KNHK_MAKE_VALUES) make_values(x, program->fail, m, subject, node);
      else make(x, program->fail, subject, m->p, m->kind == KNHK_MAKE_THIS ? d->node[node].term : m->term);
    }
  }
}

int32_t KNHK_NAME(eval)(knhk_delta *d, knhk_recorder *recorder) {
  context x;
  memset(&x, 0, sizeof x);
  x.d = d;
  d->nmade = 0;
  knhk_clear(d->fail, T->nfail);
  for (uint32_t i = 0; i < T->nprograms; i++) {
    const knhk_program *p = &T->programs[i];
    switch (p->kind) {
      case KNHK_PROGRAM_FORALL: run_forall(&x, p); break;
      case KNHK_PROGRAM_UNIQUE: run_unique(&x, p); break;
      case KNHK_PROGRAM_CONSTRUCT: run_construct(&x, p); break;
      default: run_guards(&x, p, recorder);
    }
  }
  return x.escape != 0 ? KNHK_ESCAPE : KNHK_OK;
}

#include "shards.h"

#if defined(KNHK_PLAIN)

/* Least significant byte first, eight passes. */
void knhk_sort64(uint64_t *a, uint64_t *spare, uint32_t n) {
  for (uint32_t shift = 0; shift < 64; shift += 8) {
    uint32_t at[257] = {0};
    for (uint32_t i = 0; i < n; i++) at[((a[i] >> shift) & 255) + 1]++;
    for (uint32_t i = 0; i < 256; i++) at[i + 1] += at[i];
    for (uint32_t i = 0; i < n; i++) spare[at[(a[i] >> shift) & 255]++] = a[i];
    uint64_t *t = a;
    a = spare;
    spare = t;
  }
}

static uint64_t first_of(const knhk_chunk *c, uint32_t mask) { return mask == 0 ? 0 : c->obj[__builtin_ctz(mask)]; }

static uint64_t bad_value(context *x, const knhk_row *row, const knhk_chunk *c, uint64_t key) {
  const uint32_t present = knhk_eq8(c->key, key);
  switch (row->kernel) {
    case KNHK_R_ASK_SPO: return first_of(c, present & ~knhk_eq8(c->obj, row->a));
    case KNHK_R_COMPARE: return first_of(c, present & ~knhk_range8(c->val, row->a, row->b));
    case KNHK_R_VALIDATE: return first_of(c, present & ~knhk_meta8(c->meta, row->a, row->b, row->kinds, row->c & 0xffffffffu, row->c >> 32));
    case KNHK_R_FEW: case KNHK_R_IN: case KNHK_R_TEST: return first_of(c, present & ~good8(x, row, c, present));
    case KNHK_R_PAIR: case KNHK_R_WITHIN: return first_of(c, present);
    default: return 0;
  }
}

/* The first predicate that is not allowed, as an IRI. */
static uint64_t bad_predicate(context *x, const knhk_row *row, uint32_t node) {
  const knhk_node *n = &x->d->node[node];
  for (uint32_t i = n->first; i < n->first + n->count; i++) {
    const uint32_t p = (uint32_t)x->d->triple[i].key;
    if (!allowed(T->words + row->a, p)) return KNHK_TERM(KNHK_K_IRI, 0, p);
  }
  return 0;
}

uint64_t knhk_witness(const knhk_delta *d, const knhk_row *row, uint32_t node) {
  context x;
  memset(&x, 0, sizeof x);
  x.d = (knhk_delta *)(uintptr_t)d;
  if (row->kernel == KNHK_R_CLOSED) return bad_predicate(&x, row, row->focus == 0 ? node : row->focus - 1u);
  const run r = run_of_row(&x, row, node);
  for (uint32_t i = 0; i < r.n; i++) {
    const uint64_t bad = bad_value(&x, row, &r.c[i], r.key);
    if (bad != 0) return bad;
  }
  return 0;
}

#endif

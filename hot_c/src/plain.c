/* plain.c: JSON as programs mostly write it (UTF-8, no escape), read in one pass by the mapping's states, without a tree. It takes part of what
 * json.c takes and gives the same Δ; whatever else a body holds, and whatever is wrong with it, is left to json.c, which begins anew.
 * Compiled once for each instruction set, which names the function. */
#define KNHK_BUILDING_PACK
#include "quotes.h"
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define PAD 64u        /* zeros behind the copy of a body: they end whatever did not end */
#define NAMES_MAX 64u  /* members of one object that have no edge: they are compared one by one */

typedef struct {
  uint64_t head;
  knhk_text name;
} met;

typedef struct { /* p: NULL when the body is left to yyjson */
  const uint8_t *p;
  const uint32_t *quote; /* where quotation marks are, the next one first */
} place;

typedef struct {
  knhk_walk *w;
  const uint8_t *text; /* the body, with zeros behind it */
  met *names;          /* of the objects that are open, in the memory of gather */
  uint32_t nname, name_cap, unknown_deny;
} reader;

/* ---- scalars ---- */

static __attribute__((noinline)) const uint8_t *skip_space(const uint8_t *p) {
  while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
  return p;
}
KNHK_INLINE const uint8_t *skip(const uint8_t *p) { return __builtin_expect(*p > ' ', 1) ? p : skip_space(p); }

static int is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }

/* The end of a run of at least one digit, or NULL. */
static const uint8_t *digits(const uint8_t *p) {
  if (!is_digit(*p)) return NULL;
  while (is_digit(*p)) p++;
  return p;
}

/* The end of a number (RFC 8259, section 6), or NULL. */
static __attribute__((noinline)) const uint8_t *any_number(const uint8_t *p) {
  p += *p == '-';
  p = *p == '0' ? p + 1 : digits(p);
  if (p != NULL && *p == '.') p = digits(p + 1);
  if (p == NULL || (*p | 0x20) != 'e') return p;
  p++;
  return digits(p + (*p == '+' || *p == '-'));
}

/* The same; a few digits without any other sign of a number are seen at once. */
KNHK_INLINE const uint8_t *number_end(const uint8_t *p) {
  const uint64_t x = knhk_bytes8(p) ^ 0x3030303030303030ull, other = (x | (x + 0x7676767676767676ull)) & 0x8080808080808080ull;
  const uint32_t n = other == 0 ? 8 : (uint32_t)__builtin_ctzll(other) / 8;
  return n - 1 < 7 && (*p != '0' || n == 1) && p[n] != '.' && (p[n] | 0x20) != 'e' ? p + n : any_number(p);
}

/* Of null x->s.p is NULL. */
static const uint8_t *literal(const uint8_t *p, knhk_scalar *x) {
  const uint64_t four = knhk_bytes4(p);
  x->kind = KNHK_SCALAR_BOOLEAN;
  x->s.p = four == knhk_bytes4((const uint8_t *)"null") ? NULL : p;
  x->s.n = 4;
  if (four == knhk_bytes4((const uint8_t *)"true") || x->s.p == NULL) return p + 4;
  x->s.n = 5;
  return four == knhk_bytes4((const uint8_t *)"fals") && p[4] == 'e' ? p + 5 : NULL;
}

/* A string at its quotation marks, or another scalar. Returns where it ends. */
KNHK_INLINE place read_scalar(const uint8_t *text, place at, knhk_scalar *x) {
  if (*at.p == '"') {
    x->s.p = text + at.quote[0] + 1;
    x->s.n = at.quote[1] - at.quote[0] - 1;
    x->kind = KNHK_SCALAR_STRING;
    at.p = text + at.quote[1] + 1;
    at.quote += 2;
    return at;
  }
  const uint8_t *p = at.p;
  if (*p >= 'a') {
    at.p = literal(p, x);
    return at;
  }
  at.p = number_end(p);
  x->s.p = p;
  x->s.n = at.p == NULL ? 0 : (uint32_t)(at.p - p);
  x->kind = KNHK_SCALAR_NUMBER;
  return at;
}

/* ---- the walk: as that of json.c, but that every fault ends it ---- */

static const place NOWHERE = {NULL, NULL};

static place after(place at) {
  at.p = skip(at.p + 1);
  return at;
}

static int well(const knhk_walk *w) { return w->d->fault.code == KNHK_FAULT_NONE; }

/* A scalar of a state; 0 when it does not fit. */
static int take_scalar(knhk_walk *w, const knhk_state *s, knhk_scalar x) {
  if (knhk_misfit(s, KNHK_SHAPE_SCALAR, x) != KNHK_FAULT_NONE) return 0;
  knhk_begin_items(w, s);
  knhk_capture_value(w, s, x, 0);
  if (well(w)) knhk_end_items(w, s);
  return well(w);
}

static place read_container(reader *r, place at, uint32_t state, uint32_t depth);

static place read_value(reader *r, place at, uint32_t state, uint32_t depth) {
  knhk_scalar x;
  if (*at.p == '{' || *at.p == '[') return read_container(r, at, state, depth);
  at = read_scalar(r->text, at, &x);
  return at.p == NULL || state == 0 || x.s.p == NULL || take_scalar(r->w, &T->states[state], x) ? at : NOWHERE;
}

/* 1 when a name that is not told by an edge was met in the object whose names begin at `first`, or there are too many of them. */
static int meets_again(reader *r, uint32_t first, knhk_text name, uint64_t head) {
  for (uint32_t i = first; i < r->nname; i++)
    if (r->names[i].head == head && knhk_same(r->names[i].name, name)) return 1;
  if (r->nname == r->name_cap || r->nname - first == NAMES_MAX) return 1;
  met *m = &r->names[r->nname++];
  m->head = head;
  m->name.p = name.p;
  m->name.n = name.n;
  return 0;
}

/* The value of a member; edge: NULL when nothing is mapped there. */
KNHK_INLINE place read_member(reader *r, place at, const knhk_edge *edge, uint32_t depth) {
  knhk_scalar x;
  if (*at.p == '{' || *at.p == '[') return read_container(r, at, edge == NULL ? 0 : edge->state, depth);
  at = read_scalar(r->text, at, &x);
  if (at.p == NULL || edge == NULL || x.s.p == NULL) return at;
  if (edge->plain != 0) {
    knhk_capture_plain(r->w, edge->plain - 1, x);
    return at;
  }
  return take_scalar(r->w, &T->states[edge->state], x) ? at : NOWHERE;
}

/* From the brace on. Members that were met: those of the first 64 edges as bits, for edges have distinct names; the others by name. */
static place read_object(reader *r, place at, const knhk_state *s, uint32_t depth) {
  const uint8_t *const text = r->text;
  const uint32_t first = r->nname;
  uint64_t edges = 0;
  uint32_t hint = 0;
  at = after(at);
  if (*at.p == '}') {
    at.p++;
    return at;
  }
  for (;; at = after(at)) {
    if (*at.p != '"') return NOWHERE;
    const knhk_text name = {text + at.quote[0] + 1, at.quote[1] - at.quote[0] - 1};
    const uint64_t head = knhk_padded_head(name);
    const uint32_t edge = knhk_member_edge(s, name, head, &hint);
    if (edge - 1 < 64) {
      const uint64_t bit = (uint64_t)1 << (edge - 1);
      if ((edges & bit) != 0) return NOWHERE;
      edges |= bit;
    } else if (meets_again(r, first, name, head) || (edge == 0 && r->unknown_deny)) {
      return NOWHERE;
    }
    at.p = skip(text + at.quote[1] + 1);
    at.quote += 2;
    if (*at.p != ':') return NOWHERE;
    at = read_member(r, after(at), edge == 0 ? NULL : T->edges + s->edge + edge - 1, depth + 1);
    if (at.p == NULL) return NOWHERE;
    at.p = skip(at.p);
    if (*at.p != ',') break;
  }
  r->nname = first;
  if (*at.p != '}') return NOWHERE;
  at.p++;
  return at;
}

/* From the bracket on. */
static __attribute__((noinline)) place read_array(reader *r, place at, const knhk_state *s, uint32_t depth) {
  at = after(at);
  for (uint32_t i = 0; *at.p != ']'; i++) {
    const uint32_t next = knhk_element_state(s, i);
    if (next == 0 && r->unknown_deny) return NOWHERE;
    at = read_value(r, at, next, depth + 1);
    if (at.p == NULL) return NOWHERE;
    at.p = skip(at.p);
    if (*at.p == ']') break;
    if (*at.p != ',') return NOWHERE;
    at = after(at);
    if (*at.p == ']') return NOWHERE;
  }
  at.p++;
  return at;
}

static place read_container(reader *r, place at, uint32_t state, uint32_t depth) {
  static const knhk_scalar none = {{(const uint8_t *)"", 0}, KNHK_SCALAR_STRING};
  const knhk_state *s = &T->states[state];
  const uint32_t shape = *at.p == '{' ? KNHK_SHAPE_OBJECT : KNHK_SHAPE_ARRAY;
  if (depth >= r->w->mapping->max_depth) return NOWHERE;
  if (state != 0) {
    if (knhk_misfit(s, shape, none) != KNHK_FAULT_NONE) return NOWHERE;
    if (s->nitem != 0) knhk_begin_items(r->w, s);
  }
  at = shape == KNHK_SHAPE_OBJECT ? read_object(r, at, s, depth) : read_array(r, at, s, depth);
  if (at.p == NULL || state == 0 || s->nitem == 0) return at;
  knhk_end_items(r->w, s);
  return well(r->w) ? at : NOWHERE;
}

int KNHK_NAME(read_plain)(knhk_walk *w) {
  const knhk_text body = w->d->obs.body;
  const size_t copied = (body.n + 127) & ~(size_t)63;
  if (w->room_len < copied + 4 * ((size_t)body.n + 64)) return 0;
  memcpy(w->room, body.p, body.n);
  memset(w->room + body.n, 0, PAD);
  uint32_t *quotes = (uint32_t *)(void *)(w->room + copied);
  const uint32_t kind = find_quotes(w->room, body.n, quotes);
  if (kind == TEXT_OTHER || (kind == TEXT_WIDE && !knhk_utf8(w->room, body.n))) return 0;
  w->ascii = kind == TEXT_ASCII;
  w->padded = 1;
  reader r = {w, w->room, (met *)(void *)w->members, 0, (uint32_t)(16 * (size_t)w->d->triple_cap / sizeof(met)), w->mapping->unknown_deny};
  place at = {skip(w->room), quotes};
  if (*at.p != '{' && *at.p != '[') return 0;
  at = read_container(&r, at, w->mapping->root, 0);
  return at.p != NULL && skip(at.p) == w->room + body.n && !w->d->over;
}

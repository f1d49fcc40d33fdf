/* plain.c: JSON as programs mostly write it (UTF-8, no escape), read in one pass by the mapping's states, without a tree. It takes part of what
 * json.c takes and gives the same Δ; whatever else a body holds, and whatever is wrong with it, is left to json.c, which begins anew. */
#define KNHK_BUILDING_PACK
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define PAD 64u        /* zeros behind the copy of a body: they end whatever did not end */
#define NAMES_MAX 64u  /* members of one object that have no edge: they are compared one by one */

typedef uint8_t bytes16 __attribute__((vector_size(16)));

typedef struct {
  uint64_t head;
  knhk_text name;
} met;

typedef struct {
  knhk_walk *w;
  const uint8_t *text;   /* the body, with zeros behind it */
  const uint32_t *quote; /* where its quotation marks are, those not read yet */
  met *names;            /* of the objects that are open, in the memory of gather */
  uint32_t nname, name_cap, unknown_deny;
} reader;

/* ---- quotation marks: found before the walk, so that the walk waits for no string to end ---- */

static bytes16 load16(const uint8_t *p) {
  bytes16 x;
  memcpy(&x, p, sizeof x);
  return x;
}

static int any16(bytes16 x) {
  uint64_t half[2];
  memcpy(half, &x, sizeof half);
  return (half[0] | half[1]) != 0;
}

/* A bit for each byte; bytes are 0 or 255. */
static uint64_t bits16(bytes16 x) {
#if defined(__SSE2__)
  typedef char chars16 __attribute__((vector_size(16)));
  return (uint16_t)__builtin_ia32_pmovmskb128((chars16)x);
#else
  uint64_t half[2];
  memcpy(half, &x, sizeof half);
  return (((half[0] & 0x8080808080808080ull) * 0x0002040810204081ull) >> 56) | ((((half[1] & 0x8080808080808080ull) * 0x0002040810204081ull) >> 56) << 8);
#endif
}

/* Bit i: whether the bits up to and with i are odd in number. */
static uint64_t odd_up_to(uint64_t x) {
  for (uint32_t by = 1; by < 64; by *= 2) x ^= x << by;
  return x;
}

/* Eight at a time without asking how many are left: `out` has room for seven more. */
static uint32_t put_places(uint64_t bits, uint32_t base, uint32_t *out) {
  const uint32_t n = (uint32_t)__builtin_popcountll(bits);
  for (uint32_t done = 0; done < n; done += 8)
    for (uint32_t i = 0; i < 8; i++, bits &= bits - 1) out[done + i] = base + (uint32_t)__builtin_ctzll(bits | ((uint64_t)1 << 63));
  return n;
}

/* Places of the quotation marks of n bytes with zeros behind them up to a multiple of 64. 0: there is an escape, a control character within a
 * string, a string that does not end, or what is no UTF-8. */
static int find_quotes(const uint8_t *text, uint32_t n, uint32_t *out) {
  bytes16 escapes = {0}, all = {0};
  uint64_t within = 0; /* all ones: a string began before */
  for (uint32_t at = 0; at < n; at += 64) {
    uint64_t quotes = 0, controls = 0;
    for (uint32_t i = 0; i < 64; i += 16) {
      const bytes16 x = load16(text + at + i);
      escapes |= (bytes16)(x == '\\');
      all |= x;
      quotes |= bits16((bytes16)(x == '"')) << i;
      controls |= bits16((bytes16)(x < ' ')) << i;
    }
    const uint64_t strings = odd_up_to(quotes) ^ within;
    if ((strings & controls) != 0) return 0;
    within = 0 - (strings >> 63);
    out += put_places(quotes, at, out);
  }
  return !any16(escapes) && within == 0 && (!any16(all & 0x80) || knhk_utf8(text, n));
}

/* ---- scalars ---- */

static const uint8_t *skip_space(const uint8_t *p) {
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
static const uint8_t *any_number(const uint8_t *p) {
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

/* A string at its quotation marks, or another scalar. Returns its end, or NULL. */
KNHK_INLINE const uint8_t *read_scalar(reader *r, const uint8_t *p, knhk_scalar *x) {
  const uint32_t *quote = r->quote;
  if (*p == '"') {
    x->s.p = r->text + quote[0] + 1;
    x->s.n = quote[1] - quote[0] - 1;
    x->kind = KNHK_SCALAR_STRING;
    r->quote = quote + 2;
    return r->text + quote[1] + 1;
  }
  if (*p >= 'a') return literal(p, x);
  const uint8_t *end = number_end(p);
  x->s.p = p;
  x->s.n = end == NULL ? 0 : (uint32_t)(end - p);
  x->kind = KNHK_SCALAR_NUMBER;
  return end;
}

/* ---- the walk: as that of json.c, but that every fault ends it ---- */

static int well(const knhk_walk *w) { return w->d->fault.code == KNHK_FAULT_NONE; }

/* A scalar of a state; 0 when it does not fit. */
static int take_scalar(knhk_walk *w, const knhk_state *s, knhk_scalar x) {
  if (knhk_misfit(s, KNHK_SHAPE_SCALAR, x) != KNHK_FAULT_NONE) return 0;
  knhk_begin_items(w, s);
  knhk_capture_value(w, s, x, 0);
  if (well(w)) knhk_end_items(w, s);
  return well(w);
}

static const uint8_t *read_container(reader *r, const uint8_t *p, uint32_t state, uint32_t depth);

static const uint8_t *read_value(reader *r, const uint8_t *p, uint32_t state, uint32_t depth) {
  knhk_scalar x;
  if (*p == '{' || *p == '[') return read_container(r, p, state, depth);
  p = read_scalar(r, p, &x);
  return p == NULL || state == 0 || x.s.p == NULL || take_scalar(r->w, &T->states[state], x) ? p : NULL;
}

/* 1 when a name that is not told by an edge was met in the object whose names begin at `first`, or there are too many of them. */
static int meets_again(reader *r, uint32_t first, knhk_text name, uint64_t head) {
  for (uint32_t i = first; i < r->nname; i++)
    if (r->names[i].head == head && knhk_same(r->names[i].name, name)) return 1;
  if (r->nname == r->name_cap || r->nname - first == NAMES_MAX) return 1;
  r->names[r->nname].head = head;
  r->names[r->nname++].name = name;
  return 0;
}

static uint64_t head_of(knhk_text s) {
  static const uint64_t kept[9] = {0, 0xff, 0xffff, 0xffffff, 0xffffffffu, 0xffffffffffull, 0xffffffffffffull, 0xffffffffffffffull, ~0ull};
  return knhk_bytes8(s.p) & kept[s.n < 8 ? s.n : 8];
}

/* The value of a member; edge: NULL when nothing is mapped there. */
KNHK_INLINE const uint8_t *read_member(reader *r, const uint8_t *p, const knhk_edge *edge, uint32_t depth) {
  knhk_scalar x;
  if (*p == '{' || *p == '[') return read_container(r, p, edge == NULL ? 0 : edge->state, depth);
  p = read_scalar(r, p, &x);
  if (p == NULL || edge == NULL || x.s.p == NULL) return p;
  if (edge->plain != 0) {
    knhk_capture_plain(r->w, edge->plain - 1, x);
    return p;
  }
  return take_scalar(r->w, &T->states[edge->state], x) ? p : NULL;
}

/* After the brace. Members that were met: those of the first 64 edges as bits, for edges have distinct names; the others by name. */
static const uint8_t *read_object(reader *r, const uint8_t *p, const knhk_state *s, uint32_t depth) {
  const uint32_t first = r->nname;
  uint64_t edges = 0;
  uint32_t hint = 0;
  p = skip(p);
  if (*p == '}') return p + 1;
  for (;; p = skip(p + 1)) {
    if (*p != '"') return NULL;
    const knhk_text name = {r->text + r->quote[0] + 1, r->quote[1] - r->quote[0] - 1};
    const uint64_t head = head_of(name);
    const uint32_t edge = knhk_member_edge(s, name, head, &hint);
    r->quote += 2;
    if (edge - 1 < 64) {
      const uint64_t bit = (uint64_t)1 << (edge - 1);
      if ((edges & bit) != 0) return NULL;
      edges |= bit;
    } else if (meets_again(r, first, name, head) || (edge == 0 && r->unknown_deny)) {
      return NULL;
    }
    p = skip(name.p + name.n + 1);
    if (*p != ':') return NULL;
    p = read_member(r, skip(p + 1), edge == 0 ? NULL : T->edges + s->edge + edge - 1, depth + 1);
    if (p == NULL) return NULL;
    p = skip(p);
    if (*p != ',') break;
  }
  r->nname = first;
  return *p == '}' ? p + 1 : NULL;
}

/* After the bracket. */
static const uint8_t *read_array(reader *r, const uint8_t *p, const knhk_state *s, uint32_t depth) {
  p = skip(p);
  if (*p == ']') return p + 1;
  for (uint32_t i = 0;; i++, p = skip(p + 1)) {
    const uint32_t next = knhk_element_state(s, i);
    if (next == 0 && r->unknown_deny) return NULL;
    p = read_value(r, p, next, depth + 1);
    if (p == NULL) return NULL;
    p = skip(p);
    if (*p != ',') return *p == ']' ? p + 1 : NULL;
  }
}

static const uint8_t *read_container(reader *r, const uint8_t *p, uint32_t state, uint32_t depth) {
  static const knhk_scalar none = {{(const uint8_t *)"", 0}, KNHK_SCALAR_STRING};
  const knhk_state *s = &T->states[state];
  const uint32_t shape = *p == '{' ? KNHK_SHAPE_OBJECT : KNHK_SHAPE_ARRAY;
  if (depth >= r->w->mapping->max_depth) return NULL;
  if (state != 0) {
    if (knhk_misfit(s, shape, none) != KNHK_FAULT_NONE) return NULL;
    if (s->nitem != 0) knhk_begin_items(r->w, s);
  }
  p = shape == KNHK_SHAPE_OBJECT ? read_object(r, p + 1, s, depth) : read_array(r, p + 1, s, depth);
  if (p == NULL || state == 0 || s->nitem == 0) return p;
  knhk_end_items(r->w, s);
  return well(r->w) ? p : NULL;
}

int knhk_read_plain(knhk_walk *w) {
  const knhk_text body = w->d->obs.body;
  uint32_t *quotes = (uint32_t *)(void *)(w->room + ((body.n + 127) & ~(size_t)63));
  if (w->room_len < 128 + 64 + 5 * ((size_t)body.n + 64)) return 0;
  memcpy(w->room, body.p, body.n);
  memset(w->room + body.n, 0, PAD);
  if (!find_quotes(w->room, body.n, quotes)) return 0;
  reader r = {w, w->room, quotes, (met *)(void *)w->members, 0, (uint32_t)(16 * (size_t)w->d->triple_cap / sizeof(met)), w->mapping->unknown_deny};
  const uint8_t *p = skip(w->room);
  if (*p != '{' && *p != '[') return 0;
  p = read_container(&r, p, w->mapping->root, 0);
  return p != NULL && skip(p) == w->room + body.n && !w->d->over;
}

/* ntriples.c: a body of N-Triples (RDF 1.1) → triples of the Δ. One pass; text without escapes is referred to where it lies. Strict: what this
 * reader takes, any N-Triples reader takes. Labels of blank nodes are ASCII. */
#define KNHK_BUILDING_PACK
#include "walk.h"

typedef struct {
  knhk_delta *d;
  const uint8_t *begin, *at, *end;
} reader;

typedef struct {
  uint32_t kind, second, string;
  knhk_text s;
} term;

static int failed(reader *r, uint32_t code) {
  knhk_fault *f = &r->d->fault;
  if (f->code == KNHK_FAULT_NONE) {
    f->code = code;
    f->at = (uint64_t)(r->at - r->begin);
    f->found.p = (const uint8_t *)"";
    f->found.n = 0;
  }
  return 0;
}
static int malformed(reader *r) { return failed(r, KNHK_FAULT_NTRIPLES); }

static int letter(uint8_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static int alphanumeric(uint8_t c) { return letter(c) || (c >= '0' && c <= '9'); }

static void skip_blanks(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t')) r->at++;
}

static int take(reader *r, uint8_t c) {
  if (r->at == r->end || *r->at != c) return 0;
  r->at++;
  return 1;
}

/* ---- escapes ---- */

static int hex_digits(reader *r, uint32_t n, uint32_t *out) {
  *out = 0;
  for (uint32_t i = 0; i < n; i++, r->at++) {
    const uint8_t c = r->at < r->end ? *r->at : 0, low = c | 0x20;
    if (c >= '0' && c <= '9') *out = *out << 4 | (uint32_t)(c - '0');
    else if (low >= 'a' && low <= 'f') *out = *out << 4 | (uint32_t)(low - 'a' + 10);
    else return 0;
  }
  return 1;
}

/* UTF-8 of a code point that is no surrogate; 0 bytes when it is none. */
static uint32_t put_utf8(uint32_t c, uint8_t *out) {
  if (c < 0x80) {
    out[0] = (uint8_t)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (uint8_t)(0xc0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 63));
    return 2;
  }
  if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
  if (c < 0x10000) {
    out[0] = (uint8_t)(0xe0 | c >> 12);
    out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
    out[2] = (uint8_t)(0x80 | (c & 63));
    return 3;
  }
  out[0] = (uint8_t)(0xf0 | c >> 18);
  out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
  out[2] = (uint8_t)(0x80 | (c >> 6 & 63));
  out[3] = (uint8_t)(0x80 | (c & 63));
  return 4;
}

/* What stands for the escape behind the backslash at r->at, in bytes at out; 0 when it is none. ECHAR only where `strings`. */
static uint32_t escape(reader *r, int strings, uint8_t *out) {
  static const uint8_t from[] = "tbnrf\"'\\", to[] = "\t\b\n\r\f\"'\\";
  uint32_t c;
  if (r->at == r->end) return 0;
  const uint8_t mark = *r->at++;
  if (mark == 'u') return hex_digits(r, 4, &c) ? put_utf8(c, out) : 0;
  if (mark == 'U') return hex_digits(r, 8, &c) ? put_utf8(c, out) : 0;
  for (uint32_t i = 0; strings && i < sizeof from - 1; i++)
    if (from[i] == mark) {
      out[0] = to[i];
      return 1;
    }
  return 0;
}

/* The text up to `close` with its escapes resolved, at d->text. r->at is behind the first n bytes, which have none. */
static int unescaped(reader *r, const uint8_t *first, uint8_t close, int strings, term *t) {
  knhk_delta *d = r->d;
  uint32_t n = (uint32_t)(r->at - first);
  if (!knhk_text_room(d, (size_t)(r->end - first))) return 0; /* an escape is never shorter than what it stands for */
  memcpy(d->text, first, n);
  while (r->at < r->end && *r->at != close) {
    const uint8_t c = *r->at++;
    if (c == '\\') {
      const uint32_t made = escape(r, strings, d->text + n);
      if (made == 0) return malformed(r);
      n += made;
    } else if (c == '\n' || c == '\r') {
      return malformed(r);
    } else {
      d->text[n++] = c;
    }
  }
  if (!take(r, close)) return malformed(r);
  t->s.p = d->text;
  t->s.n = n;
  t->string = knhk_intern_made(d, n);
  return 1;
}

static int read_text(reader *r, uint8_t close, int strings, term *t) {
  const uint8_t *first = r->at;
  while (r->at < r->end && *r->at != close && *r->at != '\\' && *r->at != '\n' && *r->at != '\r') r->at++;
  if (r->at < r->end && *r->at == '\\') return unescaped(r, first, close, strings, t);
  t->s.p = first;
  t->s.n = (uint32_t)(r->at - first);
  if (!take(r, close)) return malformed(r);
  t->string = knhk_intern_kept(r->d, t->s);
  return 1;
}

/* ---- terms ---- */

static int read_iri(reader *r, term *t) {
  t->kind = KNHK_K_IRI;
  t->second = 0;
  if (!take(r, '<')) return malformed(r);
  if (!read_text(r, '>', 0, t)) return 0;
  return knhk_iri_valid(t->s) || malformed(r);
}

static int label_byte(uint8_t c) { return alphanumeric(c) || c == '_' || c == '-' || c == '.'; }

static int read_blank(reader *r, term *t) {
  if (!take(r, '_') || !take(r, ':')) return malformed(r);
  const uint8_t *first = r->at;
  while (r->at < r->end && label_byte(*r->at)) r->at++;
  while (r->at > first && r->at[-1] == '.') r->at--; /* the dot that ends the triple */
  if (r->at == first || *first == '-' || *first == '.') return malformed(r);
  t->kind = KNHK_K_BNODE;
  t->second = 0;
  t->s.p = first;
  t->s.n = (uint32_t)(r->at - first);
  t->string = knhk_intern_kept(r->d, t->s);
  return 1;
}

/* [a-zA-Z]{1,8}(-[a-zA-Z0-9]{1,8})*, in lower case */
static int read_language(reader *r, term *t) {
  const uint8_t *first = r->at;
  uint32_t run = 0, part = 0;
  for (; r->at < r->end && (alphanumeric(*r->at) || *r->at == '-'); r->at++) {
    if (*r->at == '-') {
      if (run == 0) return malformed(r);
      run = 0;
      part++;
    } else if (++run > 8 || (part == 0 && !letter(*r->at))) {
      return malformed(r);
    }
  }
  const uint32_t n = (uint32_t)(r->at - first);
  if (run == 0) return malformed(r);
  if (!knhk_text_room(r->d, n)) return 0;
  for (uint32_t i = 0; i < n; i++) r->d->text[i] = first[i] >= 'A' && first[i] <= 'Z' ? (uint8_t)(first[i] | 0x20) : first[i];
  t->kind = KNHK_K_LANG;
  t->second = knhk_intern_made(r->d, n);
  return 1;
}

static int read_literal(reader *r, term *t) {
  term datatype;
  if (!take(r, '"')) return malformed(r);
  if (!read_text(r, '"', 1, t)) return 0;
  if (take(r, '@')) return read_language(r, t);
  t->kind = KNHK_K_LITERAL;
  t->second = KNHK_S_XSD + KNHK_D_STRING - 1;
  if (!take(r, '^')) return 1;
  if (!take(r, '^') || !read_iri(r, &datatype)) return malformed(r);
  if (datatype.string == KNHK_S_RDF_LANGSTRING) return malformed(r); /* it needs its tag */
  t->second = datatype.string;
  return 1;
}

static int read_node(reader *r, term *t) { return r->at < r->end && *r->at == '_' ? read_blank(r, t) : read_iri(r, t); }

/* ---- triples ---- */

/* Names of the engine itself. */
static int is_own_name(const term *t) {
  static const char prefix[] = "https://knhk.dev/ns";
  return t->kind == KNHK_K_IRI && t->s.n >= sizeof prefix - 1 && memcmp(t->s.p, prefix, sizeof prefix - 1) == 0;
}

static int read_triple(reader *r) {
  knhk_delta *d = r->d;
  term s, p, o;
  uint64_t val, meta;
  if (!read_node(r, &s)) return 0;
  const uint64_t subject = knhk_lanes(s.kind, 0, s.string, s.s, &val, &meta);
  const uint32_t node = knhk_node_of(d, subject, val, meta);
  if (d->over) return 0; /* not all of it fits: node is none */
  if (is_own_name(&s) || knhk_is_reserved(d, node)) return failed(r, KNHK_FAULT_RESERVED);
  skip_blanks(r);
  if (!read_iri(r, &p)) return 0;
  skip_blanks(r);
  if (r->at < r->end && *r->at == '"') {
    if (!read_literal(r, &o)) return 0;
  } else if (!read_node(r, &o)) {
    return 0;
  }
  skip_blanks(r);
  if (!take(r, '.')) return malformed(r);
  knhk_add_term(d, node, p.string, o.kind, o.second, o.string, o.s);
  return 1;
}

static int end_line(reader *r) {
  skip_blanks(r);
  if (take(r, '#'))
    while (r->at < r->end && *r->at != '\n' && *r->at != '\r') r->at++;
  if (r->at == r->end) return 1;
  if (*r->at != '\n' && *r->at != '\r') return malformed(r);
  r->at++;
  return 1;
}

size_t knhk_ntriples_room(size_t o_len) {
  (void)o_len;
  return 0;
}

void knhk_read_ntriples(knhk_walk *w) {
  knhk_delta *d = w->d;
  const knhk_text body = d->obs.body;
  reader r = {d, body.p, body.p, body.p + body.n};
  if (!knhk_utf8(body.p, body.n)) {
    malformed(&r);
    return;
  }
  while (r.at < r.end && !d->over) {
    skip_blanks(&r);
    const int blank = r.at == r.end || *r.at == '\n' || *r.at == '\r' || *r.at == '#';
    if (!blank && !read_triple(&r)) return;
    if (!end_line(&r)) return;
  }
}

/* report.c: for people and for the tiers below: the Δ as canonical N-Triples, and why a decision denied. Cold path. */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

typedef struct {
  char *at, *end;
  int full;
} writer;

static void put(writer *w, const void *bytes, size_t n) {
  if ((size_t)(w->end - w->at) < n) {
    w->full = 1;
    return;
  }
  memcpy(w->at, bytes, n);
  w->at += n;
}
#define PUT(w, word) put(w, word, sizeof(word) - 1)

static const char HEX[] = "0123456789ABCDEF";

static void put_escaped(writer *w, uint8_t c) {
  char out[6] = {'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]};
  put(w, out, 6);
}

/* ---- N-Triples (RDF 1.2 N-Triples, canonical form) ---- */

static void put_iri(writer *w, knhk_text s) {
  PUT(w, "<");
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if (c <= 0x20 || c == 0x7f || c == '<' || c == '>' || c == '"' || c == '{' || c == '}' || c == '|' || c == '^' || c == '`' || c == '\\') put_escaped(w, c);
    else put(w, &s.p[i], 1);
  }
  PUT(w, ">");
}

static void put_quoted(writer *w, knhk_text s) {
  PUT(w, "\"");
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    switch (c) {
      case '\b': PUT(w, "\\b"); break;
      case '\t': PUT(w, "\\t"); break;
      case '\n': PUT(w, "\\n"); break;
      case '\f': PUT(w, "\\f"); break;
      case '\r': PUT(w, "\\r"); break;
      case '"': PUT(w, "\\\""); break;
      case '\\': PUT(w, "\\\\"); break;
      default:
        if (c < 0x20 || c == 0x7f) put_escaped(w, c);
        else put(w, &s.p[i], 1);
    }
  }
  PUT(w, "\"");
}

static void put_term(writer *w, const knhk_delta *d, uint64_t term) {
  const knhk_text s = knhk_string(d, (uint32_t)term);
  const uint32_t second = (uint32_t)(term >> 32) & 0xfffffffu;
  switch (term >> 60) {
    case KNHK_K_IRI: put_iri(w, s); return;
    case KNHK_K_BNODE:
      PUT(w, "_:");
      put(w, s.p, s.n);
      return;
    default: put_quoted(w, s);
  }
  if (term >> 60 == KNHK_K_LANG) {
    const knhk_text tag = knhk_string(d, second);
    PUT(w, "@");
    put(w, tag.p, tag.n);
  } else if (second != KNHK_S_XSD + KNHK_D_STRING - 1) {
    PUT(w, "^^");
    put_iri(w, knhk_string(d, second));
  }
}

static void put_triple(writer *w, const knhk_delta *d, const knhk_triple *t) {
  put_term(w, d, d->node[t->key >> 32].term);
  PUT(w, " ");
  put_iri(w, knhk_string(d, (uint32_t)t->key));
  PUT(w, " ");
  put_term(w, d, t->obj);
  PUT(w, " .\n");
}

size_t knhk_put_triple(const knhk_delta *d, const knhk_output_triple *t, char *out, size_t cap) {
  writer w = {out, out + cap, 0};
  put_term(&w, d, t->s);
  PUT(&w, " ");
  put_iri(&w, knhk_string(d, t->p));
  PUT(&w, " ");
  put_term(&w, d, t->o);
  PUT(&w, " .");
  return w.full ? cap + 1 : (size_t)(w.at - out);
}

typedef struct {
  uint64_t at, n;
} line;

static int line_after(const char *out, line a, line b) {
  const int c = memcmp(out + a.at, out + b.at, a.n < b.n ? a.n : b.n);
  return c != 0 ? c > 0 : a.n > b.n;
}

static void sift(const char *out, line *lines, uint32_t root, uint32_t n) {
  for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
    if (child + 1 < n && line_after(out, lines[child + 1], lines[child])) child++;
    if (!line_after(out, lines[child], lines[root])) return;
    const line t = lines[root];
    lines[root] = lines[child];
    lines[child] = t;
  }
}

static void sort_lines(const char *out, line *lines, uint32_t n) {
  for (uint32_t i = n / 2; i > 0; i--) sift(out, lines, i - 1, n);
  for (uint32_t i = n; i > 1; i--) {
    const line t = lines[0];
    lines[0] = lines[i - 1];
    lines[i - 1] = t;
    sift(out, lines, 0, i - 1);
  }
}

/* Writes the lines unsorted into the upper part of out, then in order into the lower: out must hold the graph twice. */
int64_t knhk_graph(const knhk_binding *b, const uint8_t *o, size_t o_len, char *out, size_t cap, void *scratch, size_t scratch_len) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 1, knhk_read_plain_scalar, &d);
  if (status < 0) return status;
  if (d->fault.code != KNHK_FAULT_NONE) return KNHK_E_INPUT;
  if (d->over) return KNHK_E_LIMIT;
  line *lines = (line *)(void *)d->spare; /* sorting is done; knhk_triple is larger than line */
  char *upper = out + cap / 2;
  writer w = {upper, out + cap, 0};
  for (uint32_t i = 0; i < d->ntriple; i++) {
    lines[i].at = (uint64_t)(w.at - upper);
    put_triple(&w, d, &d->triple[i]);
    lines[i].n = (uint64_t)(w.at - upper) - lines[i].at;
  }
  if (w.full || (size_t)(w.at - upper) > cap / 2) return KNHK_E_SPACE;
  sort_lines(upper, lines, d->ntriple);
  char *at = out;
  for (uint32_t i = 0; i < d->ntriple; at += lines[i].n, i++) memcpy(at, upper + lines[i].at, lines[i].n);
  return at - out;
}

/* ---- explain ---- */

#define VALUE_MAX 256u
#define ENTRIES_MAX 64u

/* The contents of a JSON string, cut at VALUE_MAX bytes on a character when `cut`. */
static void put_json(writer *w, knhk_text s, int cut) {
  uint32_t n = s.n;
  if (cut && n > VALUE_MAX) {
    n = VALUE_MAX;
    while (n > 0 && (s.p[n] & 0xc0) == 0x80) n--;
  }
  for (uint32_t i = 0; i < n; i++) {
    const uint8_t c = s.p[i];
    if (c == '"' || c == '\\') {
      PUT(w, "\\");
      put(w, &s.p[i], 1);
    } else if (c < 0x20) {
      put_escaped(w, c);
    } else {
      put(w, &s.p[i], 1);
    }
  }
  if (n < s.n) PUT(w, "…");
}

static size_t c_length(const char *s) {
  size_t n = 0;
  while (s[n] != 0) n++;
  return n;
}

static void put_c_json(writer *w, const char *s) {
  const knhk_text t = {(const uint8_t *)s, (uint32_t)c_length(s)};
  put_json(w, t, 0);
}

typedef struct {
  knhk_recorder recorder;
  writer w;
  const uint8_t *bits; /* failing bits of A */
  uint32_t entries;
} explainer;

static void begin_entry(explainer *x, uint32_t guard) {
  const knhk_guard_info *g = &T->info[guard];
  if (x->entries++ > 0) PUT(&x->w, ",");
  PUT(&x->w, "{\"guard\":\"");
  put_c_json(&x->w, g->id);
  PUT(&x->w, "\",\"rule\":\"");
  put_c_json(&x->w, g->component[0] != 0 ? g->component : g->kind);
  PUT(&x->w, "\",\"shape\":\"");
  put_c_json(&x->w, g->shape);
  PUT(&x->w, "\",\"path\":\"");
}

static void put_term_json(writer *w, const knhk_delta *d, uint64_t term) {
  if (term == 0) return;
  if (term >> 60 == KNHK_K_BNODE) PUT(w, "_:");
  put_json(w, knhk_string(d, (uint32_t)term), 1);
}

static void put_entry(explainer *x, const knhk_delta *d, uint32_t guard, uint64_t focus, uint64_t value) {
  begin_entry(x, guard);
  put_c_json(&x->w, T->info[guard].path);
  PUT(&x->w, "\",\"focus\":\"");
  put_term_json(&x->w, d, focus);
  PUT(&x->w, "\",\"value\":\"");
  put_term_json(&x->w, d, value);
  PUT(&x->w, "\",\"message\":\"");
  put_c_json(&x->w, T->info[guard].message);
  PUT(&x->w, "\"}");
}

static int bit(const uint8_t *bits, uint32_t i) { return (bits[i / 8] >> (i % 8)) & 1; }

static void guard_failed(knhk_recorder *r, const knhk_delta *d, uint32_t guard, uint32_t node) {
  explainer *x = (explainer *)(void *)r; /* recorder is the first member */
  uint64_t value = 0;
  if (!bit(x->bits, guard) || x->entries >= ENTRIES_MAX) return;
  for (uint32_t i = T->witness_of[guard]; i < T->witness_of[guard + 1] && value == 0; i++) value = knhk_witness(d, &T->rows[T->witness[i]], node);
  put_entry(x, d, guard, d->node[node].term, value);
}

static const char *const MUST[KNHK_FAULT_COUNT] = {
  [KNHK_FAULT_NONE] = "", [KNHK_FAULT_EMPTY] = "the body must not be empty", [KNHK_FAULT_BODY] = "the body must be empty: this route takes none",
  [KNHK_FAULT_SYNTAX] = "must be well-formed JSON (RFC 8259, UTF-8)", [KNHK_FAULT_DUPLICATE] = "member names must be distinct within an object",
  [KNHK_FAULT_DEPTH] = "must not be nested deeper than the mapping allows", [KNHK_FAULT_UNKNOWN] = "must be a member that the mapping knows",
  [KNHK_FAULT_OBJECT] = "must be an object", [KNHK_FAULT_ARRAY] = "must be an array",
  [KNHK_FAULT_SCALAR] = "must be a string, number, boolean or null", [KNHK_FAULT_IRI] = "must be an absolute IRI",
  [KNHK_FAULT_XML] = "must be well-formed XML 1.0 with namespaces, in UTF-8",
  [KNHK_FAULT_DOCTYPE] = "must have no document type declaration", [KNHK_FAULT_ENCODING] = "must be in UTF-8",
  [KNHK_FAULT_CHILDREN] = "must hold text only, no element", [KNHK_FAULT_TEXT] = "must hold elements only, no text",
  [KNHK_FAULT_MEMORY] = "must have fewer different names, or shorter ones",
  [KNHK_FAULT_TWICE] = "must be there once, for the subject is made of it", [KNHK_FAULT_STRING] = "must be a string",
  [KNHK_FAULT_NTRIPLES] = "must be well-formed N-Triples (RDF 1.1, UTF-8)",
  [KNHK_FAULT_RESERVED] = "must not describe names of knhk.dev, nor nodes that the data bundle describes",
};

/* What a value must be for a function of the mapping. */
static const char *const FORM[KNHK_FN_COUNT] = {
  [KNHK_FN_TRIM] = "", [KNHK_FN_ABSENT_IF] = "", [KNHK_FN_STRIP_ZEROS] = "", [KNHK_FN_UPPER] = "", [KNHK_FN_LOWER] = "", [KNHK_FN_PREFIX] = "",
  [KNHK_FN_PERCENT] = "",
  [KNHK_FN_DECIMAL_POINT] = "must be an amount such as 1,234.56 or 12.00-", [KNHK_FN_DECIMAL_COMMA] = "must be an amount such as 1.234,56 or 12,00-",
  [KNHK_FN_DATE] = "must be a date in the form that the mapping says", [KNHK_FN_DATETIME] = "must be a date and time in the form that the mapping says",
  [KNHK_FN_DOTNET_DATE] = "must be a date such as /Date(1539993600000)/", [KNHK_FN_DOTNET_DATETIME] = "must be a date such as /Date(1539993600000)/",
  [KNHK_FN_EPOCH_MILLIS] = "must be milliseconds since 1970", [KNHK_FN_EPOCH_SECONDS] = "must be seconds since 1970",
  [KNHK_FN_EXPAND] = "must be a term of the context, a compact or an absolute IRI",
  [KNHK_FN_CODES] = "must be a code of the mapping's list",
};

static const char *must_of(uint32_t code) { return code >= KNHK_FAULT_FORM ? FORM[code - KNHK_FAULT_FORM] : MUST[code]; }

/* JSON Pointer (RFC 6901), of names as they are written for XML, or the byte offset for text that is neither. */
static void put_place(writer *w, const knhk_fault *f) {
  uint8_t digits[20];
  if (f->code == KNHK_FAULT_SYNTAX || f->code == KNHK_FAULT_XML || f->code == KNHK_FAULT_NTRIPLES || (f->code == KNHK_FAULT_RESERVED && f->at > 0)) {
    PUT(w, "byte ");
    put(w, digits, knhk_decimal(f->at, digits));
    return;
  }
  const uint32_t depth = f->code == KNHK_FAULT_UNKNOWN ? f->depth + 1 : f->depth;
  for (uint32_t i = 0; i < depth; i++) {
    PUT(w, "/");
    if (f->path[i].name.p == NULL) {
      put(w, digits, knhk_decimal(f->path[i].index, digits));
      continue;
    }
    knhk_text name = f->path[i].name;
    if (name.n > VALUE_MAX) name.n = VALUE_MAX;
    while (name.n > 0 && name.n < f->path[i].name.n && (name.p[name.n] & 0xc0) == 0x80) name.n--;
    for (uint32_t k = 0; k < name.n; k++) {
      const knhk_text one = {name.p + k, 1};
      if (name.p[k] == '~') PUT(w, "~0");
      else if (name.p[k] == '/') PUT(w, "~1");
      else put_json(w, one, 0);
    }
  }
}

static void put_fault(explainer *x, const knhk_delta *d) {
  begin_entry(x, 0);
  put_place(&x->w, &d->fault);
  PUT(&x->w, "\",\"focus\":\"\",\"value\":\"");
  put_json(&x->w, d->fault.found, 1);
  PUT(&x->w, "\",\"message\":\"");
  if (T->info[0].message[0] != 0) {
    put_c_json(&x->w, T->info[0].message);
    PUT(&x->w, ": ");
  }
  put_c_json(&x->w, must_of(d->fault.code));
  PUT(&x->w, "\"}");
}

/* An A of this pack (formats/action.md), whole and no longer: magic, number of guards, their bits, output triples. */
static int is_action(const uint8_t *a, size_t a_len) {
  size_t at = 8 + (size_t)(T->nguards + 7) / 8;
  if (a_len < at + 2 || memcmp(a, "KNA1", 4) != 0 || (uint32_t)(a[6] << 8 | a[7]) != T->nguards) return 0;
  uint32_t lines = (uint32_t)(a[at] << 8 | a[at + 1]);
  if (lines > KNHK_MADE_MAX) return 0;
  for (at += 2; lines > 0; lines--) {
    if (a_len - at < 4) return 0;
    const uint32_t n = (uint32_t)a[at] << 24 | (uint32_t)a[at + 1] << 16 | (uint32_t)a[at + 2] << 8 | a[at + 3];
    at += 4;
    if (n > KNHK_MADE_LINE || a_len - at < n) return 0;
    at += n;
  }
  return at == a_len;
}

static int failed(const knhk_delta *d, uint32_t guard) {
  for (uint32_t at = 0; at < 8 * T->nfail; at++)
    for (uint32_t i = T->guard_at[at]; i < T->guard_at[at + 1]; i++)
      if (T->guards_of[i] == guard) return bit(d->fail, at);
  return 0;
}

int64_t knhk_explain(const knhk_binding *b, const uint8_t *o, size_t o_len, const uint8_t *a, size_t a_len, char *out, size_t cap,
                     void *scratch, size_t scratch_len) {
  knhk_delta *d;
  if (!is_action(a, a_len)) return KNHK_E_INPUT;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, knhk_read_plain_scalar, &d);
  if (status < 0) return status;
  explainer x = {{guard_failed}, {out, out + cap, 0}, a + 8, 0};
  PUT(&x.w, "[");
  if (bit(x.bits, 0)) {
    put_fault(&x, d);
  } else {
    if (d->fault.code == KNHK_FAULT_NONE && !d->over) knhk_eval_scalar(d, &x.recorder);
    else memset(d->fail, 0, T->nfail);
    /* guards that a tier below decided, those whose triples do not fit, and those of an input that this tier does not hold whole */
    for (uint32_t i = 1; i < T->nguards && x.entries < ENTRIES_MAX; i++)
      if (bit(x.bits, i) && (T->klass[i] != KNHK_CLASS_R1 || !failed(d, i))) put_entry(&x, d, i, 0, 0);
  }
  PUT(&x.w, "]");
  return x.w.full ? KNHK_E_SPACE : x.w.at - out;
}

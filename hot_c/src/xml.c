/* xml.c: bodies of XML 1.0 with namespaces, in UTF-8, by expat in the reader's memory: one pass, no tree. Expat is built without general
 * entities and a document type declaration ends the reading, so that nothing can expand. An element is named `NAMESPACE LOCAL` (`LOCAL` without
 * a namespace), an attribute the same after @; each element name leads to an array of such elements (formats/guardplan.md, MAPPING). */
#define KNHK_BUILDING_PACK
#include "expat.h"
#include "expat_memory.h"
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define SEPARATOR ' ' /* between namespace and local name: expat refuses a namespace that holds it */
#define NAMESPACE_MAX 512u /* bytes: expat copies and hashes a namespace for each name in it, which may be four bytes of the body */
#define XSI "http://www.w3.org/2001/XMLSchema-instance "

/* ---- the parser's memory: blocks of powers of two, each given back to the list of its size ---- */

#define CLASSES 32u
#define HEADER 16u

typedef struct {
  XML_Memory_Handling_Suite suite;
  uint8_t *at, *end;
  void *unused[CLASSES];
} arena;
#define ARENA_BYTES ((sizeof(arena) + HEADER - 1) / HEADER * HEADER)

/* The parser is the first block. */
static arena *arena_of(void *parser) { return (arena *)(void *)((uint8_t *)parser - HEADER - ARENA_BYTES); }

static uint32_t class_of(size_t n) {
  uint32_t k = 5;
  while (k < CLASSES - 1 && ((size_t)1 << k) < n + HEADER) k++;
  return k;
}

static void *take(arena *a, size_t n) {
  const uint32_t k = class_of(n);
  const size_t size = (size_t)1 << k;
  uint8_t *block = a->unused[k];
  if (block != NULL) {
    memcpy(&a->unused[k], block + HEADER, sizeof(void *));
    return block + HEADER;
  }
  if (size < n + HEADER || (size_t)(a->end - a->at) < size) return NULL;
  block = a->at;
  a->at += size;
  memcpy(block, &k, sizeof k);
  return block + HEADER;
}

static void *expat_malloc(void *parser, size_t n) { return take(arena_of(parser), n); }

static void expat_free(void *parser, void *p) {
  uint32_t k;
  if (p == NULL) return;
  arena *a = arena_of(parser);
  uint8_t *block = (uint8_t *)p - HEADER;
  memcpy(&k, block, sizeof k);
  memcpy(p, &a->unused[k], sizeof(void *));
  a->unused[k] = block;
}

static void *expat_realloc(void *parser, void *p, size_t n) {
  uint32_t k;
  if (p == NULL) return expat_malloc(parser, n);
  memcpy(&k, (uint8_t *)p - HEADER, sizeof k);
  if (class_of(n) <= k) return p;
  void *more = expat_malloc(parser, n);
  if (more == NULL) return NULL;
  memcpy(more, p, ((size_t)1 << k) - HEADER);
  expat_free(parser, p);
  return more;
}

void *knhk_expat_first(const void *suite, size_t n) { return take((arena *)(uintptr_t)suite, n); }

size_t knhk_xml_room(size_t o_len) { return 12 * o_len + 131072; }

/* ---- elements that are open ---- */

typedef struct {
  uint32_t state;
  knhk_text text; /* what it holds, when its state captures: one piece of the body, or copied to d->text */
} frame;

typedef struct {
  knhk_walk *w;
  XML_Parser parser;
  uint32_t depth; /* open elements */
  frame open[KNHK_DEPTH_MAX + 1]; /* 0: the document */
} reader;

static knhk_text text_of(const char *s) {
  knhk_text t = {(const uint8_t *)s, 0};
  while (s[t.n] != 0) t.n++;
  return t;
}

static knhk_text local_of(knhk_text name) {
  for (uint32_t i = name.n; i > 0; i--) {
    if (name.p[i - 1] != SEPARATOR) continue;
    const knhk_text local = {name.p + i, name.n - i};
    return local;
  }
  return name;
}

static void stop(reader *r, uint32_t code, uint32_t depth, knhk_text found) {
  if (code != KNHK_FAULT_NONE) knhk_fault_at(r->w, code, depth, found);
  XML_StopParser(r->parser, XML_FALSE);
}

/* The name of the element that begins here, as it is written: expat's own does not stay. */
static knhk_text written_name(const reader *r) {
  const knhk_text body = r->w->d->obs.body;
  const XML_Index at = XML_GetCurrentByteIndex(r->parser);
  knhk_text name = {body.p, 0};
  if (at < 0 || (size_t)at + 1 >= body.n) return name;
  name.p = body.p + at + 1;
  const uint32_t most = body.n - (uint32_t)at - 1;
  while (name.n < most && name.p[name.n] != '>' && name.p[name.n] != '/' && name.p[name.n] > ' ') name.n++;
  return name;
}

/* A name that a fault refers to, kept. */
static knhk_text kept_name(knhk_delta *d, knhk_text name) {
  knhk_text kept = {(const uint8_t *)"", 0};
  if (!knhk_text_room(d, name.n)) return kept;
  memcpy(d->text, name.p, name.n);
  kept.p = d->text;
  kept.n = name.n;
  d->text += name.n;
  return kept;
}

static int is_over(const reader *r) { return r->w->d->fault.code != KNHK_FAULT_NONE || r->w->d->over; }

static uint32_t edge_of(const knhk_state *s, knhk_text name) {
  uint32_t hint = KNHK_NONE;
  return knhk_member_edge(s, name, knhk_head(name), &hint);
}

/* Edge of an element: by its name, by `* LOCAL`, by `*`. The tables hold in each what the less exact ones hold too. */
static uint32_t element_edge(knhk_walk *w, const knhk_state *s, knhk_text name) {
  static const knhk_text ANY = {(const uint8_t *)"*", 1};
  uint32_t edge = s->nedge == 0 ? 0 : edge_of(s, name);
  if (edge != 0 || s->nedge == 0) return edge;
  const knhk_text local = local_of(name);
  if (knhk_text_room(w->d, local.n + 2)) {
    uint8_t *at = w->d->text;
    at[0] = '*';
    at[1] = SEPARATOR;
    memcpy(at + 2, local.p, local.n);
    const knhk_text any_namespace = {at, local.n + 2};
    edge = edge_of(s, any_namespace);
  }
  return edge != 0 ? edge : edge_of(s, ANY);
}

static uint32_t next_state(knhk_walk *w, const knhk_state *s, knhk_text name) {
  const uint32_t edge = element_edge(w, s, name);
  if (edge == 0) return 0;
  const uint32_t at = s->edge + edge - 1;
  return knhk_element_state(&T->states[T->edges[at].state], w->counts[at]++);
}

/* ---- attributes ---- */

static int is_hint(knhk_text name) { /* where a schema lies: XML Schema lets everyone ignore it */
  const uint32_t n = (uint32_t)sizeof XSI - 1;
  if (name.n < n || memcmp(name.p, XSI, n) != 0) return 0;
  const knhk_text local = local_of(name), a = text_of("schemaLocation"), b = text_of("noNamespaceSchemaLocation");
  return knhk_same(local, a) || knhk_same(local, b);
}

/* `@` and the name, written at d->text. */
static knhk_text attribute_name(knhk_walk *w, knhk_text name) {
  knhk_text t = {w->d->text, 0};
  if (!knhk_text_room(w->d, name.n + 1)) return t;
  w->d->text[0] = '@';
  memcpy(w->d->text + 1, name.p, name.n);
  t.n = name.n + 1;
  return t;
}

static void take_attribute(reader *r, const knhk_state *s, knhk_text name, knhk_text value) {
  knhk_walk *w = r->w;
  const knhk_text key = attribute_name(w, name);
  const uint32_t edge = s->nedge == 0 ? 0 : edge_of(s, key);
  if (edge == 0) {
    if (w->mapping->unknown_deny && !is_hint(name)) {
      const knhk_text kept = kept_name(w->d, local_of(name));
      w->d->fault.path[r->depth].name = kept;
      stop(r, KNHK_FAULT_UNKNOWN, r->depth, kept);
    }
    return;
  }
  if (!knhk_text_room(w->d, value.n)) return;
  memcpy(w->d->text, value.p, value.n);
  const knhk_state *to = &T->states[T->edges[s->edge + edge - 1].state];
  knhk_scalar v = {{w->d->text, value.n}, KNHK_SCALAR_STRING};
  w->d->text += value.n;
  const uint32_t code = knhk_misfit_refs(to, v);
  if (code != KNHK_FAULT_NONE) knhk_fault_at(w, code, r->depth + 1, v.s);
  knhk_begin_items(w, to);
  if (!is_over(r)) knhk_capture_value(w, to, v, r->depth + 1);
  if (!is_over(r)) knhk_end_items(w, to);
  if (!is_over(r)) return;
  w->d->fault.path[r->depth].name = kept_name(w->d, local_of(name));
  stop(r, KNHK_FAULT_NONE, 0, v.s);
}

/* ---- elements ---- */

static void XMLCALL begin_element(void *user, const XML_Char *name, const XML_Char **attributes) {
  reader *r = user;
  knhk_walk *w = r->w;
  frame *parent = &r->open[r->depth];
  const knhk_state *from = &T->states[parent->state];
  if (is_over(r)) return;
  const knhk_text written = written_name(r);
  w->d->fault.path[r->depth].name = written;
  if (r->depth >= w->mapping->max_depth) {
    stop(r, KNHK_FAULT_DEPTH, r->depth, written);
    return;
  }
  if (parent->state != 0 && from->nref > 0) {
    stop(r, KNHK_FAULT_CHILDREN, r->depth, written);
    return;
  }
  const uint32_t state = parent->state == 0 ? 0 : next_state(w, from, text_of(name));
  if (state == 0 && w->mapping->unknown_deny) {
    stop(r, KNHK_FAULT_UNKNOWN, r->depth, written);
    return;
  }
  const knhk_state *s = &T->states[state];
  frame *f = &r->open[++r->depth];
  f->state = state;
  f->text.p = (const uint8_t *)"";
  f->text.n = 0;
  if (state == 0) return;
  memset(w->counts + s->edge, 0, 4 * (size_t)s->nedge);
  knhk_begin_items(w, s);
  for (uint32_t i = 0; attributes[i] != NULL && !is_over(r); i += 2) take_attribute(r, s, text_of(attributes[i]), text_of(attributes[i + 1]));
}

static void XMLCALL end_element(void *user, const XML_Char *name) {
  reader *r = user;
  knhk_walk *w = r->w;
  (void)name;
  if (is_over(r)) return;
  const frame *f = &r->open[r->depth];
  const knhk_state *s = &T->states[f->state];
  if (f->state != 0) {
    const knhk_scalar v = {f->text, KNHK_SCALAR_STRING};
    const uint32_t code = knhk_misfit_refs(s, v);
    if (f->text.p == w->d->text) w->d->text += f->text.n;
    if (code != KNHK_FAULT_NONE) knhk_fault_at(w, code, r->depth, v.s);
    else knhk_capture_value(w, s, v, r->depth);
    if (!is_over(r)) knhk_end_items(w, s);
  }
  if (is_over(r)) stop(r, KNHK_FAULT_NONE, 0, f->text);
  r->depth--;
}

static int is_white(const XML_Char *s, int n) {
  for (int i = 0; i < n; i++)
    if (s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && s[i] != '\r') return 0;
  return 1;
}

static void XMLCALL characters(void *user, const XML_Char *s, int n) {
  reader *r = user;
  frame *f = &r->open[r->depth];
  knhk_delta *d = r->w->d;
  const knhk_text piece = {(const uint8_t *)s, (uint32_t)n}, body = d->obs.body;
  if (is_over(r)) return;
  if (f->state == 0 || T->states[f->state].nref == 0) {
    if (f->state != 0 && r->w->mapping->unknown_deny && !is_white(s, n)) stop(r, KNHK_FAULT_TEXT, r->depth, piece);
    return;
  }
  if (f->text.n == 0 && piece.p >= body.p && piece.p < body.p + body.n) {
    f->text = piece;
    return;
  }
  if (!knhk_text_room(d, (size_t)f->text.n + piece.n)) {
    stop(r, KNHK_FAULT_NONE, 0, piece);
    return;
  }
  if (f->text.p != d->text) memcpy(d->text, f->text.p, f->text.n);
  memcpy(d->text + f->text.n, piece.p, piece.n);
  f->text.p = d->text;
  f->text.n += piece.n;
}

/* ---- prolog ---- */

static void XMLCALL declaration(void *user, const XML_Char *version, const XML_Char *encoding, int standalone) {
  reader *r = user;
  (void)standalone;
  if (version != NULL && !knhk_same(text_of(version), text_of("1.0"))) stop(r, KNHK_FAULT_XML, 0, text_of(""));
  if (encoding == NULL) return;
  static const char utf8[] = "utf-8";
  int same = 1;
  for (uint32_t i = 0; i < sizeof utf8 && same; i++) same = (encoding[i] >= 'A' && encoding[i] <= 'Z' ? encoding[i] + 32 : encoding[i]) == utf8[i];
  if (!same) stop(r, KNHK_FAULT_ENCODING, 0, text_of(""));
}

static void XMLCALL namespace(void *user, const XML_Char *prefix, const XML_Char *name) {
  (void)prefix;
  if (name != NULL && text_of(name).n > NAMESPACE_MAX) stop(user, KNHK_FAULT_MEMORY, 0, text_of(""));
}

static void XMLCALL doctype(void *user, const XML_Char *name, const XML_Char *system, const XML_Char *public, int internal) {
  (void)name, (void)system, (void)public, (void)internal;
  stop(user, KNHK_FAULT_DOCTYPE, 0, text_of(""));
}

static XML_Parser make_parser(knhk_walk *w) {
  static const XML_Char separator[] = {SEPARATOR, 0};
  arena *a = (arena *)(void *)w->room;
  memset(a, 0, sizeof *a);
  a->suite.malloc_fcn = expat_malloc;
  a->suite.realloc_fcn = expat_realloc;
  a->suite.free_fcn = expat_free;
  a->at = w->room + ARENA_BYTES;
  a->end = w->room + w->room_len;
  return XML_ParserCreate_MM("UTF-8", &a->suite, separator);
}

/* Names that an attacker made to collide must collide under a salt that he did not know: the time of O is part of it. */
static unsigned long salt_of(const knhk_observation *o) {
  const uint64_t h = (o->time_ns ^ T->seed.x) * KNHK_MIX1;
  return (unsigned long)((h ^ (h >> 29)) * KNHK_MIX2) | 1;
}

void knhk_read_xml(knhk_walk *w) {
  const knhk_text body = w->d->obs.body, none = {(const uint8_t *)"", 0};
  reader r;
  /* expat would take UTF-16 by its byte order mark, or by a zero byte */
  if (!knhk_utf8(body.p, body.n) || memchr(body.p, 0, body.n) != NULL) {
    knhk_fault_at(w, KNHK_FAULT_ENCODING, 0, none);
    return;
  }
  r.w = w;
  r.depth = 0;
  r.open[0].state = w->mapping->root;
  r.open[0].text = none;
  const knhk_state *s = &T->states[w->mapping->root];
  memset(w->counts + s->edge, 0, 4 * (size_t)s->nedge);
  r.parser = make_parser(w);
  if (r.parser == NULL) {
    knhk_fault_at(w, KNHK_FAULT_MEMORY, 0, none);
    return;
  }
  XML_SetHashSalt(r.parser, salt_of(&w->d->obs));
  XML_SetUserData(r.parser, &r);
  XML_SetElementHandler(r.parser, begin_element, end_element);
  XML_SetCharacterDataHandler(r.parser, characters);
  XML_SetXmlDeclHandler(r.parser, declaration);
  XML_SetStartDoctypeDeclHandler(r.parser, doctype);
  XML_SetStartNamespaceDeclHandler(r.parser, namespace);
  knhk_begin_items(w, s);
  if (XML_Parse(r.parser, (const char *)body.p, (int)body.n, 1) != XML_STATUS_OK && !is_over(&r)) {
    const int memory = XML_GetErrorCode(r.parser) == XML_ERROR_NO_MEMORY;
    knhk_fault_at(w, memory ? KNHK_FAULT_MEMORY : KNHK_FAULT_XML, 0, none);
    w->d->fault.at = (uint64_t)XML_GetCurrentByteIndex(r.parser);
  }
  if (!is_over(&r)) knhk_end_items(w, s);
}

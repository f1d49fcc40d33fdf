/* walk.h: what a reader of bodies calls. A reader parses the body of w->d->obs and drives the mapping (items.c) and the Δ (delta.c);
 * extract.c has the table of readers, one row for each format of a mapping. */
#ifndef KNHK_WALK_H
#define KNHK_WALK_H

#include "engine.h"

#define KNHK_PROBES_MAX 256u /* beyond: an adversary, or a table that is not worth its time; the tier below decides */
#define KNHK_WORK_MAX ((uint64_t)1 << 26) /* bytes of templates, whose values multiply; beyond, the tier below decides */

/* ---- values of a body ---- */
enum { KNHK_SCALAR_STRING = 0, KNHK_SCALAR_BOOLEAN, KNHK_SCALAR_NUMBER, KNHK_SCALAR_DECIMAL, KNHK_SCALAR_DATE, KNHK_SCALAR_DATETIME };
enum { KNHK_SHAPE_SCALAR = 0, KNHK_SHAPE_OBJECT, KNHK_SHAPE_ARRAY };
typedef struct { /* borrowed from O or from the reader's memory for the whole decision */
  knhk_text s;
  uint32_t kind; /* KNHK_SCALAR_*: what the datatype is when the mapping names none */
} knhk_scalar;

typedef struct {
  knhk_scalar value;
  uint32_t next; /* 1 + index; 0 ends */
} knhk_capture;
typedef struct {
  uint32_t node, next;
} knhk_made;

typedef struct knhk_walk {
  knhk_delta *d;
  const knhk_mapping *mapping;
  knhk_read_plain *read_plain;
  uint8_t *room; /* the reader's memory, 64-byte aligned */
  size_t room_len;
  uint32_t *members; /* hash table for names within one object; the memory of gather */
  uint32_t *slot_head, *slot_tail; /* captures + 1; for children: made + 1 at the item's start */
  uint32_t *made_head, *items, *subject; /* per map */
  knhk_capture *captures;
  knhk_made *mades;
  uint32_t *counts;              /* per edge: how often it was taken below the present parent (XML) */
  knhk_triple *joins, *joins_spare; /* key: join and key string; obj: side and node */
  uint32_t ncapture, capture_cap, nmade, made_cap, njoin, join_cap;
  uint32_t ascii;  /* 1: what the reader captures has a byte for each character */
  uint32_t padded; /* 1: what the reader captures has 8 bytes of memory behind it */
  uint64_t work; /* of templates: values looked at and bytes written */
} knhk_walk;

/* ---- readers: each says what is wrong by knhk_fault_at ---- */
KNHK_HIDDEN void knhk_read_json(knhk_walk *w);
KNHK_HIDDEN void knhk_read_xml(knhk_walk *w);
KNHK_HIDDEN void knhk_read_ntriples(knhk_walk *w);
/* Memory that the reader of any format needs for a body within an O of that size. */
KNHK_HIDDEN size_t knhk_json_room(size_t o_len);
KNHK_HIDDEN size_t knhk_xml_room(size_t o_len);
KNHK_HIDDEN size_t knhk_ntriples_room(size_t o_len);

/* ---- the mapping's machine (items.c) ---- */
KNHK_HIDDEN void knhk_fault_at(knhk_walk *w, uint32_t code, uint32_t depth, knhk_text found);
KNHK_INLINE int knhk_is_edge(const knhk_edge *e, knhk_text name, uint64_t head) {
  return e->head == head && e->length == name.n && (name.n <= 8 || knhk_equal(knhk_tables_v1.text + e->at + 8, name.p + 8, name.n - 8));
}
KNHK_HIDDEN uint32_t knhk_find_edge(const knhk_state *s, knhk_text name, uint64_t head);
/* 1 + the edge of a member, 0 when there is none; head: of the name (knhk_head). *hint is the edge expected next, for documents mostly come
 * in one order. */
KNHK_INLINE uint32_t knhk_member_edge(const knhk_state *s, knhk_text name, uint64_t head, uint32_t *hint) {
  if (*hint < s->nedge && knhk_is_edge(knhk_tables_v1.edges + s->edge + *hint, name, head)) return ++*hint;
  if (((s->filter >> KNHK_NAME_BIT(head, name.n)) & 1) == 0) return 0;
  const uint32_t edge = knhk_find_edge(s, name, head);
  *hint = edge == 0 ? *hint : edge;
  return edge;
}
KNHK_HIDDEN uint32_t knhk_element_state(const knhk_state *s, uint32_t index);
/* What the mapping needs here and does not find; KNHK_FAULT_NONE when all is well. */
KNHK_HIDDEN uint32_t knhk_misfit_refs(const knhk_state *s, knhk_scalar v);
KNHK_HIDDEN uint32_t knhk_misfit(const knhk_state *s, uint32_t shape, knhk_scalar v);
/* Around each value of a state: items begin, the value (empty for containers) is captured, items end and make triples. */
KNHK_HIDDEN void knhk_begin_items(knhk_walk *w, const knhk_state *s);
KNHK_HIDDEN void knhk_capture_value(knhk_walk *w, const knhk_state *s, knhk_scalar v, uint32_t depth);
KNHK_HIDDEN void knhk_end_items(knhk_walk *w, const knhk_state *s);
/* After the body: links what joins over keys say. */
KNHK_HIDDEN void knhk_link_joins(knhk_walk *w);

/* Runs a slot's functions over *v. KNHK_FAULT_NONE, or KNHK_FAULT_FORM + the kind of the function that refuses; *absent: there is no value. */
KNHK_HIDDEN uint32_t knhk_apply(knhk_delta *d, const knhk_slot *slot, knhk_scalar *v, int *absent);

/* The value of a plain edge: what knhk_misfit and knhk_capture_value come to there. */
KNHK_INLINE void knhk_capture_plain(knhk_walk *w, uint32_t slot, knhk_scalar v) {
  if (w->ncapture == w->capture_cap) {
    w->d->over = 1;
    return;
  }
  knhk_capture *c = &w->captures[w->ncapture++];
  c->value.s.p = v.s.p; /* one by one: a copy of the whole would wait for its parts to be stored */
  c->value.s.n = v.s.n;
  c->value.kind = v.kind;
  c->next = 0;
  if (w->slot_head[slot] == 0) w->slot_head[slot] = w->ncapture;
  else w->captures[w->slot_tail[slot] - 1].next = w->ncapture;
  w->slot_tail[slot] = w->ncapture;
}

/* ---- the Δ (delta.c) ---- */
KNHK_HIDDEN uint32_t knhk_bits_for(uint32_t n);
KNHK_HIDDEN void knhk_begin_delta(knhk_delta *d); /* of d->binding */
/* Id of a string; a new one is kept by reference. */
KNHK_HIDDEN uint32_t knhk_intern(knhk_delta *d, knhk_text s, int *is_new);
/* 1 when n bytes fit at d->text, and some to spare; else the Δ is over. */
KNHK_HIDDEN int knhk_text_room(knhk_delta *d, size_t n);
KNHK_HIDDEN uint32_t knhk_node_of(knhk_delta *d, uint64_t term, uint64_t val, uint64_t meta);
KNHK_HIDDEN void knhk_sort_rows(knhk_triple **rows, knhk_triple **spare, uint32_t n);
/* 1 when only the point may speak of this node: the request, the caller, a node that the data bundle describes. A body that named it as a
 * subject would grant itself attributes. */
KNHK_HIDDEN int knhk_is_reserved(const knhk_delta *d, uint32_t node);
/* Sorts, drops what is there twice, cuts into chunks. */
KNHK_HIDDEN void knhk_end_delta(knhk_delta *d);

KNHK_INLINE uint32_t knhk_intern_kept(knhk_delta *d, knhk_text s) {
  int is_new;
  return knhk_intern(d, s, &is_new);
}

/* Interns n bytes that were written at d->text, and keeps them there if they are new. */
KNHK_INLINE uint32_t knhk_intern_made(knhk_delta *d, uint32_t n) {
  const knhk_text s = {d->text, n};
  int is_new;
  const uint32_t id = knhk_intern(d, s, &is_new);
  if (is_new) d->text += n;
  return id;
}

KNHK_INLINE int knhk_before(const knhk_triple *a, const knhk_triple *b) { return a->key != b->key ? a->key < b->key : a->obj < b->obj; }

/* The first 8 bytes of a string with 8 bytes of memory behind it, zeros after its end. */
KNHK_INLINE uint64_t knhk_padded_head(knhk_text s) {
  static const uint64_t kept[9] = {0, 0xff, 0xffff, 0xffffff, 0xffffffffu, 0xffffffffffull, 0xffffffffffffull, 0xffffffffffffffull, ~0ull};
  return knhk_bytes8(s.p) & kept[s.n < 8 ? s.n : 8];
}

KNHK_INLINE void knhk_add(knhk_delta *d, uint32_t node, uint32_t p, uint64_t obj, uint64_t val, uint64_t meta) {
  if (d->ntriple == d->triple_cap) {
    d->over = 1;
    return;
  }
  knhk_triple *t = &d->triple[d->ntriple];
  t->key = ((uint64_t)node << 32) | p;
  t->obj = obj;
  t->val = val;
  t->meta = meta;
  d->inexact |= (uint32_t)(val >> 63);
  d->unordered |= (uint32_t)(d->ntriple > 0 && !knhk_before(t - 1, t));
  d->ntriple++;
}

KNHK_INLINE void knhk_add_term(knhk_delta *d, uint32_t node, uint32_t p, uint32_t kind, uint32_t second, uint32_t id, knhk_text s) {
  uint64_t val, meta;
  const uint64_t obj = knhk_lanes(kind, second, id, s, &val, &meta);
  knhk_add(d, node, p, obj, val, meta);
}

#endif /* KNHK_WALK_H */

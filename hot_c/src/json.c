/* json.c: bodies of JSON: strict, by yyjson in the reader's memory, one walk by the mapping's states. */
#define KNHK_BUILDING_PACK
#include "walk.h"
#include "yyjson.h"

static const knhk_tables *const T = &knhk_tables_v1;

#define READ_FLAGS YYJSON_READ_NUMBER_AS_RAW
#define FEW 16u /* members of an object that are compared without a hash table */

typedef struct {
  knhk_walk *w;
  yyjson_val *root;
} reader;

size_t knhk_json_room(size_t o_len) { return yyjson_read_max_memory_usage(o_len, READ_FLAGS) + 1024; }

static knhk_text text_of(yyjson_val *string) {
  const knhk_text t = {(const uint8_t *)unsafe_yyjson_get_str(string), (uint32_t)unsafe_yyjson_get_len(string)};
  return t;
}

/* The first 8 bytes of a string of the document, zeros after its end: there is memory of the pool behind it. */
static uint64_t head_of(knhk_text s) {
  const uint64_t w = knhk_bytes8(s.p);
  return s.n >= 8 ? w : w & (((uint64_t)1 << (8 * s.n)) - 1);
}

static knhk_scalar scalar_of(yyjson_val *v) {
  knhk_scalar x = {{(const uint8_t *)"", 0}, KNHK_SCALAR_STRING};
  if (yyjson_is_str(v)) {
    x.s = text_of(v);
  } else if (yyjson_is_raw(v)) {
    x.s = text_of(v);
    x.kind = KNHK_SCALAR_NUMBER;
  } else if (yyjson_is_bool(v)) {
    const uint32_t truth = unsafe_yyjson_get_bool(v);
    x.s.p = (const uint8_t *)(truth ? "true" : "false");
    x.s.n = 5 - truth;
    x.kind = KNHK_SCALAR_BOOLEAN;
  }
  return x;
}

/* ---- member names: distinct within an object ---- */

/* A name that occurs twice, or NULL. */
static yyjson_val *repeated(const reader *r, yyjson_val *object) {
  const uint32_t n = (uint32_t)unsafe_yyjson_get_len(object), bits = knhk_bits_for(n), mask = (1u << bits) - 1;
  uint32_t *members = r->w->members;
  size_t i, max;
  yyjson_val *key, *value;
  memset(members, 0, (size_t)4 << bits);
  yyjson_obj_foreach(object, i, max, key, value) {
    const knhk_text name = text_of(key);
    uint32_t at = (uint32_t)knhk_hash(name, T->seed) & mask, probes = 0;
    for (; members[at] != 0; at = (at + 1) & mask) {
      if (knhk_same(text_of(r->root + members[at] - 1), name)) return key;
      if (++probes == KNHK_PROBES_MAX) { /* names made to collide: the tier below looks at them */
        r->w->d->over = 1;
        return NULL;
      }
    }
    members[at] = (uint32_t)(key - r->root) + 1;
  }
  return NULL;
}

/* ---- the walk: depth is bounded by max_depth ≤ KNHK_DEPTH_MAX ---- */

static void walk(const reader *r, yyjson_val *v, uint32_t state, uint32_t depth);

/* A scalar where no item begins or ends. */
static void take_scalar(knhk_walk *w, const knhk_state *s, yyjson_val *v, uint32_t depth) {
  const knhk_scalar x = scalar_of(v);
  const uint32_t code = knhk_misfit(s, KNHK_SHAPE_SCALAR, x);
  if (code != KNHK_FAULT_NONE) knhk_fault_at(w, code, depth, x.s);
  else knhk_capture_value(w, s, x, depth);
}

/* 0 when the walk ends here. */
static int take_member(const reader *r, knhk_text name, yyjson_val *value, uint32_t state, uint32_t depth) {
  knhk_walk *w = r->w;
  knhk_fault *f = &w->d->fault;
  f->path[depth].name = name;
  if (state == 0 && w->mapping->unknown_deny) {
    knhk_fault_at(w, KNHK_FAULT_UNKNOWN, depth, name);
    return 0;
  }
  const knhk_state *s = &T->states[state];
  if (yyjson_is_ctn(value) || s->nitem > 0) walk(r, value, state, depth + 1);
  else if (state != 0 && !yyjson_is_null(value)) take_scalar(w, s, value, depth + 1);
  return f->code == KNHK_FAULT_NONE;
}

static uint32_t state_after(const knhk_state *s, uint32_t edge) { return edge == 0 ? 0 : T->edges[s->edge + edge - 1].state; }

/* Of all faults of an object a repeated name comes first: what is inside was not looked at in its light. */
static void prefer_repeated(const reader *r, yyjson_val *object, uint32_t depth) {
  knhk_fault *f = &r->w->d->fault;
  yyjson_val *twice = repeated(r, object);
  if (twice == NULL) return;
  f->code = KNHK_FAULT_NONE;
  knhk_fault_at(r->w, KNHK_FAULT_DUPLICATE, depth, text_of(twice));
}

/* Names that were met in an object: those with an edge as bits, for edges have distinct names; the others to be compared. */
typedef struct {
  uint64_t edges, head[FEW];
  knhk_text name[FEW];
  uint32_t n;
} met_names;

static int meets_again(met_names *met, uint32_t edge, knhk_text name, uint64_t head) {
  const uint64_t bit = edge == 0 ? 0 : (uint64_t)1 << (edge - 1);
  if ((met->edges & bit) != 0) return 1;
  met->edges |= bit;
  if (edge != 0) return 0;
  for (uint32_t k = 0; k < met->n; k++)
    if (met->head[k] == head && knhk_same(met->name[k], name)) return 1;
  met->head[met->n] = head;
  met->name[met->n++] = name;
  return 0;
}

static void walk_few(const reader *r, yyjson_val *v, const knhk_state *s, uint32_t depth) {
  met_names met;
  met.edges = met.n = 0;
  uint32_t hint = 0, n = (uint32_t)unsafe_yyjson_get_len(v);
  for (yyjson_val *key = n == 0 ? NULL : unsafe_yyjson_get_first(v); n > 0; key = unsafe_yyjson_get_next(key + 1), n--) {
    const knhk_text name = text_of(key);
    const uint64_t head = head_of(name);
    const uint32_t edge = knhk_member_edge(s, name, head, &hint);
    if (meets_again(&met, edge, name, head)) {
      knhk_fault_at(r->w, KNHK_FAULT_DUPLICATE, depth, name);
      return;
    }
    if (!yyjson_is_ctn(key + 1)) {
      if (edge == 0 && !r->w->mapping->unknown_deny) continue;
      const uint32_t plain = edge == 0 ? 0 : T->edges[s->edge + edge - 1].plain;
      if (plain != 0) {
        if (!yyjson_is_null(key + 1)) knhk_capture_plain(r->w, plain - 1, scalar_of(key + 1));
        continue;
      }
    }
    if (take_member(r, name, key + 1, state_after(s, edge), depth)) continue;
    prefer_repeated(r, v, depth);
    return;
  }
}

static void walk_many(const reader *r, yyjson_val *v, const knhk_state *s, uint32_t depth) {
  yyjson_val *twice = repeated(r, v), *key, *value;
  uint32_t hint = 0;
  size_t i, max;
  if (twice != NULL) {
    knhk_fault_at(r->w, KNHK_FAULT_DUPLICATE, depth, text_of(twice));
    return;
  }
  yyjson_obj_foreach(v, i, max, key, value) {
    const knhk_text name = text_of(key);
    if (!take_member(r, name, value, state_after(s, knhk_member_edge(s, name, head_of(name), &hint)), depth)) return;
  }
}

static void walk_array(const reader *r, yyjson_val *v, const knhk_state *s, uint32_t depth) {
  knhk_fault *f = &r->w->d->fault;
  size_t i, max;
  yyjson_val *value;
  yyjson_arr_foreach(v, i, max, value) {
    const uint32_t next = knhk_element_state(s, (uint32_t)i);
    f->path[depth].name.p = NULL;
    f->path[depth].index = (uint32_t)i;
    if (next == 0 && r->w->mapping->unknown_deny) {
      knhk_fault_at(r->w, KNHK_FAULT_UNKNOWN, depth, scalar_of(value).s);
      return;
    }
    walk(r, value, next, depth + 1);
    if (f->code != KNHK_FAULT_NONE) return;
  }
}

static uint32_t shape_of(yyjson_val *v) {
  return yyjson_is_obj(v) ? KNHK_SHAPE_OBJECT : yyjson_is_arr(v) ? KNHK_SHAPE_ARRAY : KNHK_SHAPE_SCALAR;
}

static void walk(const reader *r, yyjson_val *v, uint32_t state, uint32_t depth) {
  knhk_walk *w = r->w;
  const knhk_state *s = &T->states[state];
  const uint32_t shape = shape_of(v);
  const knhk_scalar x = scalar_of(v);
  const int mapped = state != 0 && !yyjson_is_null(v);
  uint32_t code = shape != KNHK_SHAPE_SCALAR && depth >= w->mapping->max_depth ? KNHK_FAULT_DEPTH : KNHK_FAULT_NONE;
  if (code == KNHK_FAULT_NONE && mapped) code = knhk_misfit(s, shape, x);
  if (code != KNHK_FAULT_NONE) {
    knhk_fault_at(w, code, depth, x.s);
    return;
  }
  if (mapped) {
    knhk_begin_items(w, s);
    knhk_capture_value(w, s, x, depth);
  }
  if (shape == KNHK_SHAPE_OBJECT && unsafe_yyjson_get_len(v) <= FEW && s->nedge <= 64) walk_few(r, v, s, depth);
  else if (shape == KNHK_SHAPE_OBJECT) walk_many(r, v, s, depth);
  else if (shape == KNHK_SHAPE_ARRAY) walk_array(r, v, s, depth);
  if (mapped && w->d->fault.code == KNHK_FAULT_NONE) knhk_end_items(w, s);
}

void knhk_read_json(knhk_walk *w) {
  const knhk_text body = w->d->obs.body, none = {(const uint8_t *)"", 0};
  yyjson_alc pool;
  yyjson_read_err error;
  memset(&error, 0, sizeof error);
  yyjson_alc_pool_init(&pool, w->room, w->room_len);
  /* without YYJSON_READ_INSITU the text is copied, not written */
  yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)body.p, body.n, READ_FLAGS, &pool, &error);
  if (doc == NULL) {
    /* a well-formed document fits in the memory that yyjson asks for; what does not fit is brackets that never close */
    knhk_fault_at(w, KNHK_FAULT_SYNTAX, 0, none);
    w->d->fault.at = error.pos;
    return;
  }
  const reader r = {w, yyjson_doc_get_root(doc)};
  walk(&r, r.root, w->mapping->root, 0);
}

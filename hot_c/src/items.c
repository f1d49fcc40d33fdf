/* items.c: the mapping as a machine: states, captured values, items of maps and the triples they make. It knows no format. */
#define KNHK_BUILDING_PACK
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

void knhk_fault_at(knhk_walk *w, uint32_t code, uint32_t depth, knhk_text found) {
  knhk_fault *f = &w->d->fault;
  if (f->code != KNHK_FAULT_NONE) return;
  f->code = code;
  f->depth = depth;
  f->found = found;
}

uint32_t knhk_find_edge(const knhk_state *s, knhk_text name, uint64_t head) {
  const uint32_t mask = (1u << s->slot_bits) - 1;
  for (uint32_t at = (uint32_t)knhk_hash(name, T->seed) & mask;; at = (at + 1) & mask) {
    const uint32_t slot = T->edge_slots[s->slot + at];
    if (slot == 0 || knhk_is_edge(T->edges + s->edge + slot - 1, name, head)) return slot;
  }
}

uint32_t knhk_element_state(const knhk_state *s, uint32_t index) {
  for (uint32_t i = 0; i < s->nindex; i++)
    if (T->edges[s->index + i].name == index) return T->edges[s->index + i].state;
  return s->each;
}

static uint32_t misfit_slot(const knhk_slot *k, knhk_scalar v) {
  if ((k->flags & KNHK_SLOT_STRING) != 0 && v.kind != KNHK_SCALAR_STRING) return KNHK_FAULT_STRING;
  if ((k->flags & KNHK_SLOT_IRI) != 0 && (v.kind != KNHK_SCALAR_STRING || !knhk_iri_valid(v.s))) return KNHK_FAULT_IRI;
  return KNHK_FAULT_NONE;
}

/* ---- items ---- */

void knhk_begin_items(knhk_walk *w, const knhk_state *s) {
  for (uint32_t i = 0; i < s->nitem; i++) {
    const knhk_map *m = &T->maps[T->state_items[s->item + i]];
    for (uint32_t k = 0; k < m->nslot; k++) w->slot_head[m->slot + k] = w->slot_tail[m->slot + k] = 0;
    for (uint32_t k = 0; k < m->nproperty; k++) {
      const knhk_property *p = &T->properties[m->property + k];
      if (p->kind == KNHK_O_CHILD) w->slot_head[p->slot] = w->made_head[p->child];
    }
  }
}

/* Why a value is not captured, or KNHK_FAULT_NONE. */
static uint32_t capture(knhk_walk *w, uint32_t slot, knhk_scalar v) {
  const knhk_slot *k = &T->slots[slot];
  if (k->nfunction > 0) {
    int absent;
    uint32_t code = knhk_apply(w->d, k, &v, &absent);
    if (code == KNHK_FAULT_NONE && !absent) code = misfit_slot(k, v);
    if (code != KNHK_FAULT_NONE || absent) return code;
  }
  if ((k->flags & KNHK_SLOT_ONE) != 0 && w->slot_head[slot] != 0) return KNHK_FAULT_TWICE;
  knhk_capture_plain(w, slot, v);
  return KNHK_FAULT_NONE;
}

void knhk_capture_value(knhk_walk *w, const knhk_state *s, knhk_scalar v, uint32_t depth) {
  for (uint32_t i = 0; i < s->nref; i++) {
    const uint32_t code = capture(w, T->state_refs[s->ref + i], v);
    if (code != KNHK_FAULT_NONE) knhk_fault_at(w, code, depth, v.s);
  }
}

/* letters and digits stay, other bytes become _XX, "_" ends: no label of a `blank` subject ends so */
static uint32_t label_bytes(knhk_text s, uint8_t *out) {
  static const uint8_t hex[16] = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'};
  uint32_t n = 0;
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
      out[n++] = c;
    } else {
      out[n++] = '_';
      out[n++] = hex[c >> 4];
      out[n++] = hex[c & 15];
    }
  }
  return n;
}

typedef struct {
  knhk_walk *w;
  const knhk_part *parts;
  uint32_t nparts, node; /* node: KNHK_K_* of the term */
  void (*done)(void *to, uint32_t id, knhk_text s);
  void *to;
} maker;

static uint32_t part_bytes(uint32_t node, int fixed, knhk_text s, uint8_t *out) {
  if (node == KNHK_K_BNODE) return label_bytes(s, out);
  if (node == KNHK_K_IRI && !fixed) return knhk_percent(s, out);
  memcpy(out, s.p, s.n);
  return s.n;
}

static void make_from(maker *m, uint32_t part, uint32_t length);

/* Writes one value of a part after the first `length` bytes at d->text, then the rest. */
static void make_part(maker *m, uint32_t part, uint32_t length, int fixed, knhk_text s) {
  knhk_delta *d = m->w->d;
  if (!knhk_text_room(d, length + 3 * (size_t)s.n + 1)) return;
  const uint32_t n = part_bytes(m->node, fixed, s, d->text + length);
  make_from(m, part + 1, length + n);
}

/* All strings of a template; a reference with several values gives several. An absent or empty one gives none. */
static void make_from(maker *m, uint32_t part, uint32_t length) {
  knhk_delta *d = m->w->d;
  if (part == m->nparts) {
    if (m->node == KNHK_K_BNODE) d->text[length++] = '_';
    const knhk_text s = {d->text, length};
    m->done(m->to, knhk_intern_made(d, length), s);
    return;
  }
  const knhk_part *p = &m->parts[part];
  if (p->slot == KNHK_NONE) {
    make_part(m, part, length, 1, knhk_pack_string(p->text));
    return;
  }
  const uint8_t *prefix = d->text;
  for (uint32_t c = m->w->slot_head[p->slot]; c != 0; c = m->w->captures[c - 1].next) {
    const knhk_text s = m->w->captures[c - 1].value.s;
    if (d->text != prefix && knhk_text_room(d, length)) memcpy(d->text, prefix, length); /* a made string was kept: this value needs the prefix again */
    m->w->work += sizeof(knhk_capture) + length + s.n;
    if (m->w->work > KNHK_WORK_MAX) d->over = 1;
    else if (s.n > 0) make_part(m, part, length, (int)p->text, s);
    if (d->over) return;
  }
}

typedef struct {
  knhk_delta *d;
  uint32_t node, kind;
} subject_target;

static void subject_made(void *to, uint32_t id, knhk_text s) {
  subject_target *t = to;
  uint64_t val, meta;
  const uint64_t term = knhk_lanes(t->kind, 0, id, s, &val, &meta);
  t->node = knhk_node_of(t->d, term, val, meta);
}

static uint32_t blank_subject(knhk_walk *w, const knhk_map *m, uint32_t item) {
  knhk_delta *d = w->d;
  const knhk_text label = knhk_pack_string(m->constant);
  if (!knhk_text_room(d, label.n + 21)) return KNHK_NONE;
  memcpy(d->text, label.p, label.n);
  const uint32_t n = label.n + knhk_decimal(item, d->text + label.n);
  subject_target t = {d, KNHK_NONE, KNHK_K_BNODE};
  const knhk_text s = {d->text, n};
  subject_made(&t, knhk_intern_made(d, n), s);
  return t.node;
}

static uint32_t subject_of(knhk_walk *w, const knhk_map *m, uint32_t item) {
  subject_target t = {w->d, KNHK_NONE, m->node};
  if (m->subject == KNHK_SUBJECT_BLANK) return blank_subject(w, m, item);
  if (m->subject == KNHK_SUBJECT_CONSTANT) {
    subject_made(&t, m->constant, knhk_pack_string(m->constant));
  } else {
    maker k = {w, T->parts + m->part, m->npart, m->node, subject_made, &t};
    make_from(&k, 0, 0);
    if (t.node == KNHK_NONE && m->constant != 0) return blank_subject(w, m, item);
    if (t.node != KNHK_NONE && !w->d->over && knhk_is_reserved(w->d, t.node))
      knhk_fault_at(w, KNHK_FAULT_RESERVED, 0, knhk_string(w->d, (uint32_t)w->d->node[t.node].term));
  }
  return t.node;
}

typedef struct {
  knhk_delta *d;
  const knhk_property *p;
  uint32_t node;
} object_target;

static void object_made(void *to, uint32_t id, knhk_text s) {
  object_target *t = to;
  knhk_add_term(t->d, t->node, t->p->p, t->p->node, t->p->second, id, s);
}

static uint32_t natural_type(knhk_scalar v) {
  static const uint32_t code[] = {[KNHK_SCALAR_STRING] = KNHK_D_STRING, [KNHK_SCALAR_BOOLEAN] = KNHK_D_BOOLEAN, [KNHK_SCALAR_NUMBER] = KNHK_D_INTEGER,
                                  [KNHK_SCALAR_DECIMAL] = KNHK_D_DECIMAL, [KNHK_SCALAR_DATE] = KNHK_D_DATE, [KNHK_SCALAR_DATETIME] = KNHK_D_DATETIME};
  if (v.kind == KNHK_SCALAR_NUMBER)
    for (uint32_t i = 0; i < v.s.n; i++)
      if (v.s.p[i] == '.' || v.s.p[i] == 'e' || v.s.p[i] == 'E') return KNHK_S_XSD + KNHK_D_DOUBLE - 1;
  return KNHK_S_XSD + code[v.kind] - 1;
}

#define XSD_STRING (KNHK_S_XSD + KNHK_D_STRING - 1)

/* The id of what the reader captured as it is. */
static uint32_t captured_id(const knhk_walk *w, knhk_text s) {
  const uint32_t id = w->padded && s.n <= 8 ? knhk_short_find(knhk_padded_head(s), s.n) : KNHK_NONE;
  return id != KNHK_NONE ? id : knhk_intern_kept(w->d, s);
}

static void add_references(knhk_walk *w, uint32_t node, const knhk_property *p) {
  const int as_it_is = T->slots[p->slot].nfunction == 0;
  for (uint32_t c = w->slot_head[p->slot]; c != 0; c = w->captures[c - 1].next) {
    const knhk_scalar v = w->captures[c - 1].value;
    const uint32_t second = p->node == KNHK_K_IRI ? 0 : p->second == KNHK_NATURAL ? natural_type(v) : p->second;
    const uint32_t id = as_it_is ? captured_id(w, v.s) : knhk_intern_kept(w->d, v.s);
    if (as_it_is && w->ascii && p->node == KNHK_K_LITERAL && second == XSD_STRING)
      knhk_add(w->d, node, p->p, KNHK_TERM(KNHK_K_LITERAL, XSD_STRING, id), 0,
               KNHK_M_LITERAL | KNHK_M_VALID | ((uint64_t)XSD_STRING << KNHK_M_DT_SHIFT) | ((uint64_t)v.s.n << KNHK_M_LEN_SHIFT));
    else
      knhk_add_term(w->d, node, p->p, p->node, second, id, v.s);
  }
}

/* Keys of a join's side at an item: 0 the parent's, 1 the child's. */
static void add_keys(knhk_walk *w, uint32_t slot, uint32_t join, uint64_t side, uint32_t node) {
  for (uint32_t c = w->slot_head[slot]; c != 0; c = w->captures[c - 1].next) {
    if (w->njoin == w->join_cap) {
      w->d->over = 1;
      return;
    }
    knhk_triple *row = &w->joins[w->njoin++];
    row->key = ((uint64_t)join << 32) | knhk_intern_kept(w->d, w->captures[c - 1].value.s);
    row->obj = (side << 32) | node;
    row->val = row->meta = 0;
  }
}

/* Rows with one key: the parents' sides, then the children's. Each child is linked to each parent. */
static void link_rows(knhk_walk *w, const knhk_triple *rows, uint32_t n) {
  uint32_t parents = 0;
  while (parents < n && rows[parents].obj >> 32 == 0) parents++;
  for (uint32_t c = parents; c < n; c++) {
    for (uint32_t k = 0; k < parents && !w->d->over; k++) {
      const knhk_node *parent = &w->d->node[(uint32_t)rows[k].obj];
      knhk_add(w->d, (uint32_t)rows[c].obj, T->joins[rows[c].key >> 32].p, parent->term, parent->val, parent->meta);
    }
  }
}

void knhk_link_joins(knhk_walk *w) {
  knhk_sort_rows(&w->joins, &w->joins_spare, w->njoin);
  for (uint32_t i = 0, n; i < w->njoin; i += n) {
    for (n = 1; i + n < w->njoin && w->joins[i + n].key == w->joins[i].key; n++) {}
    link_rows(w, w->joins + i, n);
  }
}

static void add_other(knhk_walk *w, uint32_t node, const knhk_property *p) {
  object_target t = {w->d, p, node};
  maker k = {w, T->parts + p->part, p->npart, p->node, object_made, &t};
  switch (p->kind) {
    case KNHK_O_TEMPLATE: make_from(&k, 0, 0); return;
    case KNHK_O_JOIN: add_keys(w, p->slot, p->child, 1, node); return;
    case KNHK_O_TERM: knhk_add(w->d, node, p->p, T->words[p->term], T->words[p->term + 1], T->words[p->term + 2]); return;
    default:
      for (uint32_t c = w->made_head[p->child]; c != w->slot_head[p->slot]; c = w->mades[c - 1].next) {
        const knhk_node *child = &w->d->node[w->mades[c - 1].node];
        knhk_add(w->d, node, p->p, child->term, child->val, child->meta);
      }
  }
}

static void add_property(knhk_walk *w, uint32_t node, const knhk_property *p) {
  if (p->kind == KNHK_O_REF) add_references(w, node, p);
  else add_other(w, node, p);
}

/* Subjects of all maps of an item first, so that maps over the same item may be one another's children. */
void knhk_end_items(knhk_walk *w, const knhk_state *s) {
  for (uint32_t i = 0; i < s->nitem; i++) {
    const uint32_t id = T->state_items[s->item + i];
    const uint32_t node = w->subject[id] = subject_of(w, &T->maps[id], w->items[id]++);
    if (node == KNHK_NONE) continue;
    if (w->nmade == w->made_cap) {
      w->d->over = 1;
      continue;
    }
    w->mades[w->nmade].node = node;
    w->mades[w->nmade].next = w->made_head[id];
    w->made_head[id] = ++w->nmade;
  }
  for (uint32_t i = 0; i < s->nitem; i++) {
    const uint32_t id = T->state_items[s->item + i], node = w->subject[id];
    const knhk_map *m = &T->maps[id];
    if (node == KNHK_NONE) continue;
    const uint64_t *cls = T->words + m->cls;
    for (uint32_t k = 0; k < m->ncls; k++, cls += 3) knhk_add(w->d, node, KNHK_S_RDF_TYPE, cls[0], cls[1], cls[2]);
    for (uint32_t k = 0; k < m->nproperty; k++)
      if (T->properties[m->property + k].read || w->d->whole) add_property(w, node, &T->properties[m->property + k]);
    for (uint32_t k = 0; k < m->njoin; k++) add_keys(w, T->joins[m->join + k].slot, m->join + k, 0, node);
  }
}
uint32_t knhk_misfit(const knhk_state *s, uint32_t shape, knhk_scalar v) {
  if (s->nref > 0 && shape != KNHK_SHAPE_SCALAR) return KNHK_FAULT_SCALAR;
  if (s->nedge > 0 && shape != KNHK_SHAPE_OBJECT) return KNHK_FAULT_OBJECT;
  if ((s->each != 0 || s->nindex > 0) && shape != KNHK_SHAPE_ARRAY) return KNHK_FAULT_ARRAY;
  return knhk_misfit_refs(s, v);
}

uint32_t knhk_misfit_refs(const knhk_state *s, knhk_scalar v) {
  for (uint32_t i = 0; i < s->nref; i++) {
    const knhk_slot *k = &T->slots[T->state_refs[s->ref + i]];
    const uint32_t code = k->nfunction == 0 ? misfit_slot(k, v) : KNHK_FAULT_NONE;
    if (code != KNHK_FAULT_NONE) return code;
  }
  return KNHK_FAULT_NONE;
}

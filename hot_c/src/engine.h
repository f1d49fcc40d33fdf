/* engine.h: what the parts of the engine share. Nothing here is part of the ABI; all symbols are hidden. */
#ifndef KNHK_ENGINE_H
#define KNHK_ENGINE_H

#include "bytes.h"
#include "knhk_tables.h"

#define KNHK_NONE 0xffffffffu
#define KNHK_JOINED(name, isa) knhk_##name##_##isa
#define KNHK_JOIN(name, isa) KNHK_JOINED(name, isa)
#define KNHK_NAME(name) KNHK_JOIN(name, KNHK_ISA) /* of a function that is compiled once for each instruction set */
#define KNHK_BODY_MAX (1u << 20)
#define KNHK_DEPTH_MAX 128u
#define KNHK_ATTRS_MAX 64u

/* ---- observation ---- */
typedef struct {
  uint64_t time_ns;
  knhk_text region, route, body;
  uint32_t nattr;
  knhk_text name[KNHK_ATTRS_MAX], value[KNHK_ATTRS_MAX];
} knhk_observation;

/* Parses canonical O. Returns KNHK_OK or KNHK_E_INPUT. */
KNHK_HIDDEN int32_t knhk_observe(const uint8_t *o, size_t len, knhk_observation *out);
/* 1 when the bytes are UTF-8 (no surrogates, no overlong forms). */
KNHK_HIDDEN int knhk_utf8(const uint8_t *p, size_t n);

/* ---- binding ---- */
typedef struct {
  uint64_t obj, val, meta;
  uint32_t p, pad;
} knhk_fact; /* a triple of the bundle whose predicate the pack reads */

struct knhk_binding {
  const uint8_t *bundle; /* NULL: none */
  uint32_t nstr, nfact, caller, filter_mask;
  knhk_seed seed;
  knhk_perfect perfect;     /* string → its number */
  const uint8_t *offsets, *first, *text;
  const uint32_t *id_of;    /* bundle string → string id */
  const uint64_t *filter;   /* bit of each string's hash under the pack's seed: most strings that the bundle lacks are told by one load */
  const uint32_t *fact_of;  /* nstr + 1: facts of each string as a subject */
  const knhk_fact *facts;
  const uint32_t *fixed;    /* per fixed node: its string in the bundle, or KNHK_NONE */
};
KNHK_HIDDEN knhk_text knhk_bundle_string(const knhk_binding *b, uint32_t i);
/* The bundle's string equal to s, or KNHK_NONE. */
KNHK_HIDDEN uint32_t knhk_bundle_find(const knhk_binding *b, knhk_text s);
/* The same, when the bundle has triples of it. */
KNHK_HIDDEN uint32_t knhk_bundle_subject(const knhk_binding *b, knhk_text iri);
KNHK_INLINE int knhk_filter_has(const uint64_t *filter, uint32_t mask, uint64_t hash) { return ((filter[(hash & mask) >> 6] >> (hash & 63)) & 1) != 0; }
/* 0 when the bundle surely has no string with that hash under the pack's seed. */
KNHK_INLINE int knhk_bundle_may_have(const knhk_binding *b, uint64_t hash) {
  return b->bundle != NULL && knhk_filter_has(b->filter, b->filter_mask, hash);
}

/* ---- Δ ---- */
typedef struct {
  uint64_t key, obj, val, meta;
} knhk_triple;

typedef struct {
  uint64_t term, val, meta;
  uint32_t first, count;  /* its triples */
  uint32_t chunk, nchunk; /* its chunks, cut when something asks for them; KNHK_NONE: not yet */
} knhk_node;

typedef struct {
  knhk_text s;
  uint64_t hash;
} knhk_local;

enum {
  KNHK_FAULT_NONE = 0, KNHK_FAULT_EMPTY, KNHK_FAULT_BODY, KNHK_FAULT_SYNTAX, KNHK_FAULT_DUPLICATE, KNHK_FAULT_DEPTH, KNHK_FAULT_UNKNOWN,
  KNHK_FAULT_OBJECT, KNHK_FAULT_ARRAY, KNHK_FAULT_SCALAR, KNHK_FAULT_IRI,
  KNHK_FAULT_XML, KNHK_FAULT_DOCTYPE, KNHK_FAULT_ENCODING, KNHK_FAULT_CHILDREN, KNHK_FAULT_TEXT, KNHK_FAULT_MEMORY, KNHK_FAULT_TWICE,
  KNHK_FAULT_STRING, KNHK_FAULT_NTRIPLES, KNHK_FAULT_RESERVED, KNHK_FAULT_COUNT,
  KNHK_FAULT_FORM = 64 /* plus KNHK_FN_*: the value has not the form that this function needs */
};
typedef struct {
  uint32_t code, depth;
  uint64_t at;       /* where there is no path: byte offset */
  knhk_text found;   /* what was found, when it is a short scalar or name */
  struct { knhk_text name; uint32_t index; } path[KNHK_DEPTH_MAX + 2]; /* name.p NULL: an index */
} knhk_fault;

#define KNHK_MADE_MAX 8u      /* output triples of an A */
#define KNHK_MADE_LINE 4096u  /* bytes of one of them */
typedef struct {
  uint64_t s, o;
  uint32_t p, pad;
} knhk_output_triple;

typedef struct {
  const knhk_binding *binding;
  uint32_t whole; /* 1: all triples; 0: at least those with a predicate that some guard reads */
  knhk_observation obs;
  /* strings local to this input */
  knhk_local *local;
  uint32_t *local_slots;
  uint32_t nlocal, local_cap, local_bits, local_bits_max, base; /* base: first local id */
  uint8_t *texts, *text, *text_end; /* room for strings that are made: its begin, what is free, its end */
  /* nodes */
  knhk_node *node;
  uint32_t *node_slots;
  uint32_t nnode, node_cap, node_bits, node_bits_max;
  /* triples */
  knhk_triple *triple, *spare;
  uint32_t ntriple, triple_cap;
  knhk_chunk *chunk;
  uint32_t nchunk, chunk_cap;
  uint32_t over;    /* a limit was exceeded: the Δ is not whole */
  uint32_t inexact; /* some value has no exact scaled form */
  uint32_t unordered; /* triples did not come in order, or some came twice */
  uint64_t *gather; /* triple_cap words */
  uint64_t *obj, *val, *meta; /* values of a program over one focus node, 64-byte aligned; obj 0: none */
  uint32_t *many;   /* values that occur more than once */
  uint8_t *bits;    /* nbytes: bits of a program over one focus node */
  uint8_t *regs;    /* nglobals and 8 × nbytes */
  uint8_t *fail;    /* nfail: bits of outputs that were false on some focus node */
  uint8_t *makers;  /* nfail: bits of guards that made a triple */
  knhk_output_triple made[KNHK_MADE_MAX]; /* distinct */
  uint32_t nmade;   /* KNHK_MADE_MAX + 1: more than fit */
  knhk_fault fault;
} knhk_delta;

KNHK_INLINE knhk_text knhk_pack_string(uint32_t id) {
  const uint32_t *at = knhk_tables_v1.offset + id;
  const knhk_text t = {knhk_tables_v1.text + at[0], at[1] - at[0]};
  return t;
}
/* Id of a string of the pack, or KNHK_NONE. */
KNHK_INLINE uint32_t knhk_pack_find(knhk_text s, uint64_t hash) {
  if (!knhk_filter_has(knhk_tables_v1.string_filter, knhk_tables_v1.filter_mask, hash)) return KNHK_NONE;
  const uint32_t at = knhk_tables_v1.string_at[knhk_place(&knhk_tables_v1.strings, hash)], id = at & KNHK_AT_ID;
  return at >> 24 == (uint32_t)hash >> 24 && knhk_same(knhk_pack_string(id), s) ? id : KNHK_NONE;
}
/* Id of a string of n ≤ 8 bytes, or KNHK_NONE: then knhk_pack_find knows. */
KNHK_INLINE uint32_t knhk_short_find(uint64_t head, uint32_t n) {
  const knhk_short *s = &knhk_tables_v1.shorts[(head * (knhk_tables_v1.seed.r | 1)) >> knhk_tables_v1.short_shift];
  return s->head == head && s->length == n ? s->string : KNHK_NONE;
}
KNHK_HIDDEN knhk_text knhk_string(const knhk_delta *d, uint32_t id);
/* Lanes of a term. dt is the id of the datatype (or language) string; code that of the datatype. Returns the identity. */
KNHK_HIDDEN uint64_t knhk_lanes(uint32_t kind, uint32_t second, uint32_t string, knhk_text s, uint64_t *val, uint64_t *meta);
KNHK_HIDDEN int knhk_iri_valid(knhk_text s);
/* Percent-encodes s into out (room for 3 n); unreserved characters of RFC 3986 stay. Returns the length. */
KNHK_HIDDEN uint32_t knhk_percent(knhk_text s, uint8_t *out);
KNHK_HIDDEN uint32_t knhk_decimal(uint64_t n, uint8_t *out);

/* A reader of JSON bodies (plain.c). 1 when the body was read; 0 when another reader must begin anew, with the Δ as it was before. */
struct knhk_walk;
typedef int knhk_read_plain(struct knhk_walk *w);

/* Lays out scratch, reads O and builds the Δ, whole or what guards read of it. KNHK_OK (guard 0's fault in d->fault), KNHK_ESCAPE or an error. */
KNHK_HIDDEN int32_t knhk_build(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, uint32_t whole,
                               knhk_read_plain *read_plain, knhk_delta **out);
KNHK_HIDDEN void knhk_sort64(uint64_t *a, uint64_t *spare, uint32_t n);

/* Canonical N-Triples of a triple without line feed. Returns its length, or cap + 1 when it is longer than cap. */
KNHK_HIDDEN size_t knhk_put_triple(const knhk_delta *d, const knhk_output_triple *t, char *out, size_t cap);

/* Where a focus node fails a guard; called by eval when given. */
typedef struct knhk_recorder {
  void (*failed)(struct knhk_recorder *r, const knhk_delta *d, uint32_t guard, uint32_t node);
} knhk_recorder;

/* Cuts the triples of a node into chunks. */
KNHK_HIDDEN void knhk_cut_chunks(knhk_delta *d, uint32_t node);

/* ---- batches ---- */
#define KNHK_WINDOW 64u /* inputs whose A is written when all of them are judged */

typedef struct {
  uint32_t bit;
  uint16_t lane, holds;
} knhk_known; /* a row whose value occurs more than once, or has no scaled form */

/* Up to eight focus nodes of one program, of whatever inputs of the window. */
typedef struct {
  uint64_t *obj, *val, *meta; /* 8 words for each value of the program, 64-byte aligned; obj 0: none */
  uint8_t *absent;            /* of each value: lanes that have none */
  uint8_t *regs;              /* nglobals and 8 × nbyte of the program; bit i is that of lane i */
  knhk_known *known;
  uint32_t nknown, n, input[8]; /* of each lane: its input */
} knhk_shard;

typedef struct {
  knhk_shard *shard;        /* of each program */
  uint8_t *fail, *globals;  /* for each input of the window: nfail bytes as knhk_delta has them; nglobals bytes of 0 and 1 */
} knhk_batch;
/* Bytes that a batch takes, laid out at `base` unless that is NULL. */
KNHK_HIDDEN size_t knhk_lay_batch(uint8_t *base, knhk_batch *b);

typedef struct { /* what is compiled for one instruction set */
  knhk_read_plain *read_plain;
  /* All R1 guards of a Δ into d->fail. KNHK_OK or KNHK_ESCAPE. */
  int32_t (*eval)(knhk_delta *d, knhk_recorder *recorder);
  /* The same of input i, whose bits are there after `flush`. Nothing of the Δ is needed afterwards. Not for an inexact Δ, nor a pack that makes triples. */
  int32_t (*gather)(knhk_batch *b, knhk_delta *d, uint32_t i);
  void (*flush)(knhk_batch *b);
} knhk_isa;
#define KNHK_DECLARE_ISA(isa)                                                      \
  KNHK_HIDDEN knhk_read_plain knhk_read_plain_##isa;                                  \
  KNHK_HIDDEN int32_t knhk_eval_##isa(knhk_delta *d, knhk_recorder *recorder);        \
  KNHK_HIDDEN int32_t knhk_gather_##isa(knhk_batch *b, knhk_delta *d, uint32_t i);    \
  KNHK_HIDDEN void knhk_flush_##isa(knhk_batch *b);
KNHK_DECLARE_ISA(scalar)
#if defined(__x86_64__)
KNHK_DECLARE_ISA(avx2)
KNHK_DECLARE_ISA(avx512)
#elif defined(__aarch64__)
KNHK_DECLARE_ISA(neon)
#endif
/* Term of a value for which `row` is false at node, or 0. */
KNHK_HIDDEN uint64_t knhk_witness(const knhk_delta *d, const knhk_row *row, uint32_t node);

#endif /* KNHK_ENGINE_H */

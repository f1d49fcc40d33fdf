/* knhk_tables.h: the constant tables of a pack.
 *
 * Generated C (knhk_gen.emit) defines one `const knhk_tables knhk_tables_v1`; the prebuilt engine (hot_c/src) reads it. Nothing here is
 * writable and no pointer is NULL; empty tables point at one zero row. All indexes were checked by the emitter, which is trusted code;
 * nothing that an author wrote is anything but a number or a byte here.
 *
 * Strings have ids: 0 … nstrings-1 are those of the pack (the first KNHK_S_COUNT are well known), then those of the data bundle, then
 * those local to one input. Two ids are equal exactly when the bytes are.
 */
#ifndef KNHK_TABLES_H
#define KNHK_TABLES_H

#include "knhk_pack.h"
#include "knhk_perfect.h"

/* ---- well-known strings: knhk_gen/emit_terms.py holds the same list ---- */
enum {
  KNHK_S_EMPTY = 0,
  KNHK_S_RDF_TYPE,
  KNHK_S_RDF_LANGSTRING,
  KNHK_S_REQUEST,
  KNHK_S_CALLER,
  KNHK_S_REGION,
  KNHK_S_ROUTE,
  KNHK_S_TIME,
  KNHK_S_XSD = 8, /* datatype code c has string id KNHK_S_XSD + c - 1 */
};
enum { /* codes of datatypes */
  KNHK_D_OTHER = 0,
  KNHK_D_STRING, KNHK_D_BOOLEAN, KNHK_D_DECIMAL, KNHK_D_INTEGER, KNHK_D_DOUBLE, KNHK_D_FLOAT, KNHK_D_DATE, KNHK_D_DATETIME,
  KNHK_D_TIME, KNHK_D_GYEAR, KNHK_D_GYEARMONTH, KNHK_D_GMONTHDAY, KNHK_D_GDAY, KNHK_D_GMONTH, KNHK_D_ANYURI,
  KNHK_D_NONNEGATIVE, KNHK_D_POSITIVE, KNHK_D_NONPOSITIVE, KNHK_D_NEGATIVE, KNHK_D_LONG, KNHK_D_INT, KNHK_D_SHORT, KNHK_D_BYTE,
  KNHK_D_ULONG, KNHK_D_UINT, KNHK_D_USHORT, KNHK_D_UBYTE,
  KNHK_D_NORMALIZED, KNHK_D_TOKEN, KNHK_D_LANGUAGE, KNHK_D_DURATION, KNHK_D_DAYTIME, KNHK_D_YEARMONTH,
  KNHK_D_HEX, KNHK_D_BASE64, KNHK_D_DATETIMESTAMP,
  KNHK_D_COUNT
};
#define KNHK_S_COUNT (KNHK_S_XSD + KNHK_D_COUNT - 1)

/* ---- terms ----
 * identity, u64: kind << 60 | datatype or language string << 32 | string. 0 is absent. */
#define KNHK_K_IRI 1u
#define KNHK_K_BNODE 2u
#define KNHK_K_LITERAL 3u /* second string: datatype */
#define KNHK_K_LANG 4u    /* second string: language tag, lower case */
#define KNHK_TERM(kind, second, string) (((uint64_t)(kind) << 60) | ((uint64_t)(second) << 32) | (uint64_t)(string))

/* value lane, u64: family << 60 | (scaled value + 2^59). Inexact values carry family | 8 and no value. 0: no family. */
#define KNHK_F_NUMERIC 1u
#define KNHK_F_DATE 2u
#define KNHK_F_DATETIME 3u
#define KNHK_F_BOOLEAN 4u
#define KNHK_F_INEXACT 8u
#define KNHK_BIAS ((int64_t)1 << 59)

/* meta lane, u64 */
#define KNHK_M_IRI 1u
#define KNHK_M_BNODE 2u
#define KNHK_M_LITERAL 4u
#define KNHK_M_VALID 8u
#define KNHK_M_DT_SHIFT 8 /* 24 bits: datatype string (rdf:langString for language-tagged) */
#define KNHK_M_LEN_SHIFT 40 /* 24 bits: code points, saturating */
#define KNHK_ID_LIMIT (1u << 24) /* string ids stay below */
#define KNHK_AT_ID (KNHK_ID_LIMIT - 1) /* part of string_at that is the id */

/* ---- guards: rows over one focus node ---- */
enum { /* kernels, in the order in which their rows lie in a program */
  KNHK_R_ASK_SP = 0, /* some value of p */
  KNHK_R_ASK_SPO,    /* a: term */
  KNHK_R_COUNT,      /* a ≤ values ≤ b */
  KNHK_R_COMPARE,    /* a ≤ value lane ≤ b */
  KNHK_R_VALIDATE,   /* (meta & a) == b, kinds & meta, length in [c low 32, c high 32] */
  KNHK_R_FEW,        /* one of the 1 to 4 terms in words a … a+b-1 */
  KNHK_R_UNIQUE,     /* no two values share a language */
  KNHK_R_IN,         /* one of the terms in words a … a+b-1, ascending; c: value of the program */
  KNHK_R_TEST,       /* program of tests a … a+b-1, result in the mask of c's low 32 bits; c high 32: value of the program; kinds: KNHK_TEXT */
  KNHK_R_PAIR,       /* kinds: relation, a: q; c low 32, high 32: the two values of the program */
  KNHK_R_CLOSED,     /* a: first word of the bit set of allowed predicates in words */
  KNHK_R_WITHIN,     /* kinds: relation, a: q, b: other focus selector */
  KNHK_R_KINDS
};
enum { KNHK_ALL = 0, KNHK_SOME = 1 };
#define KNHK_TEXT 1u /* a test reads strings of the input */
enum { KNHK_REL_EQUALS = 0, KNHK_REL_DISJOINT, KNHK_REL_LT, KNHK_REL_LE, KNHK_REL_GT, KNHK_REL_GE, KNHK_REL_EQ, KNHK_REL_NE };
#define KNHK_P_SELF 0xffffffffu /* predicate of rows that test the focus node itself */

typedef struct {
  uint32_t p;     /* predicate */
  uint16_t focus; /* 0: the focus node; n: node n-1 (fixed nodes) */
  uint8_t mode;   /* KNHK_ALL, KNHK_SOME */
  uint8_t kinds;
  uint32_t out;   /* bit of the program */
  uint32_t kernel;
  uint64_t a, b, c;
} knhk_row;

enum { KNHK_V_VALIDATE = 0, KNHK_V_RANGE, KNHK_V_IN, KNHK_V_EQ, KNHK_V_NE, KNHK_V_LANG, KNHK_V_CONST, KNHK_V_AND, KNHK_V_OR, KNHK_V_ANDNOT, KNHK_V_NOT, KNHK_V_CLOCK };
#define KNHK_MASKS 256u
typedef struct { /* one test over 8 lanes; and, or, andnot, not work on masks x and y */
  uint8_t op, dst, x, y;
  uint32_t kinds;
  uint64_t a, b, c; /* IN: words a … a+b-1, ascending; EQ, NE: a term, b value, c meta; LANG: words a … a+b-1 hold string ids; CLOCK: knhk_clock8 */
} knhk_test;

/* Rows of the first six kernels are judged eight at a time: `lanes` holds their constants side by side, and the values that they look at are
 * picked from those of the program. A value that occurs more than once on a focus node is judged row by row, over its chunks. */
#define KNHK_BLOCK_KERNELS 6u
typedef struct {
  uint32_t base;    /* value of the program from which `number` counts */
  uint32_t at;      /* in lanes: 8 words for each constant that the kernel takes */
  uint8_t number[8]; /* below 16 */
  uint8_t absent;   /* bits of rows that hold where there is no value */
  uint8_t single;   /* ASK_SP, COUNT: bits of rows that hold where there is one value */
  uint16_t pad;
} knhk_block;

typedef struct { /* a value that rows of blocks, IN, TEST and PAIR look at */
  uint32_t p;
  uint32_t focus;       /* as in rows */
  uint32_t row, nrow;   /* these rows, in value_rows */
} knhk_value;

enum { KNHK_B_AND = 0, KNHK_B_OR, KNHK_B_ANDNOT, KNHK_B_NOT, KNHK_B_CONST };
typedef struct {
  uint32_t op, dst, x, y; /* registers; CONST: x is 0 or 1 */
} knhk_fold;

typedef struct {
  uint32_t guard, bit;
} knhk_output;

enum { KNHK_MAKE_TERM = 0, KNHK_MAKE_THIS, KNHK_MAKE_VALUES };
typedef struct { /* a triple of a CONSTRUCT template */
  uint32_t subject, p; /* subject: 0 the focus node; n: node n-1 */
  uint32_t kind;
  uint32_t value_p, value_of;      /* VALUES: of that predicate of that node, as subject */
  uint32_t test, ntest, mask;      /* VALUES: tests that a value must pass, result in that mask */
  uint64_t term;                   /* TERM */
} knhk_make;

/* The bits of a program: those of its blocks, a byte each; of its other rows; of its folds. Each part begins a byte. Registers are bytes of 0 or
 * 1: those of globals, then one for each bit of the program that runs. */
enum { KNHK_PROGRAM_GUARDS = 0, KNHK_PROGRAM_FORALL, KNHK_PROGRAM_UNIQUE, KNHK_PROGRAM_CONSTRUCT };
typedef struct {
  uint32_t kind, target;
  uint32_t rows[KNHK_R_KINDS + 1]; /* rows of kernel k: rows[k] … rows[k+1]-1 */
  uint32_t blocks[KNHK_BLOCK_KERNELS + 1]; /* the same of blocks; block b makes byte b - blocks[0] */
  uint32_t value, nvalue, nown;    /* nown: of the focus node, ascending by p; then those of fixed nodes */
  uint32_t fold, nfold, fold_byte, nbyte; /* byte where the bits of folds begin; bytes in all */
  uint32_t output, noutput;        /* GUARDS: outputs; FORALL: output is the register of the argument; UNIQUE: output is the predicate; CONSTRUCT: makes */
  uint32_t fail;                   /* GUARDS: first byte in outs, denies, cold and the failing bits; CONSTRUCT: bit among them */
  uint32_t min, global;            /* FORALL, UNIQUE: result register; CONSTRUCT: register of the condition */
} knhk_program;

enum { KNHK_T_CLASS = 0, KNHK_T_NODE, KNHK_T_SUBJECTS_OF };
typedef struct {
  uint32_t kind;
  uint32_t node;          /* NODE: fixed node; SUBJECTS_OF: predicate */
  uint32_t first, count;  /* CLASS: terms in words */
} knhk_target;

/* ---- mapping ---- */
typedef struct {
  uint32_t name, state; /* name: string; or an array index */
  uint64_t head;        /* of a string: its first 8 bytes, little-endian, zeros after its end */
  uint32_t at, length;  /* of a string: where it lies in text */
  uint32_t plain, pad;  /* 1 + the slot that takes a scalar here, when nothing else can happen to it; else 0 */
} knhk_edge;
#define KNHK_NAME_BIT(head, length) (((head) * 0x9e3779b97f4a7c15ull + (uint64_t)(length) * 0xbf58476d1ce4e5b9ull) >> 58)
typedef struct {
  uint32_t edge, nedge;   /* members */
  uint32_t slot, slot_bits; /* hash table of members in edge_slots: edge + 1 - first, 0 empty */
  uint32_t each;          /* state of array elements without an index edge; 0: none */
  uint32_t index, nindex; /* edges by index, ascending */
  uint32_t item, nitem;   /* maps whose items begin here, in state_items */
  uint32_t ref, nref;     /* slots captured here, in state_refs */
  uint64_t filter;        /* bit KNHK_NAME_BIT of each member's name */
} knhk_state;

#define KNHK_SLOT_IRI 1u /* the value must be an absolute IRI */
#define KNHK_SLOT_ONE 2u /* at most one value: of a subject */
#define KNHK_SLOT_STRING 4u /* the value must be a string */
typedef struct {
  uint32_t map, flags;
  uint32_t function, nfunction; /* what a value goes through before it is captured, in this order */
} knhk_slot;

enum { /* knhk_gen/functions.py holds the same list */
  KNHK_FN_TRIM = 0, KNHK_FN_ABSENT_IF, KNHK_FN_STRIP_ZEROS, KNHK_FN_UPPER, KNHK_FN_LOWER, KNHK_FN_DECIMAL_POINT, KNHK_FN_DECIMAL_COMMA,
  KNHK_FN_DATE, KNHK_FN_DATETIME, KNHK_FN_DOTNET_DATE, KNHK_FN_DOTNET_DATETIME, KNHK_FN_EPOCH_MILLIS, KNHK_FN_EPOCH_SECONDS,
  KNHK_FN_CODES, KNHK_FN_PREFIX, KNHK_FN_PERCENT, KNHK_FN_EXPAND, KNHK_FN_COUNT
};
typedef struct {
  uint32_t kind;
  uint32_t text;        /* string: pattern, prefix, vocabulary, what counts as absent */
  uint32_t other;       /* string: zone; of codes: what unknown ones become, 0xffffffff: they are refused */
  uint32_t pair, npair; /* codes: words of code << 32 | meaning, both strings, ascending */
} knhk_function;

typedef struct {
  uint32_t slot, p; /* slot of the parent's key; predicate of the link */
} knhk_link;

typedef struct {
  uint32_t text; /* string, when slot is 0xffffffff; else 1: the value is an IRI as it is */
  uint32_t slot;
} knhk_part;

enum { KNHK_O_REF = 0, KNHK_O_TEMPLATE, KNHK_O_TERM, KNHK_O_CHILD, KNHK_O_JOIN };
#define KNHK_NATURAL 0xffffffffu
typedef struct {
  uint32_t p;
  uint8_t kind, node; /* node: KNHK_K_IRI, KNHK_K_LITERAL or KNHK_K_LANG */
  uint8_t read, pad;  /* read: some guard reads p */
  uint32_t second;                /* datatype or language string, or KNHK_NATURAL */
  uint32_t slot;                  /* REF, CHILD: slot */
  uint32_t part, npart;           /* TEMPLATE */
  uint32_t child;                 /* CHILD: map; JOIN: index of the join, whose child key is in slot */
  uint32_t pad1;
  uint64_t term;                  /* TERM: constant in words at term: identity, value, meta */
} knhk_property;

enum { KNHK_SUBJECT_TEMPLATE = 0, KNHK_SUBJECT_CONSTANT, KNHK_SUBJECT_BLANK };
typedef struct {
  uint32_t subject, node;   /* node: KNHK_K_IRI or KNHK_K_BNODE */
  uint32_t part, npart;
  uint32_t constant;        /* string of the IRI; BLANK: string of the label without the number; TEMPLATE: that too, or 0: absent values make no subject */
  uint32_t cls, ncls;       /* classes: identity, value and meta in words */
  uint32_t property, nproperty; /* ascending by p */
  uint32_t slot, nslot;
  uint32_t join, njoin;     /* joins in which this map is the parent */
  uint32_t pad;
} knhk_map;

enum { KNHK_FORMAT_JSON = 0, KNHK_FORMAT_XML, KNHK_FORMAT_NTRIPLES, KNHK_FORMATS }; /* NTRIPLES has no maps */
typedef struct {
  uint32_t map, nmap, root; /* root: state of the document */
  uint32_t max_depth, unknown_deny, format;
} knhk_mapping;

typedef struct {
  uint32_t route;   /* string; rows ascend bytewise */
  uint32_t mapping; /* 0xffffffff: no body */
} knhk_route;

typedef struct { /* a string of at most 8 bytes; length 0xffffffff: none */
  uint64_t head; /* its bytes, little-endian, zeros after its end */
  uint32_t length, string;
} knhk_short;

typedef struct {
  uint32_t nguards, nstrings;
  knhk_seed seed;           /* of knhk_hash, for strings and members */
  knhk_perfect strings;
  const uint64_t *string_filter; /* filter_mask + 1 bits, those at the low bits of each string's hash set: most other strings are told by one load */
  uint32_t filter_mask;
  const uint8_t *text;      /* bytes of all strings */
  const uint32_t *offset;   /* nstrings + 1 */
  const uint32_t *string_at; /* of each place: bits 24 … 31 of the hash, and the id */
  const knhk_short *shorts; /* most strings of at most 8 bytes, at the high bits of head * (seed.r | 1): `string_at` has them all */
  uint32_t short_shift;     /* 64 less the number of those bits */
  const uint64_t *words; /* 8 more than are used: lists are compared eight at a time */
  const uint8_t *severity;  /* per guard: 1 denies */
  const uint8_t *klass;     /* per guard: KNHK_CLASS_* */
  const knhk_row *rows;
  const uint64_t *lanes;    /* 64-byte aligned */
  const knhk_block *blocks;
  const knhk_value *values;
  const uint32_t *value_rows;
  const uint8_t *outs;      /* nfail: bits that are outputs */
  const uint8_t *denies;    /* those of a guard of class R1 that denies */
  const uint8_t *cold;      /* those of a guard of class W1 or C1 */
  const uint32_t *guard_at; /* guards of bit i of the failing bits: guards_of[guard_at[i]] … guards_of[guard_at[i+1]-1] */
  const uint32_t *guards_of;
  uint32_t nfail;           /* bytes, a multiple of 8 */
  uint32_t nvalues;         /* most values of one program */
  uint32_t nbytes;          /* most bytes of one program */
  uint32_t nglobals;        /* registers of globals, a multiple of 8 */
  const knhk_test *tests;
  const knhk_fold *folds;
  const knhk_output *outputs;
  const knhk_make *makes;
  const knhk_program *programs; /* globals first */
  uint32_t nprograms;
  const knhk_target *targets;
  uint32_t ntargets;
  uint32_t nfixed;          /* fixed nodes: 0 request, 1 caller, then constants */
  const uint64_t *fixed;    /* 3 words each: identity, value, meta */
  const uint32_t *witness;  /* rows that may name a failing value */
  const uint32_t *witness_of; /* nguards + 1 offsets into witness */
  const knhk_route *routes;
  uint32_t nroutes, nmappings;
  const knhk_mapping *mappings;
  const knhk_map *maps;
  uint32_t nmaps, nslots;
  const knhk_slot *slots;
  const knhk_function *functions;
  const knhk_link *joins;
  uint32_t njoins, nedges;
  const knhk_part *parts;
  const knhk_property *properties;
  const knhk_state *states;
  const knhk_edge *edges;
  const uint32_t *edge_slots, *state_items, *state_refs;
  const uint32_t *bundle_predicates; /* bit set over strings of the pack */
  const uint32_t *reads;             /* the same: predicates that some guard reads */
  const uint32_t *heat_ids;          /* predicates of knhk_heat as strings */
  const uint16_t *heat_of;           /* of each string: 1 + its number among the predicates of knhk_heat, 0: it is none of them */
  const uint32_t *attributes;        /* pairs of strings: name of an attribute that some guard reads, its predicate */
  uint32_t nattributes;
  const knhk_guard_info *info;
} knhk_tables;

#if defined(KNHK_BUILDING_PACK)
#define KNHK_HIDDEN __attribute__((visibility("hidden")))
extern KNHK_HIDDEN const knhk_tables knhk_tables_v1;
extern KNHK_HIDDEN const knhk_variant knhk_variants[];
#if defined(__x86_64__)
#define KNHK_NVARIANTS 3u
#elif defined(__aarch64__)
#define KNHK_NVARIANTS 2u
#else
#define KNHK_NVARIANTS 1u
#endif
KNHK_HIDDEN const char *knhk_heat_predicate(uint32_t i, size_t *len);
KNHK_HIDDEN void knhk_count_heat(const void *scratch, uint64_t *counts, uint32_t n);
KNHK_HIDDEN size_t knhk_scratch_size(size_t o_len);
KNHK_HIDDEN size_t knhk_batch_size(size_t o_len);
KNHK_HIDDEN size_t knhk_bind_size(const uint8_t *bundle, size_t len);
KNHK_HIDDEN const knhk_binding *knhk_bind(const uint8_t *bundle, size_t len, void *mem, size_t mem_len, int32_t *err);
KNHK_HIDDEN int32_t knhk_extract(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, const void **lanes);
KNHK_HIDDEN int64_t knhk_graph(const knhk_binding *b, const uint8_t *o, size_t o_len, char *out, size_t cap, void *scratch, size_t scratch_len);
KNHK_HIDDEN int64_t knhk_explain(const knhk_binding *b, const uint8_t *o, size_t o_len, const uint8_t *a, size_t a_len, char *out, size_t cap,
                                 void *scratch, size_t scratch_len);
#endif

#endif /* KNHK_TABLES_H */

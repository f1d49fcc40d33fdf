/* knhk_pack.h: the pack ABI, version 2.
 *
 * A pack is a shared object that exports `knhk_pack_v1`, of type `const knhk_pack`, and may export `knhk_heat_v1`, of type `const knhk_heat`. It holds constant
 * tables and the prebuilt engine; it allocates nothing, has no writable globals, takes no locks and calls nothing of libc but mem*.
 * Hosts: the Envoy shim, the cffi binding (agent, replay, CLI), connectors, tests.
 *
 * Formats: formats/observation.md (O), formats/action.md (A), formats/bundle.md, formats/guardplan.md.
 *
 * Threads: every function may be called from any thread at the same time, with scratch memory of its own. A binding is read-only
 * after `bind` returns. Pointers passed in are borrowed for the call only, but for the bundle, which the binding refers to
 * as long as it is used. No pointer may be NULL unless its comment says so. Sizes are bytes, times nanoseconds.
 */
#ifndef KNHK_PACK_H
#define KNHK_PACK_H

#include <stddef.h>
#include <stdint.h>

#define KNHK_ABI_VERSION 2u /* a change of any layout below needs another number */

/* status of decide */
#define KNHK_OK 0          /* A was written */
#define KNHK_COLD 1        /* the R1 guards are decided and none denies (A holds their bits so far), but a guard of class W1 or C1 has a focus node: ask the tier below */
#define KNHK_ESCAPE 2      /* an input broke an assumption of R1 (number out of range, run too long): ask the tier below */
#define KNHK_E_INPUT (-1)  /* O is not canonical */
#define KNHK_E_SPACE (-2)  /* output or scratch too small */
#define KNHK_E_BUNDLE (-3) /* bundle malformed */
#define KNHK_E_ROUTE (-4)  /* the pack has no mapping for the route: the caller refuses the request */
#define KNHK_E_LIMIT (-5)  /* graph: the Δ is beyond the limits of this tier */

#define KNHK_ADMIT 1
#define KNHK_DENY 2

#define KNHK_CLASS_NONE 0
#define KNHK_CLASS_R1 1
#define KNHK_CLASS_W1 2
#define KNHK_CLASS_C1 3

typedef struct knhk_binding knhk_binding; /* opaque, in memory of the caller */

typedef struct {
  int32_t status;
  uint8_t verdict; /* valid with KNHK_OK */
  uint8_t klass;   /* class that decided (KNHK_OK) or that must decide (KNHK_COLD, KNHK_ESCAPE) */
  uint16_t failing; /* number of failing guards */
  uint32_t a_len;   /* bytes written to a (KNHK_OK, KNHK_COLD) */
  uint32_t triples; /* triples of the Δ whose predicate some guard reads */
} knhk_result;

typedef struct {
  const char *id, *kind, *klass, *source, *shape, *component, *path, *message, *severity; /* UTF-8, NUL-terminated, never NULL */
} knhk_guard_info;

typedef struct {
  const char *name;      /* "scalar", "avx2", … */
  int (*supported)(void); /* 1 when this processor can run it */

  /* decide: O → A. o: canonical O. a: room for A, at least a_max of the pack. scratch: scratch_size(o_len) bytes, 64-byte aligned.
   * binding: from bind. Deterministic: same o, same bundle, same A, whatever the variant. With KNHK_ESCAPE nothing is written to a. */
  knhk_result (*decide)(const knhk_binding *binding, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch,
                        size_t scratch_len);

  /* decide_lanes: the guards alone over a Δ that `extract` left in scratch; for benchmarks. */
  knhk_result (*decide_lanes)(const knhk_binding *binding, const void *lanes, uint8_t *a, size_t a_cap, void *scratch, size_t scratch_len);

  /* decide_batch: n observations o[i] of o_len[i]; A of i at a + i*a_stride (room a_stride), result at r[i]. Results, A and what explain says are byte for
   * byte those of n single calls, in any order and split; an input that is refused or parked changes nothing for the others. scratch: batch_size of the
   * longest o, whatever n is: inputs go in windows of 64, in which focus nodes of one target are judged eight at a time (docs/adr/0018). A pack that
   * makes triples (CONSTRUCT), and an input with an inexact value, is decided one by one. What lies in scratch afterwards is not for `count`. */
  void (*decide_batch)(const knhk_binding *binding, size_t n, const uint8_t *const *o, const size_t *o_len, uint8_t *a, size_t a_stride,
                       knhk_result *r, void *scratch, size_t scratch_len);

  /* decide_lanes_batch: the same over n Δs that `extract` left, each in a scratch of its own; for benchmarks. scratch: another one, of
   * batch_size. */
  void (*decide_lanes_batch)(size_t n, const void *const *lanes, uint8_t *a, size_t a_stride, knhk_result *r, void *scratch, size_t scratch_len);
} knhk_variant;

typedef struct {
  uint32_t abi; /* KNHK_ABI_VERSION */
  uint32_t nguards, nvariants;
  uint32_t a_max;           /* largest A */
  uint32_t ncold;           /* guards of class W1 and C1 */
  const char *name, *version, *tool;
  uint8_t plan_sha256[32];
  const knhk_guard_info *guards; /* nguards */
  const knhk_variant *variants;  /* nvariants, best first; the last is "scalar": every variant asks at least x86-64-v2 of amd64 */

  /* Bytes of scratch that decide, extract, explain and graph need for an O of o_len bytes, and that a batch needs whose longest O it is (more). */
  size_t (*scratch_size)(size_t o_len);
  size_t (*batch_size)(size_t o_len);

  /* bind: ties the pack to a data bundle (formats/bundle.md). bundle may be NULL (no bundle). bind_size says how much memory mem needs (64-byte aligned). Returns the binding (== mem) or NULL with *err. */
  size_t (*bind_size)(const uint8_t *bundle, size_t len);
  const knhk_binding *(*bind)(const uint8_t *bundle, size_t len, void *mem, size_t mem_len, int32_t *err);

  /* extract: O → what guards read of Δ, in scratch. Returns KNHK_OK, KNHK_ESCAPE or an error; *lanes points into scratch.
   * Guard 0's faults are reported by decide and explain, not here. */
  int32_t (*extract)(const knhk_binding *binding, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, const void **lanes);

  /* graph: the Δ as canonical N-Triples (sorted lines, distinct). Returns the length, or KNHK_E_SPACE (out is too small), KNHK_E_LIMIT, KNHK_E_INPUT; the body
   * must pass guard 0. */
  int64_t (*graph)(const knhk_binding *binding, const uint8_t *o, size_t o_len, char *out, size_t cap, void *scratch, size_t scratch_len);

  /* explain: the failing guards in a (an A of this pack for this O) as a JSON array of {guard, rule, shape, path, focus, value, message}; for W1 and C1
   * guards focus and value are empty. Cuts values at 256 bytes and the list at 64 entries. Returns the length or an error. Cold path. */
  int64_t (*explain)(const knhk_binding *binding, const uint8_t *o, size_t o_len, const uint8_t *a, size_t a_len, char *out, size_t cap,
                     void *scratch, size_t scratch_len);
} knhk_pack;

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(knhk_variant) == 48 && sizeof(knhk_pack) == 152, "another layout needs another KNHK_ABI_VERSION");
#endif

/* Which predicates decisions touch. A pack holds no counters: the host gives them, and says which decisions count. */
typedef struct {
  uint32_t npredicates; /* that some guard reads */
  /* IRI of predicate i, UTF-8 of *len bytes without NUL; ascending bytewise. */
  const char *(*predicate)(uint32_t i, size_t *len);
  /* Adds, for each predicate below n, the triples that the Δ has of it. scratch: as the last decide left it, with status KNHK_OK, KNHK_COLD or KNHK_ESCAPE. */
  void (*count)(const void *scratch, uint64_t *counts, uint32_t n);
} knhk_heat;

#if defined(KNHK_BUILDING_PACK)
#define KNHK_EXPORT __attribute__((visibility("default")))
extern KNHK_EXPORT const knhk_pack knhk_pack_v1;
extern KNHK_EXPORT const knhk_heat knhk_heat_v1;
#endif

#endif /* KNHK_PACK_H */

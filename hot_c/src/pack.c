/* pack.c: the entry points of the ABI (knhk_pack.h) over build and eval, and the writer of A (formats/action.md). */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

typedef int32_t (*eval_fn)(knhk_delta *d, knhk_recorder *recorder);

static void put16(uint8_t *at, uint32_t x) {
  at[0] = (uint8_t)(x >> 8);
  at[1] = (uint8_t)x;
}

/* The class below R1 that must decide: the highest among guards of class W1 and C1 (those of `failing`, or all when it is NULL), at least W1. */
static uint8_t class_below(const uint8_t *failing) {
  uint8_t klass = KNHK_CLASS_W1;
  for (uint32_t i = 0; i < T->nguards; i++)
    if (T->klass[i] > klass && (failing == NULL || failing[i] != 0)) klass = T->klass[i];
  return klass;
}

/* Lines of the triples that the guards made, in the room of d->gather, ascending: their places and lengths. Returns how many fit an A,
 * or KNHK_MADE_MAX + 1 when one does not. */
static uint32_t write_lines(const knhk_delta *d, knhk_text *line) {
  char *at = (char *)d->gather;
  if (d->nmade > KNHK_MADE_MAX) return KNHK_MADE_MAX + 1;
  for (uint32_t i = 0; i < d->nmade; i++, at += KNHK_MADE_LINE) {
    const size_t n = knhk_put_triple(d, &d->made[i], at, KNHK_MADE_LINE);
    if (n > KNHK_MADE_LINE) return KNHK_MADE_MAX + 1;
    knhk_text t = {(const uint8_t *)at, (uint32_t)n};
    uint32_t k = i;
    for (; k > 0 && knhk_order(line[k - 1], t) > 0; k--) line[k] = line[k - 1];
    line[k] = t;
  }
  return d->nmade;
}

/* Guards that made a triple fail when not all that were made fit. */
static void settle(uint8_t *failing, uint32_t nmade) {
  const uint8_t over = nmade > KNHK_MADE_MAX;
  for (uint32_t i = 0; i < T->nguards; i++) failing[i] = (uint8_t)((failing[i] & 1) | (over & (uint8_t)(failing[i] >> 1)));
}

static size_t put_lines(uint8_t *at, const knhk_text *line, uint32_t n) {
  uint8_t *const start = at;
  put16(at, n);
  at += 2;
  for (uint32_t i = 0; i < n; at += 4 + line[i].n, i++) {
    put16(at, line[i].n >> 16);
    put16(at + 2, line[i].n);
    memcpy(at + 4, line[i].p, line[i].n);
  }
  return (size_t)(at - start);
}

/* failing of a guard of class W1 or C1 says that its target has a focus node, so that a lower tier must decide it; its bit in A is 0 here. */
static knhk_result write_action(const uint8_t *failing, uint8_t *a, size_t a_cap, uint32_t triples, const knhk_text *line, uint32_t nline) {
  const uint32_t bytes = (T->nguards + 7) / 8, len = 8 + bytes + 2;
  knhk_result r = {KNHK_OK, KNHK_ADMIT, KNHK_CLASS_R1, 0, len, triples};
  uint32_t cold = 0, denies = 0;
  for (uint32_t i = 0; i < T->nguards; i++) {
    const uint8_t below = T->klass[i] != KNHK_CLASS_R1, fails = failing[i] & (uint8_t)!below;
    r.failing = (uint16_t)(r.failing + fails);
    denies |= fails & T->severity[i];
    cold |= failing[i] & below;
  }
  const int below_decides = failing[0] == 0 && denies == 0 && cold != 0;
  size_t room = len;
  for (uint32_t i = 0; i < nline; i++) room += 4 + (size_t)line[i].n;
  if (a_cap < room) {
    r.status = KNHK_E_SPACE;
    r.a_len = 0;
    return r;
  }
  r.verdict = denies != 0 ? KNHK_DENY : KNHK_ADMIT;
  memset(a, 0, len);
  memcpy(a, "KNA1", 4);
  a[4] = r.verdict;
  put16(a + 6, T->nguards);
  for (uint32_t i = 0; i < T->nguards; i++)
    a[8 + i / 8] |= (uint8_t)((failing[i] & (T->klass[i] == KNHK_CLASS_R1)) << (i % 8));
  if (below_decides) { /* the bits so far; output triples are made where all guards are decided */
    r.status = KNHK_COLD;
    r.verdict = 0;
    r.klass = class_below(failing);
  } else if (denies == 0) {
    r.a_len = (uint32_t)(len - 2 + put_lines(a + len - 2, line, nline));
  }
  return r;
}

static knhk_result bare(int32_t status) {
  knhk_result r = {status, 0, KNHK_CLASS_NONE, 0, 0, 0};
  if (status == KNHK_ESCAPE) r.klass = class_below(NULL);
  return r;
}

static knhk_result judge(knhk_delta *d, uint8_t *a, size_t a_cap, eval_fn eval) {
  if (d->fault.code != KNHK_FAULT_NONE) {
    memset(d->failing, 0, T->nguards);
    d->failing[0] = 1;
    return write_action(d->failing, a, a_cap, 0, NULL, 0);
  }
  if (d->over || eval(d, NULL) != KNHK_OK) return bare(KNHK_ESCAPE);
  if (d->nmade == 0) return write_action(d->failing, a, a_cap, d->ntriple, NULL, 0);
  knhk_text line[KNHK_MADE_MAX];
  const uint32_t nline = write_lines(d, line);
  settle(d->failing, nline);
  return write_action(d->failing, a, a_cap, d->ntriple, line, nline > KNHK_MADE_MAX ? 0 : nline);
}

static knhk_result decide(const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch, size_t scratch_len,
                          eval_fn eval) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, &d);
  if (status < 0) return bare(status);
  return judge(d, a, a_cap, eval);
}

static knhk_result decide_lanes(const void *lanes, uint8_t *a, size_t a_cap, eval_fn eval) {
  /* lanes lie in the caller's scratch, which is writable */
  return judge((knhk_delta *)(uintptr_t)lanes, a, a_cap, eval);
}

static void decide_batch(const knhk_binding *b, size_t n, const uint8_t *const *o, const size_t *o_len, uint8_t *a, size_t a_stride,
                         knhk_result *r, void *scratch, size_t scratch_len, eval_fn eval) {
  for (size_t i = 0; i < n; i++) r[i] = decide(b, o[i], o_len[i], a + i * a_stride, a_stride, scratch, scratch_len, eval);
}

int32_t knhk_extract(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, const void **lanes) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, &d);
  if (status >= 0) *lanes = d;
  return status;
}

#define VARIANT(name, eval)                                                                                                         \
  static knhk_result decide_##name(const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch,   \
                                   size_t scratch_len) {                                                                            \
    return decide(b, o, o_len, a, a_cap, scratch, scratch_len, eval);                                                               \
  }                                                                                                                                 \
  static knhk_result decide_lanes_##name(const knhk_binding *b, const void *lanes, uint8_t *a, size_t a_cap, void *scratch,          \
                                         size_t scratch_len) {                                                                      \
    (void)b, (void)scratch, (void)scratch_len;                                                                                      \
    return decide_lanes(lanes, a, a_cap, eval);                                                                                     \
  }                                                                                                                                 \
  static void decide_batch_##name(const knhk_binding *b, size_t n, const uint8_t *const *o, const size_t *o_len, uint8_t *a,         \
                                  size_t a_stride, knhk_result *r, void *scratch, size_t scratch_len) {                             \
    decide_batch(b, n, o, o_len, a, a_stride, r, scratch, scratch_len, eval);                                                       \
  }

VARIANT(scalar, knhk_eval_scalar)
static int always(void) { return 1; }

#if defined(__x86_64__)
#include <cpuid.h>
VARIANT(avx2, knhk_eval_avx2)

/* AVX2 in the processor, and YMM state saved by the system (XCR0 bits 1 and 2). */
static int has_avx2(void) {
  unsigned a, b, c, d, lo, hi;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 27)) == 0 || (c & (1u << 23)) == 0) return 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  (void)hi;
  if ((lo & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & (1u << 5)) != 0;
}
#endif

const knhk_variant knhk_variants[] = {
#if defined(__x86_64__)
  {"avx2", has_avx2, decide_avx2, decide_lanes_avx2, decide_batch_avx2},
#endif
  {"scalar", always, decide_scalar, decide_lanes_scalar, decide_batch_scalar},
};

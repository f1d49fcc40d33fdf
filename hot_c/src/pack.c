/* pack.c: the entry points of the ABI (knhk_pack.h) over build and eval, and the writer of A (formats/action.md). */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

static void put16(uint8_t *at, uint32_t x) {
  at[0] = (uint8_t)(x >> 8);
  at[1] = (uint8_t)x;
}

/* The class below R1 that must decide: the highest among guards of class W1 and C1 (those with a bit in `fail`, or all when that is NULL), at
 * least W1. */
static uint8_t class_below(const uint8_t *fail) {
  uint8_t klass = KNHK_CLASS_W1;
  for (uint32_t bit = 0; bit < 8 * T->nfail; bit++) {
    if (fail != NULL && ((fail[bit / 8] >> (bit % 8)) & 1) == 0) continue;
    for (uint32_t i = T->guard_at[bit]; i < T->guard_at[bit + 1]; i++)
      if (T->klass[T->guards_of[i]] > klass) klass = T->klass[T->guards_of[i]];
  }
  return klass;
}

static knhk_result bare(int32_t status, uint8_t klass) {
  const knhk_result r = {status, 0, klass, 0, 0, 0};
  return r;
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

static uint64_t word_at(const uint8_t *bytes, uint32_t i) {
  uint64_t w;
  memcpy(&w, bytes + i, 8);
  return w;
}

/* Sets the bits of the R1 guards that failed; returns their number. */
static uint32_t put_guards(const uint8_t *fail, uint8_t *bits) {
  uint32_t n = 0;
  for (uint32_t at = 0; at < T->nfail; at += 8) {
    for (uint64_t w = word_at(fail, at); w != 0; w &= w - 1) {
      const uint32_t bit = 8 * at + (uint32_t)__builtin_ctzll(w);
      for (uint32_t i = T->guard_at[bit]; i < T->guard_at[bit + 1]; i++) {
        const uint32_t guard = T->guards_of[i];
        if (T->klass[guard] != KNHK_CLASS_R1) continue;
        bits[guard / 8] |= (uint8_t)(1u << (guard % 8));
        n++;
      }
    }
  }
  return n;
}

/* A without output triples, and no failing guard yet; 0 when there is no room for it and `more` bytes. */
static int begin_action(uint8_t *a, size_t a_cap, uint8_t verdict, size_t more, uint32_t *len) {
  *len = 8 + (T->nguards + 7) / 8 + 2;
  if (a_cap < *len + more) return 0;
  knhk_clear(a, *len);
  memcpy(a, "KNA1", 4);
  a[4] = verdict;
  put16(a + 6, T->nguards);
  return 1;
}

/* Guard 0 alone. */
static knhk_result refuse(uint8_t *a, size_t a_cap) {
  knhk_result r = {KNHK_OK, KNHK_DENY, KNHK_CLASS_R1, 1, 0, 0};
  if (T->severity[0] == 0) r.verdict = KNHK_ADMIT;
  if (!begin_action(a, a_cap, r.verdict, 0, &r.a_len)) return bare(KNHK_E_SPACE, KNHK_CLASS_NONE);
  a[8] = 1;
  return r;
}

/* A cold bit says that the target of a guard of class W1 or C1 has a focus node, so that a lower tier must decide it; its bit in A is 0 here. */
static knhk_result write_action(const uint8_t *fail, uint32_t triples, uint8_t *a, size_t a_cap, const knhk_text *line, uint32_t nline) {
  uint64_t denies = 0, cold = 0, any = 0;
  for (uint32_t at = 0; at < T->nfail; at += 8) {
    const uint64_t w = word_at(fail, at);
    any |= w;
    denies |= w & word_at(T->denies, at);
    cold |= w & word_at(T->cold, at);
  }
  knhk_result r = {KNHK_OK, denies != 0 ? KNHK_DENY : KNHK_ADMIT, KNHK_CLASS_R1, 0, 0, triples};
  size_t more = 0;
  for (uint32_t i = 0; i < nline; i++) more += 4 + (size_t)line[i].n;
  if (!begin_action(a, a_cap, r.verdict, more, &r.a_len)) return bare(KNHK_E_SPACE, KNHK_CLASS_NONE);
  if (any != 0) r.failing = (uint16_t)put_guards(fail, a + 8);
  if (denies == 0 && cold != 0) { /* the bits so far; output triples are made where all guards are decided */
    r.status = KNHK_COLD;
    r.verdict = 0;
    r.klass = class_below(fail);
  } else if (denies == 0 && nline > 0) {
    r.a_len += (uint32_t)(put_lines(a + r.a_len - 2, line, nline) - 2);
  }
  return r;
}

static knhk_result judge(knhk_delta *d, uint8_t *a, size_t a_cap, const knhk_isa *isa) {
  if (d->fault.code != KNHK_FAULT_NONE) return refuse(a, a_cap);
  if (d->over || isa->eval(d, NULL) != KNHK_OK) return bare(KNHK_ESCAPE, class_below(NULL));
  if (d->nmade == 0) return write_action(d->fail, d->ntriple, a, a_cap, NULL, 0);
  knhk_text line[KNHK_MADE_MAX];
  const uint32_t nline = write_lines(d, line);
  if (nline <= KNHK_MADE_MAX) return write_action(d->fail, d->ntriple, a, a_cap, line, nline);
  for (uint32_t i = 0; i < T->nfail; i++) d->fail[i] |= d->makers[i]; /* guards that made a triple fail when not all that were made fit */
  return write_action(d->fail, d->ntriple, a, a_cap, NULL, 0);
}

static knhk_result decide(const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch, size_t scratch_len,
                          const knhk_isa *isa) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, isa->read_plain, &d);
  if (status < 0) return bare(status, KNHK_CLASS_NONE);
  return judge(d, a, a_cap, isa);
}

static knhk_result decide_lanes(const void *lanes, uint8_t *a, size_t a_cap, const knhk_isa *isa) {
  /* lanes lie in the caller's scratch, which is writable */
  return judge((knhk_delta *)(uintptr_t)lanes, a, a_cap, isa);
}

/* ---- batches ---- */

/* Takes n bytes on a 64-byte boundary; counts when there is no base. */
static void *take(size_t *used, uint8_t *base, size_t n) {
  void *taken = base == NULL ? NULL : base + *used;
  *used += (n + 63) & ~(size_t)63;
  return taken;
}

/* Rows of values of the program: those of PAIR have two, and may be told apart from them. */
static size_t value_rows(const knhk_program *p) {
  const uint32_t *rows = p->rows;
  return rows[KNHK_BLOCK_KERNELS] - rows[0] + rows[KNHK_R_PAIR + 1] - rows[KNHK_R_IN] + 2 * (rows[KNHK_R_PAIR + 1] - rows[KNHK_R_PAIR]);
}

size_t knhk_lay_batch(uint8_t *base, knhk_batch *b) {
  size_t used = 0;
  b->shard = take(&used, base, T->nprograms * sizeof(knhk_shard));
  b->fail = take(&used, base, (size_t)KNHK_WINDOW * T->nfail);
  b->globals = take(&used, base, (size_t)KNHK_WINDOW * T->nglobals);
  for (uint32_t i = 0; i < T->nprograms; i++) {
    const knhk_program *p = &T->programs[i];
    knhk_shard unused, *s = base == NULL ? &unused : &b->shard[i];
    s->obj = take(&used, base, (size_t)64 * p->nvalue);
    s->val = take(&used, base, (size_t)64 * p->nvalue);
    s->meta = take(&used, base, (size_t)64 * p->nvalue);
    s->regs = take(&used, base, T->nglobals + (size_t)8 * p->nbyte);
    s->absent = take(&used, base, p->nvalue);
    s->known = take(&used, base, 8 * sizeof(knhk_known) * value_rows(p));
    s->n = s->nknown = 0;
  }
  return used;
}

static int makes_triples(void) { return T->nprograms > 0 && T->programs[T->nprograms - 1].kind == KNHK_PROGRAM_CONSTRUCT; } /* they come last */

#define FETCH 4096u /* bytes of an input that are asked for ahead */
#define PENDING 1000 /* a status: judged, and A is written at the window's end */

/* One input that is read, as far as it can be judged before the window is full. */
static knhk_result take_delta(knhk_batch *batch, uint32_t i, knhk_delta *d, uint8_t *a, size_t a_cap, const knhk_isa *isa) {
  if (d->fault.code != KNHK_FAULT_NONE || d->over || d->inexact) return judge(d, a, a_cap, isa);
  uint8_t *const own = d->fail;
  const int32_t status = isa->gather(batch, d, i);
  d->fail = own;
  if (status != KNHK_OK) return bare(KNHK_ESCAPE, class_below(NULL));
  const knhk_result r = {PENDING, 0, 0, 0, 0, d->ntriple};
  return r;
}

static knhk_result take_input(knhk_batch *batch, uint32_t i, const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap,
                              void *scratch, size_t scratch_len, const knhk_isa *isa) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, isa->read_plain, &d);
  return status < 0 ? bare(status, KNHK_CLASS_NONE) : take_delta(batch, i, d, a, a_cap, isa);
}

/* Asks for an input while the one before it is decided. */
static void fetch(const uint8_t *o, size_t o_len) {
  const size_t n = o_len < FETCH ? o_len : FETCH;
  for (size_t at = 0; at < n; at += 64) __builtin_prefetch(o + at);
}

static void end_window(knhk_batch *batch, uint32_t count, uint8_t *a, size_t a_stride, knhk_result *r, const knhk_isa *isa) {
  isa->flush(batch);
  for (uint32_t i = 0; i < count; i++)
    if (r[i].status == PENDING) r[i] = write_action(batch->fail + (size_t)i * T->nfail, r[i].triples, a + i * a_stride, a_stride, NULL, 0);
}

/* Windows of inputs: each is read and gathered into shards, what is left in shards is judged, and A is written in the order of the inputs. */
static void decide_batch(const knhk_binding *b, size_t n, const uint8_t *const *o, const size_t *o_len, uint8_t *a, size_t a_stride,
                         knhk_result *r, void *scratch, size_t scratch_len, const knhk_isa *isa) {
  knhk_batch batch;
  const size_t room = knhk_lay_batch(NULL, &batch);
  if (n < 2 || makes_triples() || ((uintptr_t)scratch & 63) != 0 || scratch_len < room) {
    for (size_t i = 0; i < n; i++) r[i] = decide(b, o[i], o_len[i], a + i * a_stride, a_stride, scratch, scratch_len, isa);
    return;
  }
  const size_t left = (scratch_len - room) & ~(size_t)63;
  knhk_lay_batch((uint8_t *)scratch + left, &batch);
  for (size_t first = 0; first < n; first += KNHK_WINDOW) {
    const uint32_t count = n - first < KNHK_WINDOW ? (uint32_t)(n - first) : KNHK_WINDOW;
    for (uint32_t i = 0; i < count; i++) {
      if (first + i + 1 < n) fetch(o[first + i + 1], o_len[first + i + 1]);
      r[first + i] = take_input(&batch, i, b, o[first + i], o_len[first + i], a + (first + i) * a_stride, a_stride, scratch, left, isa);
    }
    end_window(&batch, count, a + first * a_stride, a_stride, r + first, isa);
  }
}

/* The same of inputs that are read. */
static void decide_lanes_batch(size_t n, const void *const *lanes, uint8_t *a, size_t a_stride, knhk_result *r, void *scratch, size_t scratch_len,
                               const knhk_isa *isa) {
  knhk_batch batch;
  if (makes_triples() || ((uintptr_t)scratch & 63) != 0 || scratch_len < knhk_lay_batch(NULL, &batch)) {
    for (size_t i = 0; i < n; i++) r[i] = decide_lanes(lanes[i], a + i * a_stride, a_stride, isa);
    return;
  }
  knhk_lay_batch(scratch, &batch);
  for (size_t first = 0; first < n; first += KNHK_WINDOW) {
    const uint32_t count = n - first < KNHK_WINDOW ? (uint32_t)(n - first) : KNHK_WINDOW;
    for (uint32_t i = 0; i < count; i++) /* lanes lie in the caller's memory, which is writable */
      r[first + i] = take_delta(&batch, i, (knhk_delta *)(uintptr_t)lanes[first + i], a + (first + i) * a_stride, a_stride, isa);
    end_window(&batch, count, a + first * a_stride, a_stride, r + first, isa);
  }
}

int32_t knhk_extract(const knhk_binding *b, const uint8_t *o, size_t o_len, void *scratch, size_t scratch_len, const void **lanes) {
  knhk_delta *d;
  const int32_t status = knhk_build(b, o, o_len, scratch, scratch_len, 0, knhk_read_plain_scalar, &d);
  if (status >= 0) *lanes = d;
  return status;
}

#define VARIANT(name)                                                                                                               \
  static const knhk_isa isa_##name = {knhk_read_plain_##name, knhk_eval_##name, knhk_gather_##name, knhk_flush_##name};             \
  static knhk_result decide_##name(const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch,  \
                                   size_t scratch_len) {                                                                            \
    return decide(b, o, o_len, a, a_cap, scratch, scratch_len, &isa_##name);                                                        \
  }                                                                                                                                 \
  static knhk_result decide_lanes_##name(const knhk_binding *b, const void *lanes, uint8_t *a, size_t a_cap, void *scratch,         \
                                         size_t scratch_len) {                                                                      \
    (void)b, (void)scratch, (void)scratch_len;                                                                                      \
    return decide_lanes(lanes, a, a_cap, &isa_##name);                                                                              \
  }                                                                                                                                 \
  static void decide_batch_##name(const knhk_binding *b, size_t n, const uint8_t *const *o, const size_t *o_len, uint8_t *a,        \
                                  size_t a_stride, knhk_result *r, void *scratch, size_t scratch_len) {                             \
    decide_batch(b, n, o, o_len, a, a_stride, r, scratch, scratch_len, &isa_##name);                                                \
  }                                                                                                                                 \
  static void decide_lanes_batch_##name(size_t n, const void *const *lanes, uint8_t *a, size_t a_stride, knhk_result *r,            \
                                        void *scratch, size_t scratch_len) {                                                        \
    decide_lanes_batch(n, lanes, a, a_stride, r, scratch, scratch_len, &isa_##name);                                                \
  }

VARIANT(scalar)

#if defined(__x86_64__)
#include <cpuid.h>
VARIANT(avx2)
VARIANT(avx512)

/* Features of leaf 7 (EBX) in the processor, and registers that the system saves (bits of XCR0). */
static int has(unsigned features, unsigned saved) {
  unsigned a, b, c, d, lo, hi;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 27)) == 0 || (c & (1u << 23)) == 0) return 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  (void)hi;
  if ((lo & saved) != saved || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & features) == features;
}
/* x86-64-v2, for which all of a pack is built: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT; LAHF. */
static int has_v2(void) {
  const unsigned features = 1u | (1u << 9) | (1u << 13) | (1u << 19) | (1u << 20) | (1u << 23);
  unsigned a, b, c, d, more;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & features) == features && __get_cpuid(0x80000001, &a, &b, &more, &d) && (more & 1) != 0;
}

#define BMI1_AVX2 ((1u << 3) | (1u << 5))
static int has_avx2(void) { return has(BMI1_AVX2, 6); }
/* BMI2, F, DQ, CD, BW, VL */
static int has_avx512(void) { return has(BMI1_AVX2 | (1u << 8) | (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31), 0xe6); }
#define ANY has_v2
#else
static int always(void) { return 1; }
#define ANY always
#if defined(__aarch64__)
VARIANT(neon)
#endif
#endif

const knhk_variant knhk_variants[] = {
#if defined(__x86_64__)
  {"avx512", has_avx512, decide_avx512, decide_lanes_avx512, decide_batch_avx512, decide_lanes_batch_avx512},
  {"avx2", has_avx2, decide_avx2, decide_lanes_avx2, decide_batch_avx2, decide_lanes_batch_avx2},
#elif defined(__aarch64__)
  {"neon", ANY, decide_neon, decide_lanes_neon, decide_batch_neon, decide_lanes_batch_neon},
#endif
  {"scalar", ANY, decide_scalar, decide_lanes_scalar, decide_batch_scalar, decide_lanes_batch_scalar},
};

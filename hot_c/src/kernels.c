/* kernels.c: the six kernels as functions, for tests and benchmarks (not part of packs). Compiled once for each instruction set. */
#include "kernels.h"

#define JOINED(name, isa) knhk_##name##_##isa
#define JOIN(name, isa) JOINED(name, isa)
#define NAME(name) JOIN(name, KNHK_ISA)
#define EXPORT __attribute__((visibility("default")))

EXPORT uint32_t NAME(ask_sp)(const knhk_chunk *c, uint64_t key) { return knhk_ask_sp(c, key); }
EXPORT uint32_t NAME(ask_spo)(const knhk_chunk *c, uint64_t key, uint64_t obj) { return knhk_ask_spo(c, key, obj); }
EXPORT uint32_t NAME(count)(const knhk_chunk *c, uint64_t key, uint32_t *n) { return knhk_count(c, key, n); }
EXPORT uint32_t NAME(compare)(const knhk_chunk *c, uint64_t key, uint64_t lo, uint64_t hi) { return knhk_compare(c, key, lo, hi); }
EXPORT uint32_t NAME(validate)(const knhk_chunk *c, uint64_t key, const uint64_t want[5]) {
  return knhk_validate(c, key, want[0], want[1], want[2], want[3], want[4]);
}
EXPORT uint32_t NAME(unique)(const knhk_chunk *c, uint64_t key) { return knhk_unique(c, key); }

/* One kernel over n chunks (L1 resident when n is small), `rounds` times; the sum of masks keeps the work. */
EXPORT uint64_t NAME(many)(uint32_t kernel, const knhk_chunk *c, uint32_t n, uint32_t rounds, const uint64_t x[6]) {
  uint64_t sum = 0;
  uint32_t counted = 0;
#define LOOP(call)                                              \
  for (uint32_t r = 0; r < rounds; r++)                         \
    for (uint32_t i = 0; i < n; i++) {                          \
      __asm__ volatile("" ::: "memory");                        \
      sum += (call);                                            \
    }                                                           \
  break;
  switch (kernel) {
    case 0: LOOP(knhk_ask_sp(&c[i], x[0]))
    case 1: LOOP(knhk_ask_spo(&c[i], x[0], x[1]))
    case 2: LOOP(knhk_count(&c[i], x[0], &counted) + counted)
    case 3: LOOP(knhk_compare(&c[i], x[0], x[1], x[2]))
    case 4: LOOP(knhk_validate(&c[i], x[0], x[1], x[2], x[3], x[4], x[5]))
    case 5: LOOP(knhk_unique(&c[i], x[0]))
    case 6: LOOP(((x[0] + i) * 2 + x[1]) ^ x[2]) /* control: four dependent operations */
    default: break;
  }
#undef LOOP
  return sum;
}

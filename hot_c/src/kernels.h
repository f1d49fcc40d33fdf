/* kernels.h: declarations of kernels.c; `want` of validate is {mask, want, kinds, min, max}. */
#ifndef KNHK_KERNELS_LIBRARY_H
#define KNHK_KERNELS_LIBRARY_H

#include "knhk_kernels.h"

#define KNHK_DECLARE(isa)                                                                           \
  uint32_t knhk_ask_sp_##isa(const knhk_chunk *c, uint64_t key);                                    \
  uint32_t knhk_ask_spo_##isa(const knhk_chunk *c, uint64_t key, uint64_t obj);                     \
  uint32_t knhk_count_##isa(const knhk_chunk *c, uint64_t key, uint32_t *n);                        \
  uint32_t knhk_compare_##isa(const knhk_chunk *c, uint64_t key, uint64_t lo, uint64_t hi);         \
  uint32_t knhk_validate_##isa(const knhk_chunk *c, uint64_t key, const uint64_t want[5]);          \
  uint32_t knhk_unique_##isa(const knhk_chunk *c, uint64_t key);                                    \
  uint64_t knhk_many_##isa(uint32_t kernel, const knhk_chunk *c, uint32_t n, uint32_t rounds, const uint64_t x[6]);

#define KNHK_DECLARE_FOR(isa) KNHK_DECLARE(isa)
KNHK_DECLARE_FOR(KNHK_ISA)

#endif

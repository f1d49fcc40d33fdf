/* fuzz.h: what the drivers share: libFuzzer's entry point, and memory that is made once and ends where it must. */
#ifndef KNHK_FUZZ_H
#define KNHK_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Returns 0. Aborts when the driver's invariant is broken. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Present when the driver is built with ASan (sanitizer/asan_interface.h). */
__attribute__((weak)) void __asan_poison_memory_region(void const volatile *address, size_t size);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile *address, size_t size);

typedef struct {
  uint8_t *memory;
  size_t size;
} fuzz_room;

static inline void fuzz_demand(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "invariant broken: %s\n", what);
  abort();
}

/* n bytes, 64-byte aligned, around which nothing may be touched. The memory stays: an allocation for each input would cost more than
 * what is fuzzed. It holds what the call before left there. */
static inline uint8_t *fuzz_take(fuzz_room *room, size_t n) {
  const size_t need = ((n + 63) & ~(size_t)63) + 64;
  if (need > room->size) {
    free(room->memory);
    room->memory = aligned_alloc(64, need);
    room->size = need;
    if (room->memory == NULL) abort();
  }
  uint8_t *at = room->memory + (room->size - need);
  if (__asan_unpoison_memory_region != NULL) {
    __asan_poison_memory_region(room->memory, room->size);
    __asan_unpoison_memory_region(at, n);
  }
  return at;
}

#endif

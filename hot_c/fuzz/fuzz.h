/* fuzz.h: libFuzzer's entry point, which each driver defines. */
#ifndef KNHK_FUZZ_H
#define KNHK_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0. Aborts when the driver's invariant is broken. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif

/* Included before yyjson when it goes into a pack: a pack allocates nothing and opens nothing, so what would do so cannot be linked. */
#ifndef KNHK_YYJSON_NOLIBC_H
#define KNHK_YYJSON_NOLIBC_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void *knhk_no_malloc(size_t n) {
  (void)n;
  return NULL;
}
static inline void *knhk_no_realloc(void *p, size_t n) {
  (void)p, (void)n;
  return NULL;
}
static inline void knhk_no_free(void *p) { (void)p; }
#define malloc knhk_no_malloc
#define realloc knhk_no_realloc
#define free knhk_no_free

#endif

/* Included before expat when it goes into a pack, and by xml.c: the parser allocates from the memory of its reader (the build gives expat's
 * memory functions the parser as a first argument, knhk_hot/build.py), opens nothing, and asks nobody for the time or for chance. */
#ifndef KNHK_EXPAT_MEMORY_H
#define KNHK_EXPAT_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Memory for the parser itself, by the suite that XML_ParserCreate_MM was given. */
__attribute__((visibility("hidden"))) void *knhk_expat_first(const void *suite, size_t n);

#if defined(KNHK_BUILDING_EXPAT)
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

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
#define getenv(name) ((void)(name), (const char *)0)
#define strtoul(text, end, base) (*(end) = (char *)(uintptr_t)(text), (void)(base), 0ul)
#define getpid() 0
#define gettimeofday(tv, zone) (memset(tv, 0, sizeof *(tv)), 0)
#define malloc_fcn(n) malloc_fcn(parser, (n))
#define realloc_fcn(p, n) realloc_fcn(parser, (p), (n))
#define free_fcn(p) free_fcn(parser, (p))
#endif

#endif

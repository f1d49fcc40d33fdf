/* memory.c: `memory FILE MIB`: what a page that is not in memory costs, with prefault, mlock and neither; and streams with prefetch and
 * non-temporal loads. Each line of output: name, TAB, unit, TAB, value. Built by bench/memory.py. x86-64 with AVX2. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
enum { SAMPLES = 400, TOUCHES = 8, ROUNDS = 3 };
enum { COLD, WARM, POPULATED, RECLAIMED, LOCKED, LOCKED_RECLAIMED, MODES };
enum { PLAIN, AHEAD, AHEAD_NTA, STREAM, LOADS };

static volatile uint64_t sink;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Eight bytes at random places of the map: what a decision touches of a large bundle. */
static void touch(const char *name, const uint8_t *map, size_t n) {
  static double taken[SAMPLES];
  uint64_t state = 88172645463325252ull;
  for (int i = 0; i < SAMPLES; i++) {
    const double begun = now_ns();
    for (int k = 0; k < TOUCHES; k++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      sink += map[state % n];
    }
    taken[i] = now_ns() - begun;
  }
  qsort(taken, SAMPLES, sizeof *taken, ascending);
  printf("%s: median\tns\t%.1f\n%s: p99\tns\t%.1f\n", name, taken[SAMPLES / 2], name, taken[SAMPLES * 99 / 100]);
}

static void residency(int fd, size_t n, uint8_t *buffer) {
  static const char *const NAMES[MODES] = {
    "8 touches, file not in memory", "8 touches, in the page cache only", "8 touches after MADV_POPULATE_READ",
    "8 touches after populate and reclaim (MADV_PAGEOUT)", "8 touches after mlock", "8 touches after mlock and a try to reclaim"};
  for (int mode = 0; mode < MODES; mode++) {
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    for (size_t i = 0; mode != COLD && i < n; i += 1 << 20)
      if (pread(fd, buffer, 1 << 20, (off_t)i) != 1 << 20) exit(1);
    uint8_t *map = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) exit(1);
    madvise(map, n, MADV_RANDOM);
    const double begun = now_ns();
    int failed = 0;
    if (mode == POPULATED || mode == RECLAIMED) failed = madvise(map, n, MADV_POPULATE_READ);
    if (mode == LOCKED || mode == LOCKED_RECLAIMED) failed = mlock(map, n);
    const double taken = now_ns() - begun;
    if (mode == POPULATED && failed == 0) printf("MADV_POPULATE_READ of cached pages\tms\t%.2f\n", taken / 1e6);
    if (mode == LOCKED && failed == 0) printf("mlock of cached pages\tms\t%.2f\n", taken / 1e6);
    if (mode == RECLAIMED || mode == LOCKED_RECLAIMED) {
      madvise(map, n, MADV_PAGEOUT);
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    if (failed == 0) touch(NAMES[mode], map, n);
    munmap(map, n);
  }
}

static __m256i sum_of(const uint8_t *at, size_t n, int load) {
  __m256i sum = _mm256_setzero_si256();
  for (const uint8_t *end = at + n; at < end; at += 64) {
    if (load == AHEAD) _mm_prefetch((const char *)at + 1024, _MM_HINT_T0);
    if (load == AHEAD_NTA) _mm_prefetch((const char *)at + 1024, _MM_HINT_NTA);
    for (int half = 0; half < 2; half++) {
      const __m256i *p = (const __m256i *)(const void *)(at + 32 * half);
      sum = _mm256_add_epi64(sum, load == STREAM ? _mm256_stream_load_si256(p) : _mm256_load_si256(p));
    }
  }
  return sum;
}

/* A pass over n bytes, then one over those that were in the second cache before it. */
static void streams(size_t n) {
  static const char *const NAMES[LOADS] = {"plain loads", "prefetcht0 ahead", "prefetchnta ahead", "movntdqa"};
  const size_t hot_len = 512 << 10;
  uint8_t *data = aligned_alloc(64, n + 4096), *hot = aligned_alloc(64, hot_len);
  if (data == NULL || hot == NULL) exit(1);
  memset(data, 1, n + 4096);
  memset(hot, 2, hot_len);
  for (int round = 0; round < ROUNDS; round++)
    for (int load = 0; load < LOADS; load++) {
      for (int i = 0; i < 4; i++) sink += (uint64_t)_mm256_extract_epi64(sum_of(hot, hot_len, PLAIN), 0);
      const double begun = now_ns();
      sink += (uint64_t)_mm256_extract_epi64(sum_of(data, n, load), 0);
      const double middle = now_ns();
      sink += (uint64_t)_mm256_extract_epi64(sum_of(hot, hot_len, PLAIN), 0);
      const double after = now_ns() - middle;
      printf("%s: a pass over memory\tGB/s\t%.2f\n%s: then what was in the second cache\tns/line\t%.2f\n", NAMES[load],
             (double)n / (middle - begun), NAMES[load], after / (double)(hot_len / 64));
    }
}

int main(int argc, char **argv) {
  const size_t n = argc == 3 ? (size_t)atoi(argv[2]) << 20 : 0;
  const int fd = n == 0 ? -1 : open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  uint8_t *buffer = malloc(n + 1);
  if (fd < 0 || buffer == NULL) return 2;
  for (size_t i = 0; i < n; i++) buffer[i] = (uint8_t)(i * 31 + 7);
  if (write(fd, buffer, n) != (ssize_t)n || fsync(fd) != 0) return 1;
  residency(fd, n, buffer);
  streams(4 * n);
  return 0;
}

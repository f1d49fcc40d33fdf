/* arm64_host.c: judges observations by each variant of the pack that it is linked with, with no libc beneath. Reads from stdin u32 length ‖ O,
 * again and again; prints for each O and variant: name, status, A in hex; then the same of all of them by decide_batch. No data bundle. */
#define KNHK_BUILDING_PACK
#include "knhk_tables.h"

/* what packs ask of their host */
void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}
void *memmove(void *to, const void *from, size_t n) {
  const uintptr_t back = (uintptr_t)to > (uintptr_t)from;
  for (size_t k = 0; k < n; k++) ((uint8_t *)to)[back ? n - 1 - k : k] = ((const uint8_t *)from)[back ? n - 1 - k : k];
  return to;
}
void *memset(void *to, int c, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = (uint8_t)c;
  return to;
}
int memcmp(const void *a, const void *b, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i]) return ((const uint8_t *)a)[i] < ((const uint8_t *)b)[i] ? -1 : 1;
  return 0;
}
int bcmp(const void *a, const void *b, size_t n) { return memcmp(a, b, n); }
void *memchr(const void *in, int c, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (((const uint8_t *)in)[i] == (uint8_t)c) return (void *)(uintptr_t)((const uint8_t *)in + i);
  return NULL;
}
size_t strlen(const char *s) {
  size_t n = 0;
  while (s[n] != 0) n++;
  return n;
}

enum { READ = 63, WRITE = 64, EXIT = 93 };

static long call(long number, long a, const void *b, unsigned long c) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = (long)b, x2 __asm__("x2") = (long)c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}

enum { INPUTS = 1024, A_MAX = 1 << 14 };
static uint8_t scratch[1 << 26] __attribute__((aligned(64))), bytes[1 << 25], actions[INPUTS * A_MAX], line[1 << 16], memory[4096] __attribute__((aligned(64)));
static const uint8_t *o[INPUTS];
static size_t length[INPUTS];
static knhk_result result[INPUTS];

static int take(void *to, unsigned long n) {
  uint8_t *at = to;
  for (long got; n > 0; at += got, n -= (unsigned long)got)
    if ((got = call(READ, 0, at, n)) <= 0) return 0;
  return 1;
}

static void tell(const char *name, knhk_result r, const uint8_t *a) {
  static const char hex[] = "0123456789abcdef";
  uint8_t *at = line;
  while (*name != 0) *at++ = (uint8_t)*name++;
  *at++ = ' ';
  if (r.status < 0) *at++ = '-';
  *at++ = (uint8_t)('0' + (r.status < 0 ? -r.status : r.status)); /* one digit */
  *at++ = ' ';
  for (uint32_t i = 0; i < r.a_len; i++) {
    *at++ = (uint8_t)hex[a[i] >> 4];
    *at++ = (uint8_t)hex[a[i] & 15];
  }
  *at++ = '\n';
  call(WRITE, 1, line, (unsigned long)(at - line));
}

static size_t take_inputs(void) {
  size_t n = 0, at = 0;
  for (uint32_t next; n < INPUTS && take(&next, sizeof next) && next <= sizeof bytes - at && take(bytes + at, next); at += next, n++) {
    o[n] = bytes + at;
    length[n] = next;
  }
  return n;
}

__attribute__((used)) static void run(void) {
  const knhk_pack *pack = &knhk_pack_v1;
  int32_t error;
  const knhk_binding *binding = pack->bind(NULL, 0, memory, sizeof memory, &error);
  const size_t n = take_inputs();
  if (binding == NULL || pack->a_max > A_MAX) call(EXIT, 1, NULL, 0);
  for (size_t k = 0; k < n; k++)
    for (uint32_t i = 0; i < pack->nvariants; i++)
      tell(pack->variants[i].name, pack->variants[i].decide(binding, o[k], length[k], actions, A_MAX, scratch, sizeof scratch), actions);
  for (uint32_t i = 0; i < pack->nvariants; i++) {
    pack->variants[i].decide_batch(binding, n, o, length, actions, A_MAX, result, scratch, sizeof scratch);
    for (size_t k = 0; k < n; k++) tell("batch", result[k], actions + k * A_MAX);
  }
  call(EXIT, 0, NULL, 0);
}

__asm__(".global _start\n_start: bl run\n");

/* crc.c: see crc.h. */
#include "crc.h"

#include <string.h>

typedef uint32_t (*step)(uint32_t c, const uint8_t *p, size_t n); /* of the register, not inverted */

static uint32_t table[8][256];
static step chosen;

static uint32_t by_tables(uint32_t c, const uint8_t *p, size_t n) {
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t w;
    memcpy(&w, p, 8);
    w ^= c; /* little-endian, as all hosts of packs are */
    c = 0;
    for (uint32_t i = 0; i < 8; i++) c ^= table[7 - i][(w >> (8 * i)) & 255];
  }
  for (; n > 0; p++, n--) c = (c >> 8) ^ table[0][(c ^ *p) & 255];
  return c;
}

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#define FOLDING __attribute__((target("pclmul,sse4.1")))
#define FOLDED_MIN 64u

FOLDING static inline __m128i load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }

/* x moved on by the distance that k stands for, and y added there. */
FOLDING static inline __m128i fold(__m128i x, __m128i k, __m128i y) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), y);
}

/* Four lanes of 16 bytes side by side, then one, then Barrett's reduction: V. Gopal et al., Fast CRC Computation for Generic Polynomials
 * Using PCLMULQDQ Instruction, Intel, 2009; constants as there for the reflected polynomial. */
FOLDING static uint32_t by_folding(uint32_t c, const uint8_t *p, size_t n) {
  if (n < FOLDED_MIN) return by_tables(c, p, n);
  const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  const __m128i last = _mm_set_epi64x(0, 0x0163cd6124), barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  const __m128i low = _mm_set_epi32(0, -1, 0, -1);
  __m128i x[4];
  for (size_t i = 0; i < 4; i++) x[i] = load(p + 16 * i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)c));
  for (p += 64, n -= 64; n >= 64; p += 64, n -= 64)
    for (size_t i = 0; i < 4; i++) x[i] = fold(x[i], by_64, load(p + 16 * i));
  __m128i r = x[0];
  for (size_t i = 1; i < 4; i++) r = fold(r, by_16, x[i]);
  for (; n >= 16; p += 16, n -= 16) r = fold(r, by_16, load(p));
  r = _mm_xor_si128(_mm_srli_si128(r, 8), _mm_clmulepi64_si128(r, by_16, 0x10));
  r = _mm_xor_si128(_mm_srli_si128(r, 4), _mm_clmulepi64_si128(_mm_and_si128(r, low), last, 0x00));
  __m128i q = _mm_clmulepi64_si128(_mm_and_si128(r, low), barrett, 0x10);
  q = _mm_clmulepi64_si128(_mm_and_si128(q, low), barrett, 0x00);
  return by_tables((uint32_t)_mm_extract_epi32(_mm_xor_si128(r, q), 1), p, n);
}

static step fastest(void) {
  uint32_t a, b, c, d;
  const uint32_t features = (1u << 1) | (1u << 19); /* PCLMULQDQ, SSE4.1 */
  return __get_cpuid(1, &a, &b, &c, &d) && (c & features) == features ? by_folding : by_tables;
}
#else
static step fastest(void) { return by_tables; }
#endif

__attribute__((constructor)) static void prepare(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0xedb88320u & (0u - (c & 1)));
    table[0][i] = c;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (uint32_t t = 1; t < 8; t++) table[t][i] = (table[t - 1][i] >> 8) ^ table[0][table[t - 1][i] & 255];
  chosen = fastest();
}

uint32_t knhk_crc32(uint32_t before, const uint8_t *p, size_t n) { return ~chosen(~before, p, n); }

uint32_t knhk_crc32_scalar(uint32_t before, const uint8_t *p, size_t n) { return ~by_tables(~before, p, n); }

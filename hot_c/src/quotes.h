/* quotes.h: the quotation marks of a JSON text without escapes, found before it is read, so that the reader waits for no string to end. Part of
 * plain.c, for the instruction set that it is compiled for; all find the same. */
#ifndef KNHK_QUOTES_H
#define KNHK_QUOTES_H

#include <string.h>

#include "knhk_lanes.h"

/* What is among 64 bytes, a bit for each. */
typedef struct {
  uint64_t quotes, controls, escapes, high;
} found;

#if defined(__AVX512BW__)
static found look(const uint8_t *text) {
  const __m512i x = _mm512_loadu_si512((const void *)text);
  const found f = {_mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8('"')), _mm512_cmplt_epu8_mask(x, _mm512_set1_epi8(' ')),
                   _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8('\\')), _mm512_movepi8_mask(x)};
  return f;
}

/* Writes the places of the bits; `out` has room for 64. */
static uint32_t put_places(uint64_t bits, uint32_t base, uint32_t *out) {
  const __m512i first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  uint32_t n = 0;
  for (uint32_t i = 0; i < 64; i += 16) {
    const uint16_t part = (uint16_t)(bits >> i);
    _mm512_storeu_si512((void *)(out + n), _mm512_maskz_compress_epi32(part, _mm512_add_epi32(first, _mm512_set1_epi32((int)(base + i)))));
    n += (uint32_t)__builtin_popcount(part);
  }
  return n;
}

#else
#if defined(__AVX2__)
static uint64_t both(__m256i a, __m256i b) { return (uint32_t)_mm256_movemask_epi8(a) | (uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32; }

static found look(const uint8_t *text) {
  const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)text), b = _mm256_loadu_si256((const __m256i *)(const void *)(text + 32));
  const __m256i quote = _mm256_set1_epi8('"'), last = _mm256_set1_epi8(0x1f), escape = _mm256_set1_epi8('\\');
  const found f = {both(_mm256_cmpeq_epi8(a, quote), _mm256_cmpeq_epi8(b, quote)),
                   both(_mm256_cmpeq_epi8(_mm256_min_epu8(a, last), a), _mm256_cmpeq_epi8(_mm256_min_epu8(b, last), b)),
                   both(_mm256_cmpeq_epi8(a, escape), _mm256_cmpeq_epi8(b, escape)), both(a, b)};
  return f;
}

#else
typedef uint8_t bytes16 __attribute__((vector_size(16)));

/* A bit for each byte, of its highest. */
static uint64_t bits16(bytes16 x) {
#if defined(__SSE2__)
  typedef char chars16 __attribute__((vector_size(16)));
  return (uint16_t)__builtin_ia32_pmovmskb128((chars16)x);
#else
  uint64_t half[2];
  memcpy(half, &x, sizeof half);
  for (uint32_t i = 0; i < 2; i++) half[i] = ((half[i] & 0x8080808080808080ull) * 0x0002040810204081ull) >> 56;
  return half[0] | half[1] << 8;
#endif
}

static found look(const uint8_t *text) {
  found f = {0, 0, 0, 0};
  for (uint32_t i = 0; i < 64; i += 16) {
    bytes16 x;
    memcpy(&x, text + i, sizeof x);
    f.quotes |= bits16((bytes16)(x == '"')) << i;
    f.controls |= bits16((bytes16)(x < ' ')) << i;
    f.escapes |= bits16((bytes16)(x == '\\')) << i;
    f.high |= bits16(x) << i;
  }
  return f;
}
#endif

/* The places of the 16 lowest bits; where there are fewer, any places. */
static uint64_t put_16(uint64_t bits, uint32_t base, uint32_t *out) {
  for (uint32_t i = 0; i < 16; i++, bits &= bits - 1) out[i] = base + (uint32_t)__builtin_ctzll(bits | ((uint64_t)1 << 63));
  return bits;
}

/* Writes the places of the bits; `out` has room for 64. How many there are is only asked where they are dense. */
static uint32_t put_places(uint64_t bits, uint32_t base, uint32_t *out) {
  const uint32_t n = (uint32_t)__builtin_popcountll(bits);
  bits = put_16(bits, base, out);
  for (uint32_t done = 16; done < n; done += 16) bits = put_16(bits, base, out + done);
  return n;
}
#endif

/* Bit i: whether the bits up to and with i are odd in number. */
static uint64_t odd_up_to(uint64_t x) {
  for (uint32_t by = 1; by < 64; by *= 2) x ^= x << by;
  return x;
}

enum { TEXT_OTHER, TEXT_ASCII, TEXT_WIDE }; /* WIDE: some byte is above 127 */

/* Writes the places of the quotation marks of n bytes, behind which zeros lie up to a multiple of 64; `out` has room for as many and 64 more. OTHER:
 * there is an escape, a control character within a string, or a string that does not end. */
static uint32_t find_quotes(const uint8_t *text, uint32_t n, uint32_t *out) {
  uint64_t escapes = 0, high = 0, within = 0; /* within: all ones: a string began before */
  for (uint32_t at = 0; at < n; at += 64) {
    const found f = look(text + at);
    escapes |= f.escapes;
    high |= f.high;
    if (f.controls != 0 && (f.controls & (odd_up_to(f.quotes) ^ within)) != 0) return TEXT_OTHER;
    within ^= 0 - (uint64_t)(__builtin_popcountll(f.quotes) & 1);
    out += put_places(f.quotes, at, out);
  }
  return (escapes | within) != 0 ? TEXT_OTHER : high != 0 ? TEXT_WIDE : TEXT_ASCII;
}

#endif /* KNHK_QUOTES_H */

/* text.c: hexadecimal, comparison, messages, clocks. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "shim.h"

void shim_hex(const uint8_t *bytes, size_t n, char *out) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < n; i++) {
    out[2 * i] = digits[bytes[i] >> 4];
    out[2 * i + 1] = digits[bytes[i] & 15];
  }
}

static int nibble(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool shim_unhex(const char *text, size_t len, uint8_t *out, size_t n) {
  if (len != 2 * n) return false;
  for (size_t i = 0; i < n; i++) {
    int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = (uint8_t)(high << 4 | low);
  }
  return true;
}

bool shim_equal(knhk_buf a, knhk_buf b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }

bool shim_fail(char *err, const char *format, ...) {
  if (err[0] != 0) return false;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(err, SHIM_ERROR_MAX, format, arguments);
  va_end(arguments);
  return false;
}

void shim_log(int level, const char *format, ...) {
  char line[SHIM_ERROR_MAX + 256];
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (n < 0) return;
  cb_log(level, (knhk_buf){line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1});
}

uint64_t shim_now_ns(int clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

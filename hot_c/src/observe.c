/* observe.c: the parser of O (formats/observation.md). Bounds are checked before each read. */
#define KNHK_BUILDING_PACK
#include "engine.h"

typedef struct {
  const uint8_t *p, *end;
  int bad;
} cursor;

static const uint8_t *take(cursor *c, size_t n) {
  const uint8_t *at = c->p;
  if (c->bad || (size_t)(c->end - c->p) < n) {
    c->bad = 1;
    return NULL;
  }
  c->p += n;
  return at;
}

static uint64_t take_number(cursor *c, size_t bytes) {
  const uint8_t *at = take(c, bytes);
  uint64_t x = 0;
  for (size_t i = 0; at != NULL && i < bytes; i++) x = (x << 8) | at[i];
  return x;
}

static knhk_text take_text(cursor *c, size_t width, size_t max) {
  const uint64_t n = take_number(c, width);
  knhk_text t = {(const uint8_t *)"", 0};
  if (n > max) c->bad = 1;
  const uint8_t *at = take(c, c->bad ? 0 : (size_t)n);
  if (at == NULL) return t;
  t.p = at;
  t.n = (uint32_t)n;
  return t;
}

int knhk_utf8(const uint8_t *p, size_t n) {
  size_t i = 0;
  while (i < n) {
    const uint8_t a = p[i];
    if (a < 0x80) {
      do i += n - i >= 8 && (knhk_bytes8(p + i) & 0x8080808080808080ull) == 0 ? 8 : 1;
      while (i < n && p[i] < 0x80);
      continue;
    }
    const size_t more = a >= 0xc2 && a <= 0xdf ? 1 : a >= 0xe0 && a <= 0xef ? 2 : a >= 0xf0 && a <= 0xf4 ? 3 : 0;
    if (more == 0 || n - i <= more) return 0;
    const uint8_t b = p[i + 1];
    const uint8_t lo = a == 0xe0 ? 0xa0 : a == 0xf0 ? 0x90 : 0x80;
    const uint8_t hi = a == 0xed ? 0x9f : a == 0xf4 ? 0x8f : 0xbf;
    if (b < lo || b > hi) return 0;
    for (size_t j = 2; j <= more; j++)
      if ((p[i + j] & 0xc0) != 0x80) return 0;
    i += more + 1;
  }
  return 1;
}

static int lower_digit(uint8_t c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

static int name_like(knhk_text t, int dots) {
  for (uint32_t i = 0; i < t.n; i++)
    if (!lower_digit(t.p[i]) && t.p[i] != '-' && !(dots && (t.p[i] == '_' || t.p[i] == '.'))) return 0;
  return 1;
}

int32_t knhk_observe(const uint8_t *o, size_t len, knhk_observation *out) {
  cursor c = {o, o + len, 0};
  const uint8_t *magic = take(&c, 4);
  if (magic == NULL || memcmp(magic, "KNO1", 4) != 0) return KNHK_E_INPUT;
  out->time_ns = take_number(&c, 8);
  out->region = take_text(&c, 2, 63);
  out->route = take_text(&c, 2, 0xffff);
  take(&c, 64); /* digests of bundle and evaluator: the host binds them */
  const uint64_t n = take_number(&c, 2);
  if (c.bad || n > KNHK_ATTRS_MAX || !name_like(out->region, 0) || !knhk_utf8(out->route.p, out->route.n)) return KNHK_E_INPUT;
  out->nattr = (uint32_t)n;
  for (uint32_t i = 0; i < out->nattr; i++) {
    const knhk_text name = take_text(&c, 2, 63), value = take_text(&c, 4, 4096);
    if (c.bad || name.n == 0 || !name_like(name, 1) || !knhk_utf8(value.p, value.n)) return KNHK_E_INPUT;
    if (i > 0 && knhk_order(out->name[i - 1], name) >= 0) return KNHK_E_INPUT;
    out->name[i] = name;
    out->value[i] = value;
  }
  out->body = take_text(&c, 4, KNHK_BODY_MAX);
  return c.bad || c.p != c.end ? KNHK_E_INPUT : KNHK_OK;
}

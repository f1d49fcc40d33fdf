/* terms.c: strings and their ids; lexical forms of XSD 1.1 datatypes and their scaled values (formats/guardplan.md). */
#define KNHK_BUILDING_PACK
#include "engine.h"

static const knhk_tables *const T = &knhk_tables_v1;

knhk_text knhk_string(const knhk_delta *d, uint32_t id) {
  if (id < T->nstrings) return knhk_pack_string(id);
  if (id < d->base) return knhk_bundle_string(d->binding, id - T->nstrings);
  return d->local[id - d->base].s;
}

uint32_t knhk_decimal(uint64_t n, uint8_t *out) {
  uint8_t back[20];
  uint32_t k = 0;
  do back[k++] = (uint8_t)('0' + n % 10);
  while ((n /= 10) != 0);
  for (uint32_t i = 0; i < k; i++) out[i] = back[k - 1 - i];
  return k;
}

/* letters, digits, - . _ ~ */
static const uint64_t UNRESERVED[4] = {0x03ff600000000000ull, 0x47fffffe87fffffeull, 0, 0};

uint32_t knhk_percent(knhk_text s, uint8_t *out) {
  static const uint8_t hex[16] = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'};
  uint32_t n = 0;
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if (((UNRESERVED[c >> 6] >> (c & 63)) & 1) != 0) {
      out[n++] = c;
    } else {
      out[n++] = '%';
      out[n++] = hex[c >> 4];
      out[n++] = hex[c & 15];
    }
  }
  return n;
}

int knhk_iri_valid(knhk_text s) {
  uint32_t colon = KNHK_NONE;
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if (c <= 0x20 || c == '<' || c == '>' || c == '"' || c == '{' || c == '}' || c == '|' || c == '^' || c == '`' || c == '\\' || c == 0x7f) return 0;
    if (c == ':' && colon == KNHK_NONE) colon = i;
  }
  if (colon == KNHK_NONE || colon == 0) return 0;
  for (uint32_t i = 0; i < colon; i++) {
    const uint8_t c = s.p[i];
    const int alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!alpha && (i == 0 || !((c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'))) return 0;
  }
  return 1;
}

/* ---- lexical forms ---- */

typedef struct {
  int valid;
  uint32_t family; /* 0: no value; | KNHK_F_INEXACT: a value without exact scaled form */
  int64_t scaled;
} value;

static const value INVALID = {0, 0, 0}, PLAIN = {1, 0, 0};

static value exact(uint32_t family, int64_t scaled) {
  const value v = {1, family, scaled};
  return v;
}
static value inexact(uint32_t family) { return exact(family | KNHK_F_INEXACT, 0); }

static int digit(uint8_t c) { return c >= '0' && c <= '9'; }

typedef struct {
  int negative, whole, fraction, dot; /* digits before and after the dot */
  uint32_t significant;               /* digits from the first that is not 0 */
  uint32_t end;                       /* first byte after the number */
  uint64_t magnitude;                 /* all digits as an integer while significant ≤ 18 */
} number;

static number read_number(knhk_text s) {
  number n = {0, 0, 0, 0, 0, 0, 0};
  uint32_t i = 0;
  if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) n.negative = s.p[i++] == '-';
  for (; i < s.n; i++) {
    if (s.p[i] == '.' && !n.dot) {
      n.dot = 1;
      continue;
    }
    if (!digit(s.p[i])) break;
    if (n.dot) n.fraction++;
    else n.whole++;
    if (n.significant > 0 || s.p[i] != '0') n.significant++;
    if (n.significant <= 18) n.magnitude = n.magnitude * 10 + (uint64_t)(s.p[i] - '0');
  }
  n.end = i;
  return n;
}

static const uint64_t POWER[7] = {1, 10, 100, 1000, 10000, 100000, 1000000};
#define SCALE 1000000
#define LIMIT59 ((uint64_t)1 << 59)

static value scaled_number(number n) {
  if (n.significant > 15 || n.fraction > 6) return inexact(KNHK_F_NUMERIC);
  const uint64_t unit = POWER[6 - n.fraction];
  if (n.magnitude > (LIMIT59 - 1) / unit) return inexact(KNHK_F_NUMERIC);
  const int64_t scaled = (int64_t)(n.magnitude * unit);
  return exact(KNHK_F_NUMERIC, n.negative ? -scaled : scaled);
}

static value read_decimal(knhk_text s) {
  const number n = read_number(s);
  if (n.end != s.n || n.whole + n.fraction == 0) return INVALID;
  return scaled_number(n);
}

/* Largest magnitudes below and above zero. */
#define UNBOUNDED UINT64_MAX
#define WHOLE_U64 (UINT64_MAX - 1) /* unsignedLong: every magnitude that fits in 64 bits */
static const struct { uint64_t low, high; } BOUND[KNHK_D_COUNT] = {
  [KNHK_D_INTEGER] = {UNBOUNDED, UNBOUNDED}, [KNHK_D_NONNEGATIVE] = {0, UNBOUNDED}, [KNHK_D_POSITIVE] = {0, UNBOUNDED},
  [KNHK_D_NONPOSITIVE] = {UNBOUNDED, 0}, [KNHK_D_NEGATIVE] = {UNBOUNDED, 0},
  [KNHK_D_LONG] = {1ull << 63, (1ull << 63) - 1}, [KNHK_D_INT] = {1ull << 31, (1ull << 31) - 1},
  [KNHK_D_SHORT] = {1u << 15, (1u << 15) - 1}, [KNHK_D_BYTE] = {128, 127},
  [KNHK_D_ULONG] = {0, WHOLE_U64}, [KNHK_D_UINT] = {0, 0xffffffffu}, [KNHK_D_USHORT] = {0, 0xffff}, [KNHK_D_UBYTE] = {0, 255},
};

/* over: the digits do not fit in 64 bits. */
static uint64_t magnitude_of(knhk_text s, uint32_t from, int *over) {
  uint64_t m = 0;
  *over = 0;
  for (uint32_t i = from; i < s.n; i++) {
    const uint64_t d = (uint64_t)(s.p[i] - '0');
    if (m > (UINT64_MAX - d) / 10) *over = 1;
    m = m * 10 + d;
  }
  return m;
}

/* The number of up to eight digits; 0 also when there is anything else. */
static uint64_t few_digits(knhk_text s) {
  if (s.n == 0 || s.n > 8) return 0;
  const uint32_t up = 8 * (8 - s.n);
  uint64_t x = (s.n == 8 ? knhk_bytes8(s.p) : knhk_tail(s.p, s.n) << up) ^ (0x3030303030303030ull << up);
  if (((x | (x + 0x7676767676767676ull)) & 0x8080808080808080ull) != 0) return 0;
  x = x * 10 + (x >> 8);
  return (((x & 0xff000000ffull) * 0xf424000000064ull) + (((x >> 16) & 0xff000000ffull) * 0x271000000001ull)) >> 32;
}

static value read_integer(knhk_text s, uint32_t code) {
  const uint64_t few = few_digits(s);
  if (few - 1 < BOUND[code].high) return exact(KNHK_F_NUMERIC, (int64_t)(few * SCALE)); /* neither 0 nor beyond */
  const number n = read_number(s);
  if (n.end != s.n || n.whole == 0 || n.dot) return INVALID;
  const uint32_t sign = s.p[0] == '-' || s.p[0] == '+';
  int over = 0;
  const uint64_t m = magnitude_of(s, sign, &over);
  const int zero = !over && m == 0;
  const uint64_t bound = n.negative ? BOUND[code].low : BOUND[code].high;
  if (zero && (code == KNHK_D_POSITIVE || code == KNHK_D_NEGATIVE)) return INVALID;
  if (bound != UNBOUNDED && !zero && (over || (bound != WHOLE_U64 && m > bound))) return INVALID;
  return scaled_number(n);
}

#define TEXT_IS(s, word) ((s).n == sizeof(word) - 1 && memcmp((s).p, word, sizeof(word) - 1) == 0)

static value read_double(knhk_text s, int single) {
  if (TEXT_IS(s, "INF") || TEXT_IS(s, "+INF") || TEXT_IS(s, "-INF") || TEXT_IS(s, "NaN")) return inexact(KNHK_F_NUMERIC);
  const number n = read_number(s);
  if (n.whole + n.fraction == 0) return INVALID;
  if (n.end == s.n) {
    /* a float with a fraction differs from the decimal of the same spelling once it meets a double */
    if (single && (n.fraction > 0 || n.significant > 7)) return inexact(KNHK_F_NUMERIC);
    return scaled_number(n);
  }
  uint32_t i = n.end;
  if (s.p[i] != 'e' && s.p[i] != 'E') return INVALID;
  i++;
  if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) i++;
  if (i == s.n) return INVALID;
  for (; i < s.n; i++)
    if (!digit(s.p[i])) return INVALID;
  return inexact(KNHK_F_NUMERIC);
}

static value read_boolean(knhk_text s) {
  if (TEXT_IS(s, "true") || TEXT_IS(s, "1")) return exact(KNHK_F_BOOLEAN, 1);
  if (TEXT_IS(s, "false") || TEXT_IS(s, "0")) return exact(KNHK_F_BOOLEAN, 0);
  return INVALID;
}

/* n digits at *i; -1 when they are not */
static int fixed_digits(knhk_text s, uint32_t *i, uint32_t n) {
  int x = 0;
  if (s.n - *i < n) return -1;
  for (uint32_t k = 0; k < n; k++) {
    const uint8_t c = s.p[*i + k];
    if (!digit(c)) return -1;
    x = x * 10 + (c - '0');
  }
  *i += n;
  return x;
}

static int accept(knhk_text s, uint32_t *i, uint8_t c) {
  if (*i >= s.n || s.p[*i] != c) return 0;
  *i += 1;
  return 1;
}

typedef struct {
  int valid, exact; /* exact: year 1 … 9999 */
  int64_t year;
} year_form;

/* -?([1-9][0-9]{3,}|0[0-9]{3}) */
static year_form read_year(knhk_text s, uint32_t *i) {
  year_form y = {0, 1, 0};
  const int negative = accept(s, i, '-');
  const uint32_t first = *i;
  while (*i < s.n && digit(s.p[*i])) {
    y.year = y.year * 10 + (s.p[*i] - '0');
    if (y.year > 9999) y.year %= 400; /* all that leap years ask of more than four digits */
    *i += 1;
  }
  const uint32_t n = *i - first;
  y.valid = n >= 4 && (n == 4 || s.p[first] != '0');
  y.exact = !negative && n == 4 && y.year > 0;
  return y;
}

static int leap(int64_t y) { return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0; }
static int days_in(int64_t year, int month) {
  static const int days[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return days[month] + (month == 2 && leap(year));
}
/* Days since 1970-01-01 of a proleptic Gregorian date, year ≥ 0 (H. Hinnant, "chrono-compatible low-level date algorithms"). */
static int64_t days_from(int64_t y, int m, int d) {
  y -= m <= 2;
  const int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
  const int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
  return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

typedef struct {
  int valid, present, minutes;
} zone_form;

/* Z | [+-]hh:mm up to 14:00, or nothing; must end the string */
static zone_form read_zone(knhk_text s, uint32_t i) {
  zone_form z = {0, 0, 0};
  if (i == s.n) {
    z.valid = 1;
    return z;
  }
  z.present = 1;
  if (s.p[i] == 'Z') {
    z.valid = i + 1 == s.n;
    return z;
  }
  const int sign = s.p[i] == '-' ? -1 : 1;
  if (s.p[i] != '-' && s.p[i] != '+') return z;
  i++;
  const int h = fixed_digits(s, &i, 2);
  const int colon = accept(s, &i, ':');
  const int m = colon ? fixed_digits(s, &i, 2) : -1;
  z.valid = h >= 0 && m >= 0 && m <= 59 && (h < 14 || (h == 14 && m == 0)) && i == s.n;
  z.minutes = sign * (h * 60 + m);
  return z;
}

typedef struct {
  int valid, exact;
  int64_t micros;
} clock_form;

/* hh:mm:ss(.f+)?, 24:00:00 included */
static clock_form read_clock(knhk_text s, uint32_t *i) {
  clock_form c = {0, 1, 0};
  const int h = fixed_digits(s, i, 2);
  if (h < 0 || h > 24 || !accept(s, i, ':')) return c;
  const int m = fixed_digits(s, i, 2);
  if (m < 0 || m > 59 || !accept(s, i, ':')) return c;
  const int sec = fixed_digits(s, i, 2);
  if (sec < 0 || sec > 59) return c;
  int64_t fraction = 0;
  int nonzero = 0;
  if (accept(s, i, '.')) {
    const uint32_t first = *i;
    int64_t unit = 100000;
    for (; *i < s.n && digit(s.p[*i]); *i += 1, unit /= 10) {
      fraction += unit * (s.p[*i] - '0');
      nonzero |= s.p[*i] != '0';
    }
    if (*i == first) return c;
    c.exact = *i - first <= 6;
  }
  c.valid = h < 24 || (m == 0 && sec == 0 && !nonzero);
  c.micros = (((int64_t)h * 60 + m) * 60 + sec) * SCALE + fraction;
  return c;
}

static value read_date(knhk_text s) {
  uint32_t i = 0;
  const year_form y = read_year(s, &i);
  if (!y.valid || !accept(s, &i, '-')) return INVALID;
  const int m = fixed_digits(s, &i, 2);
  if (m < 1 || m > 12 || !accept(s, &i, '-')) return INVALID;
  const int d = fixed_digits(s, &i, 2);
  const zone_form z = read_zone(s, i);
  if (d < 1 || d > days_in(y.year, m) || !z.valid) return INVALID;
  return z.present || !y.exact ? inexact(KNHK_F_DATE) : exact(KNHK_F_DATE, days_from(y.year, m, d));
}

static value read_datetime(knhk_text s, int zone_needed) {
  uint32_t i = 0;
  const year_form y = read_year(s, &i);
  if (!y.valid || !accept(s, &i, '-')) return INVALID;
  const int m = fixed_digits(s, &i, 2);
  if (m < 1 || m > 12 || !accept(s, &i, '-')) return INVALID;
  const int d = fixed_digits(s, &i, 2);
  if (d < 1 || d > days_in(y.year, m) || !accept(s, &i, 'T')) return INVALID;
  const clock_form c = read_clock(s, &i);
  const zone_form z = c.valid ? read_zone(s, i) : (zone_form){0, 0, 0};
  if (!c.valid || !z.valid || (zone_needed && !z.present)) return INVALID;
  if (!z.present || !y.exact || !c.exact) return inexact(KNHK_F_DATETIME);
  return exact(KNHK_F_DATETIME, days_from(y.year, m, d) * 86400 * SCALE + c.micros - (int64_t)z.minutes * 60 * SCALE);
}

static int valid_time(knhk_text s) {
  uint32_t i = 0;
  const clock_form c = read_clock(s, &i);
  return c.valid && read_zone(s, i).valid;
}

static int valid_gregorian(knhk_text s, uint32_t code) {
  uint32_t i = 0;
  int month = 1, day = 1, ok = 1;
  if (code == KNHK_D_GYEAR || code == KNHK_D_GYEARMONTH) {
    ok = read_year(s, &i).valid;
    if (ok && code == KNHK_D_GYEARMONTH) ok = accept(s, &i, '-') && (month = fixed_digits(s, &i, 2)) > 0;
  } else {
    ok = accept(s, &i, '-') && accept(s, &i, '-');
    if (ok && code != KNHK_D_GDAY) ok = (month = fixed_digits(s, &i, 2)) > 0;
    if (ok && code != KNHK_D_GMONTH) ok = accept(s, &i, '-') && (day = fixed_digits(s, &i, 2)) > 0;
  }
  return ok && month <= 12 && day <= days_in(2000, month) && read_zone(s, i).valid;
}

/* -?P(nY)?(nM)?(nD)?(T(nH)?(nM)?(n(.n)?S)?)? with at least one part; units limits which are allowed */
static int valid_duration(knhk_text s, uint32_t code) {
  static const uint8_t order[] = {'Y', 'M', 'D', 'H', 'm', 'S'};
  uint32_t i = 0, at = 0, parts = 0, timed = 0, in_time = 0;
  accept(s, &i, '-');
  if (!accept(s, &i, 'P')) return 0;
  while (i < s.n) {
    if (s.p[i] == 'T') {
      if (in_time) return 0;
      in_time = 1;
      i++;
      continue;
    }
    const uint32_t first = i;
    while (i < s.n && digit(s.p[i])) i++;
    int dot = 0;
    if (i > first && i < s.n && s.p[i] == '.') {
      const uint32_t fraction = ++i;
      while (i < s.n && digit(s.p[i])) i++;
      dot = 1;
      if (i == fraction) return 0;
    }
    if (i == first || i == s.n) return 0;
    const uint8_t unit = in_time && s.p[i] == 'M' ? 'm' : s.p[i];
    i++;
    while (at < sizeof order && order[at] != unit) at++;
    if (at == sizeof order || (at >= 3) != in_time || (dot && unit != 'S')) return 0;
    if ((code == KNHK_D_DAYTIME && at < 2) || (code == KNHK_D_YEARMONTH && at >= 2)) return 0;
    at++;
    parts++;
    timed += in_time;
  }
  return parts > 0 && (!in_time || timed > 0);
}

static int valid_language(knhk_text s) {
  uint32_t run = 0, first = 1;
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    const int alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == '-') {
      if (run == 0) return 0;
      run = 0;
      first = 0;
    } else if (!alpha && !(digit(c) && !first)) {
      return 0;
    } else if (++run > 8) {
      return 0;
    }
  }
  return run > 0;
}

static int valid_normalized(knhk_text s, int token) {
  for (uint32_t i = 0; i < s.n; i++) {
    if (s.p[i] == '\t' || s.p[i] == '\n' || s.p[i] == '\r') return 0;
    if (token && s.p[i] == ' ' && (i == 0 || i + 1 == s.n || s.p[i + 1] == ' ')) return 0;
  }
  return 1;
}

static int valid_hex(knhk_text s) {
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i] | 0x20;
    if (!digit(s.p[i]) && !(c >= 'a' && c <= 'f')) return 0;
  }
  return s.n % 2 == 0;
}

static int base64_digit(uint8_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || digit(c) || c == '+' || c == '/'; }

/* single spaces between characters are allowed (XSD 1.1, 3.3.16); the last group must not carry stray bits */
static int valid_base64(knhk_text s) {
  uint32_t n = 0, pad = 0;
  uint8_t last = 'A';
  for (uint32_t i = 0; i < s.n; i++) {
    const uint8_t c = s.p[i];
    if (c == ' ') {
      if (i == 0 || i + 1 == s.n || s.p[i + 1] == ' ') return 0;
    } else if (c == '=') {
      pad++;
      n++;
    } else {
      if (!base64_digit(c) || pad > 0) return 0;
      last = c;
      n++;
    }
  }
  if (n % 4 != 0 || pad > 2) return 0;
  if (pad == 2) return last == 'A' || last == 'Q' || last == 'g' || last == 'w';
  return pad == 0 || memchr("AEIMQUYcgkosw048", last, 16) != NULL;
}

static value plain(int ok) { return ok ? PLAIN : INVALID; }

static value read_value(uint32_t code, knhk_text s) {
  switch (code) {
    case KNHK_D_BOOLEAN: return read_boolean(s);
    case KNHK_D_DECIMAL: return read_decimal(s);
    case KNHK_D_DOUBLE: return read_double(s, 0);
    case KNHK_D_FLOAT: return read_double(s, 1);
    case KNHK_D_DATE: return read_date(s);
    case KNHK_D_DATETIME: return read_datetime(s, 0);
    case KNHK_D_DATETIMESTAMP: return read_datetime(s, 1);
    case KNHK_D_TIME: return plain(valid_time(s));
    case KNHK_D_GYEAR: case KNHK_D_GYEARMONTH: case KNHK_D_GMONTHDAY: case KNHK_D_GDAY: case KNHK_D_GMONTH:
      return plain(valid_gregorian(s, code));
    case KNHK_D_INTEGER: case KNHK_D_NONNEGATIVE: case KNHK_D_POSITIVE: case KNHK_D_NONPOSITIVE: case KNHK_D_NEGATIVE:
    case KNHK_D_LONG: case KNHK_D_INT: case KNHK_D_SHORT: case KNHK_D_BYTE:
    case KNHK_D_ULONG: case KNHK_D_UINT: case KNHK_D_USHORT: case KNHK_D_UBYTE:
      return read_integer(s, code);
    case KNHK_D_NORMALIZED: return plain(valid_normalized(s, 0));
    case KNHK_D_TOKEN: return plain(valid_normalized(s, 1));
    case KNHK_D_LANGUAGE: return plain(valid_language(s));
    case KNHK_D_DURATION: case KNHK_D_DAYTIME: case KNHK_D_YEARMONTH: return plain(valid_duration(s, code));
    case KNHK_D_HEX: return plain(valid_hex(s));
    case KNHK_D_BASE64: return plain(valid_base64(s));
    default: return PLAIN;
  }
}

/* How many bytes of a word continue a character. */
static uint64_t continued(uint64_t w) { return (((w >> 7) & (~w >> 6) & 0x0101010101010101ull) * 0x0101010101010101ull) >> 56; }

static uint64_t code_points(knhk_text s) {
  uint64_t n = s.n;
  uint32_t i = 0;
  for (; i + 8 <= s.n; i += 8) {
    const uint64_t w = knhk_bytes8(s.p + i);
    if ((w & 0x8080808080808080ull) != 0) n -= continued(w);
  }
  const uint64_t w = knhk_tail(s.p + i, s.n - i);
  if ((w & 0x8080808080808080ull) != 0) n -= continued(w);
  return n < 0xffffff ? n : 0xffffff;
}

#define META(kinds, datatype, points) ((uint64_t)(kinds) | ((uint64_t)(datatype) << KNHK_M_DT_SHIFT) | ((uint64_t)(points) << KNHK_M_LEN_SHIFT))

/* Any literal that is no string and no integer of a few digits. */
static __attribute__((noinline)) void other_literal(uint32_t second, knhk_text s, uint64_t *val, uint64_t *meta) {
  const uint32_t code = second - KNHK_S_XSD + 1;
  const value v = code - KNHK_D_BOOLEAN < KNHK_D_COUNT - KNHK_D_BOOLEAN ? read_value(code, s) : PLAIN;
  *meta = META(KNHK_M_LITERAL | (v.valid ? KNHK_M_VALID : 0), second, code_points(s));
  *val = v.family == 0 ? 0 : ((uint64_t)v.family << 60) | (v.family & KNHK_F_INEXACT ? 0 : (uint64_t)(v.scaled + KNHK_BIAS));
}

static void literal(uint32_t second, knhk_text s, uint64_t *val, uint64_t *meta) {
  if (second == KNHK_S_XSD + KNHK_D_STRING - 1) {
    *val = 0;
    *meta = META(KNHK_M_LITERAL | KNHK_M_VALID, second, code_points(s));
    return;
  }
  const uint64_t few = second == KNHK_S_XSD + KNHK_D_INTEGER - 1 ? few_digits(s) : 0;
  if (few == 0) {
    other_literal(second, s, val, meta);
    return;
  }
  *val = ((uint64_t)KNHK_F_NUMERIC << 60) | (few * SCALE + (uint64_t)KNHK_BIAS);
  *meta = META(KNHK_M_LITERAL | KNHK_M_VALID, second, s.n);
}

uint64_t knhk_lanes(uint32_t kind, uint32_t second, uint32_t string, knhk_text s, uint64_t *val, uint64_t *meta) {
  *val = 0;
  switch (kind) {
    case KNHK_K_LITERAL: literal(second, s, val, meta); break;
    case KNHK_K_LANG: *meta = META(KNHK_M_LITERAL | KNHK_M_VALID, KNHK_S_RDF_LANGSTRING, code_points(s)); break;
    case KNHK_K_BNODE: *meta = META(KNHK_M_BNODE | KNHK_M_VALID, 0, 0); break;
    default: *meta = META(KNHK_M_IRI | KNHK_M_VALID, 0, code_points(s)); break;
  }
  return KNHK_TERM(kind, second, string);
}

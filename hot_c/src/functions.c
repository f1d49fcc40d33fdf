/* functions.c: how vendors write dates, amounts and codes, brought to lexical forms of XSD (formats/guardplan.md, FUNCTION). Each takes a string
 * and gives one, none, or refuses. Results are strings of the Δ, or parts of what was given. */
#define KNHK_BUILDING_PACK
#include "walk.h"

static const knhk_tables *const T = &knhk_tables_v1;

typedef struct {
  knhk_delta *d;
  const knhk_function *f;
  knhk_scalar v; /* given and made */
  int absent;
} call;

static int is_blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static knhk_text trimmed(knhk_text s) {
  while (s.n > 0 && is_blank(s.p[0])) s.p++, s.n--;
  while (s.n > 0 && is_blank(s.p[s.n - 1])) s.n--;
  return s;
}

/* Keeps n bytes that were written at d->text. */
static int keep(call *c, uint32_t n, uint32_t kind) {
  c->v.s.p = c->d->text;
  c->v.s.n = n;
  c->v.kind = kind;
  c->d->text += n;
  return 1;
}

static int fn_trim(call *c) {
  c->v.s = trimmed(c->v.s);
  return 1;
}

static int fn_absent_if(call *c) {
  c->absent = knhk_same(c->v.s, knhk_pack_string(c->f->text));
  return 1;
}

static int fn_strip_zeros(call *c) {
  while (c->v.s.n > 1 && c->v.s.p[0] == '0') c->v.s.p++, c->v.s.n--;
  return 1;
}

static int change_case(call *c, uint8_t first, uint8_t last) {
  if (!knhk_text_room(c->d, c->v.s.n)) return 1;
  for (uint32_t i = 0; i < c->v.s.n; i++) {
    const uint8_t b = c->v.s.p[i];
    c->d->text[i] = b >= first && b <= last ? b ^ 0x20 : b;
  }
  return keep(c, c->v.s.n, c->v.kind);
}
static int fn_upper(call *c) { return change_case(c, 'a', 'z'); }
static int fn_lower(call *c) { return change_case(c, 'A', 'Z'); }

/* ---- amounts ---- */

/* Whole digits with or without groups of three; the number of bytes, or 0 when the groups are uneven. */
static uint32_t whole_length(knhk_text s, uint8_t group) {
  uint32_t i = 0, run = 0, groups = 0;
  for (; i < s.n && (is_digit(s.p[i]) || s.p[i] == group); i++) {
    if (s.p[i] != group) {
      run++;
      continue;
    }
    if (run == 0 || run > 3 || (groups > 0 && run != 3)) return 0;
    groups++;
    run = 0;
  }
  return groups > 0 && run != 3 ? 0 : i;
}

/* The canonical form of xsd:decimal: a sign before or after, groups, one separator. */
static int decimal(call *c, uint8_t separator, uint8_t group) {
  knhk_text s = trimmed(c->v.s);
  int negative = 0;
  if (s.n > 0 && (s.p[0] == '-' || s.p[0] == '+')) {
    negative = s.p[0] == '-';
    s.p++, s.n--;
  } else if (s.n > 0 && (s.p[s.n - 1] == '-' || s.p[s.n - 1] == '+')) {
    negative = s.p[s.n - 1] == '-';
    s.n--;
    s = trimmed(s);
  }
  const uint32_t whole = whole_length(s, group);
  uint32_t end = s.n, n = 0;
  if (whole == 0 || (whole < s.n && (s.p[whole] != separator || whole + 1 == s.n))) return 0;
  for (uint32_t i = whole + 1; i < s.n; i++)
    if (!is_digit(s.p[i])) return 0;
  while (end > whole && (s.p[end - 1] == '0' || s.p[end - 1] == separator)) {
    end--;
    if (s.p[end] == separator) break;
  }
  if (!knhk_text_room(c->d, s.n + 3)) return 1;
  uint8_t *out = c->d->text;
  uint32_t first = 0;
  while (first + 1 < whole && (s.p[first] == '0' || s.p[first] == group)) first++;
  if (negative && !(end == whole && first + 1 == whole && s.p[first] == '0')) out[n++] = '-';
  for (uint32_t i = first; i < whole; i++)
    if (s.p[i] != group) out[n++] = s.p[i];
  if (end > whole) out[n++] = '.';
  for (uint32_t i = whole + 1; i < end; i++) out[n++] = s.p[i];
  return keep(c, n, KNHK_SCALAR_DECIMAL);
}
static int fn_decimal_point(call *c) { return decimal(c, '.', ','); }
static int fn_decimal_comma(call *c) { return decimal(c, ',', '.'); }

/* ---- dates ---- */

typedef struct {
  uint32_t year, month, day, hour, minute, second;
  knhk_text fraction, zone;
} moment;

static int digits(knhk_text *s, uint32_t least, uint32_t most, uint32_t *x) {
  uint32_t i = 0;
  *x = 0;
  for (; i < most && i < s->n && is_digit(s->p[i]); i++) *x = *x * 10 + (uint32_t)(s->p[i] - '0');
  s->p += i;
  s->n -= i;
  return i >= least;
}

/* Z, or ±hh, ±hh:mm, ±hhmm; what is left of s is after it. */
static int zone_of(knhk_text *s, knhk_text *zone) {
  uint32_t hours, minutes = 0;
  zone->p = s->p;
  if (s->n == 0) return 0;
  const uint8_t sign = s->p[0];
  s->p++, s->n--;
  if (sign == 'Z') {
    zone->n = 1;
    return 1;
  }
  if ((sign != '+' && sign != '-') || !digits(s, 2, 2, &hours)) return 0;
  const int colon = s->n > 0 && s->p[0] == ':';
  s->p += colon, s->n -= (uint32_t)colon;
  if ((colon || (s->n > 0 && is_digit(s->p[0]))) && !digits(s, 2, 2, &minutes)) return 0;
  zone->n = (uint32_t)(s->p - zone->p);
  return hours < 14 ? minutes < 60 : hours == 14 && minutes == 0;
}

static int token(moment *m, const uint8_t *p, uint32_t run, knhk_text *s) {
  const uint32_t least = run;
  switch (p[0]) {
    case 'Y': return digits(s, 4, 4, &m->year);
    case 'M': return digits(s, least, 2, &m->month);
    case 'D': return digits(s, least, 2, &m->day);
    case 'h': return digits(s, least, 2, &m->hour);
    case 'm': return digits(s, least, 2, &m->minute);
    case 's': return digits(s, least, 2, &m->second);
    case 'f':
      m->fraction = *s;
      while (s->n > 0 && is_digit(s->p[0])) s->p++, s->n--;
      m->fraction.n = (uint32_t)(s->p - m->fraction.p);
      return m->fraction.n > 0;
    case 'Z': return zone_of(s, &m->zone);
    default:
      if (s->n == 0 || s->p[0] != p[0]) return 0;
      s->p++, s->n--;
      return 1;
  }
}

/* Reads s by a pattern of YYYY MM M DD D hh h mm ss f Z; other characters stand for themselves, * at the end for anything. */
static int read_moment(knhk_text pattern, knhk_text s, moment *m) {
  for (uint32_t i = 0; i < pattern.n;) {
    if (pattern.p[i] == '*' && i + 1 == pattern.n) return 1;
    uint32_t run = 1;
    const int letters = pattern.p[i] == 'Y' || pattern.p[i] == 'M' || pattern.p[i] == 'D' || pattern.p[i] == 'h' || pattern.p[i] == 'm' || pattern.p[i] == 's';
    while (letters && i + run < pattern.n && pattern.p[i + run] == pattern.p[i]) run++;
    if (!token(m, pattern.p + i, run, &s)) return 0;
    i += run;
  }
  return s.n == 0;
}

static uint32_t days_in(uint32_t year, uint32_t month) {
  static const uint8_t DAYS[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const uint32_t leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return DAYS[month] + (month == 2 ? leap : 0);
}

static int is_moment(const moment *m) {
  if (m->year == 0 || m->month == 0 || m->month > 12 || m->day == 0) return 0;
  return m->day <= days_in(m->year, m->month) && m->hour < 24 && m->minute < 60 && m->second < 60;
}

static uint32_t put_number(uint8_t *out, uint32_t x, uint32_t width) {
  for (uint32_t i = width; i > 0; i--, x /= 10) out[i - 1] = (uint8_t)('0' + x % 10);
  return width;
}

static uint32_t put_day(uint8_t *out, const moment *m) {
  uint32_t n = put_number(out, m->year, 4);
  out[n++] = '-';
  n += put_number(out + n, m->month, 2);
  out[n++] = '-';
  return n + put_number(out + n, m->day, 2);
}

static uint32_t put_zone(uint8_t *out, knhk_text zone) {
  uint32_t n = 0;
  if (zone.n <= 1) {
    memcpy(out, zone.p, zone.n);
    return zone.n;
  }
  for (uint32_t i = 0; i < 3; i++) out[n++] = zone.p[i];
  out[n++] = ':';
  for (uint32_t i = 3; i < zone.n; i++)
    if (zone.p[i] != ':') out[n++] = zone.p[i];
  if (zone.n == 3) n += put_number(out + n, 0, 2);
  return n;
}

static int make_day(call *c, const moment *m) {
  if (!is_moment(m)) return 0;
  if (!knhk_text_room(c->d, 10)) return 1;
  return keep(c, put_day(c->d->text, m), KNHK_SCALAR_DATE);
}

static int make_moment(call *c, const moment *m) {
  if (!is_moment(m)) return 0;
  if (!knhk_text_room(c->d, 32 + m->fraction.n)) return 1;
  uint8_t *out = c->d->text;
  uint32_t n = put_day(out, m), fraction = m->fraction.n;
  const uint32_t clock[3] = {m->hour, m->minute, m->second};
  for (uint32_t i = 0; i < 3; i++) {
    out[n++] = i == 0 ? 'T' : ':';
    n += put_number(out + n, clock[i], 2);
  }
  while (fraction > 0 && m->fraction.p[fraction - 1] == '0') fraction--;
  if (fraction > 0) {
    out[n++] = '.';
    memcpy(out + n, m->fraction.p, fraction);
    n += fraction;
  }
  n += put_zone(out + n, m->zone);
  return keep(c, n, KNHK_SCALAR_DATETIME);
}

static moment no_moment(void) {
  const knhk_text none = {(const uint8_t *)"", 0};
  const moment m = {0, 1, 1, 0, 0, 0, none, none};
  return m;
}

static int fn_date(call *c) {
  moment m = no_moment();
  return read_moment(knhk_pack_string(c->f->text), c->v.s, &m) && make_day(c, &m);
}

static int fn_datetime(call *c) {
  moment m = no_moment();
  m.zone = knhk_pack_string(c->f->other);
  return read_moment(knhk_pack_string(c->f->text), c->v.s, &m) && make_moment(c, &m);
}

/* Days to civil date by H. Hinnant's algorithm; milliseconds between the years 1 and 9999. */
static int moment_of(int64_t millis, moment *m, uint8_t fraction[3]) {
  if (millis < -62135596800000 || millis > 253402300799999) return 0;
  const uint64_t shifted = (uint64_t)(millis + 62135596800000), second = shifted / 1000, days = second / 86400 + 306;
  const uint64_t era = days / 146097, doe = days % 146097;
  const uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
  const uint64_t mp = (5 * doy + 2) / 153, month = mp < 10 ? mp + 3 : mp - 9;
  m->year = (uint32_t)(yoe + era * 400 + (month <= 2));
  m->month = (uint32_t)month;
  m->day = (uint32_t)(doy - (153 * mp + 2) / 5 + 1);
  m->hour = (uint32_t)(second % 86400 / 3600);
  m->minute = (uint32_t)(second % 3600 / 60);
  m->second = (uint32_t)(second % 60);
  put_number(fraction, (uint32_t)(shifted % 1000), 3);
  m->fraction.p = fraction;
  m->fraction.n = 3;
  m->zone.p = (const uint8_t *)"Z";
  m->zone.n = 1;
  return 1;
}

/* -?digits, at most 15; what is left of s is after it. */
static int integer(knhk_text *s, int64_t *x) {
  const int negative = s->n > 0 && s->p[0] == '-';
  uint32_t i = (uint32_t)negative;
  *x = 0;
  for (; i < s->n && is_digit(s->p[i]) && i < 16; i++) *x = *x * 10 + (s->p[i] - '0');
  if (i == (uint32_t)negative) return 0;
  if (negative) *x = -*x;
  s->p += i;
  s->n -= i;
  return 1;
}

static int epoch(call *c, int64_t unit) {
  knhk_text s = c->v.s;
  moment m = no_moment();
  uint8_t fraction[3];
  int64_t x;
  if (!integer(&s, &x) || s.n != 0 || x > 253402300799999 || x < -62135596800000) return 0;
  return moment_of(x * unit, &m, fraction) && make_moment(c, &m);
}
static int fn_epoch_millis(call *c) { return epoch(c, 1); }
static int fn_epoch_seconds(call *c) { return epoch(c, 1000); }

/* /Date(1539993600000+0000)/ of .NET's JSON: milliseconds in UTC; the offset says what the clock on the wall showed. */
static int dotnet(call *c, moment *m, uint8_t fraction[3], int wall) {
  static const char head[] = "/Date(";
  const uint32_t n = (uint32_t)sizeof head - 1;
  knhk_text s = c->v.s, zone;
  int64_t millis;
  if (s.n < n || memcmp(s.p, head, n) != 0) return 0;
  s.p += n;
  s.n -= n;
  if (!integer(&s, &millis)) return 0;
  if (s.n > 0 && s.p[0] != ')') {
    if (!zone_of(&s, &zone) || zone.n != 5) return 0;
    const int64_t minutes = 60 * (10 * (zone.p[1] - '0') + zone.p[2] - '0') + 10 * (zone.p[3] - '0') + zone.p[4] - '0';
    if (wall) millis += 60000 * (zone.p[0] == '-' ? -minutes : minutes);
  }
  return s.n == 2 && memcmp(s.p, ")/", 2) == 0 && moment_of(millis, m, fraction);
}

static int fn_dotnet_date(call *c) {
  moment m = no_moment();
  uint8_t fraction[3];
  return dotnet(c, &m, fraction, 1) && make_day(c, &m);
}

static int fn_dotnet_datetime(call *c) {
  moment m = no_moment();
  uint8_t fraction[3];
  return dotnet(c, &m, fraction, 0) && make_moment(c, &m);
}

/* ---- codes, IRIs ---- */

/* Meaning of a code among the pairs of a function, which ascend by the code; or KNHK_NONE. */
static uint32_t meaning(const knhk_function *f, knhk_text s) {
  const uint32_t code = knhk_pack_find(s, knhk_hash(s, T->seed));
  uint32_t lo = 0, hi = code == KNHK_NONE ? 0 : f->npair;
  while (lo < hi) {
    const uint32_t mid = lo + (hi - lo) / 2;
    const uint64_t pair = T->words[f->pair + mid];
    if (pair >> 32 == code) return (uint32_t)pair;
    if (pair >> 32 < code) lo = mid + 1;
    else hi = mid;
  }
  return KNHK_NONE;
}

static int fn_codes(call *c) {
  uint32_t found = meaning(c->f, c->v.s);
  if (found == KNHK_NONE) found = c->f->other;
  if (found == KNHK_NONE) return 0;
  c->v.s = knhk_pack_string(found);
  c->v.kind = KNHK_SCALAR_STRING;
  return 1;
}

static int put_before(call *c, knhk_text prefix) {
  if (!knhk_text_room(c->d, (size_t)prefix.n + c->v.s.n)) return 1;
  memcpy(c->d->text, prefix.p, prefix.n);
  memcpy(c->d->text + prefix.n, c->v.s.p, c->v.s.n);
  return keep(c, prefix.n + c->v.s.n, KNHK_SCALAR_STRING);
}

static int fn_prefix(call *c) { return put_before(c, knhk_pack_string(c->f->text)); }

/* IRI expansion of JSON-LD 1.1 (5.2): a term, prefix:rest, an absolute IRI, or a word of the vocabulary. */
static int fn_expand(call *c) {
  const uint32_t term = meaning(c->f, c->v.s);
  if (c->v.kind != KNHK_SCALAR_STRING) return 0;
  if (term != KNHK_NONE) {
    c->v.s = knhk_pack_string(term);
    return 1;
  }
  uint32_t colon = 0;
  while (colon < c->v.s.n && c->v.s.p[colon] != ':') colon++;
  if (colon == c->v.s.n) {
    const knhk_text vocabulary = knhk_pack_string(c->f->text);
    return vocabulary.n > 0 && put_before(c, vocabulary);
  }
  const knhk_text prefix = {c->v.s.p, colon + 1}, rest = {c->v.s.p + colon + 1, c->v.s.n - colon - 1};
  const uint32_t namespace = rest.n >= 2 && rest.p[0] == '/' && rest.p[1] == '/' ? KNHK_NONE : meaning(c->f, prefix);
  if (namespace == KNHK_NONE) return 1;
  c->v.s = rest;
  return put_before(c, knhk_pack_string(namespace));
}

static int fn_percent(call *c) {
  if (!knhk_text_room(c->d, 3 * (size_t)c->v.s.n)) return 1;
  return keep(c, knhk_percent(c->v.s, c->d->text), KNHK_SCALAR_STRING);
}

/* 0: the value has not the form that the function needs */
typedef int (*function)(call *c);
static const function FUNCTIONS[KNHK_FN_COUNT] = {
  [KNHK_FN_TRIM] = fn_trim, [KNHK_FN_ABSENT_IF] = fn_absent_if, [KNHK_FN_STRIP_ZEROS] = fn_strip_zeros,
  [KNHK_FN_UPPER] = fn_upper, [KNHK_FN_LOWER] = fn_lower,
  [KNHK_FN_DECIMAL_POINT] = fn_decimal_point, [KNHK_FN_DECIMAL_COMMA] = fn_decimal_comma,
  [KNHK_FN_DATE] = fn_date, [KNHK_FN_DATETIME] = fn_datetime,
  [KNHK_FN_DOTNET_DATE] = fn_dotnet_date, [KNHK_FN_DOTNET_DATETIME] = fn_dotnet_datetime,
  [KNHK_FN_EPOCH_MILLIS] = fn_epoch_millis, [KNHK_FN_EPOCH_SECONDS] = fn_epoch_seconds,
  [KNHK_FN_CODES] = fn_codes, [KNHK_FN_PREFIX] = fn_prefix, [KNHK_FN_PERCENT] = fn_percent, [KNHK_FN_EXPAND] = fn_expand,
};

uint32_t knhk_apply(knhk_delta *d, const knhk_slot *slot, knhk_scalar *v, int *absent) {
  call c = {d, NULL, *v, 0};
  for (uint32_t i = 0; i < slot->nfunction && !c.absent; i++) {
    c.f = &T->functions[slot->function + i];
    if (!FUNCTIONS[c.f->kind](&c)) return KNHK_FAULT_FORM + c.f->kind;
  }
  *v = c.v;
  *absent = c.absent;
  return KNHK_FAULT_NONE;
}

/* fuzz_host.c: a host in Envoy's place. Invariant: whatever the configuration, headers, bodies, order of hooks and answers of the agent, a
 * request goes on only when its ADMIT leaf with exactly its body is in a ring, or when the agent admitted this very receipt; it is
 * answered once; closed rings are drained and gone; a configuration that names a file that is not what its digest says, or no pack, is
 * refused. The input is the choices that this host makes, one after another, and the bytes that it sends. Packs and the bundle are in the
 * folder `packs` beside the driver (fakepack.c), files that must be refused in `broken`. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi.h"
#include "fuzz.h"

enum { HEADERS = 24, BODIES = 40, CONFIGS = 3, STREAMS = 8, KEEP = 4096, BODY_MAX = 1 << 16 };
#define MUST(truth) ((truth) ? (void)0 : (fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #truth), abort()))
#define SILENT (1ull << 63) /* in the word `tail` of a ring: its reader is gone, the ring looks full */

static const uint8_t *input;
static size_t left;

/* The next choice of the input, below `below`; 0 behind its end. */
static uint64_t chance(uint64_t below) {
  uint64_t value = 0;
  for (uint64_t most = below - 1; most > 0 && left > 0; most >>= 8, left--) value = value << 8 | *input++;
  return value % below;
}

typedef struct {
  char *p;
  size_t n;
} text;

/* A copy on the heap without a NUL, so that a sanitizer sees one byte too many. */
static text copy(const char *p, size_t n) {
  text t = {malloc(n == 0 ? 1 : n), n};
  if (n != 0) memcpy(t.p, p, n);
  return t;
}

typedef struct {
  text key, value;
} pair;

typedef struct {
  const void *config, *module;
  int config_slot, nheaders, nmeta, nbuffered, nreceived, answers;
  pair headers[HEADERS], meta[8];
  text filter_state, buffered[BODIES], received[BODIES], posted;
  char body[BODY_MAX], receipt[33];
  size_t body_len;
  bool parked, passed, agent_admits, waits, undurable, ended, has_filter_state, foreign, shows;
} stream;

typedef struct {
  const void *config;
  int live;
} slot;

static stream *streams[STREAMS];
static slot configs[CONFIGS];
static char folder[256];
static bool validating;

/* ---- records that were drained, newest last ------------------------------------------------------- */

typedef struct {
  uint8_t receipt[16], kind, verdict, flags;
  bool by_pack;
  size_t body_len;
  uint64_t body_sum;
} leaf;

static leaf kept[KEEP];
static size_t nkept;

static uint64_t sum(const uint8_t *p, size_t n) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211u;
  return h;
}

static void keep(const uint8_t *record) {
  uint32_t o_len;
  memcpy(&o_len, record + 48, 4);
  MUST(record[54] == 1 || record[54] == 2);
  const uint8_t *arm = record + 56 + (record[54] == 2 && record[56 + 36 + 23] == 1 ? 36 : 0);
  MUST(arm[23] == 1);
  leaf *l = &kept[nkept++ % KEEP];
  memcpy(l->receipt, record + 16, 16);
  l->kind = arm[20];
  l->verdict = arm[22];
  l->flags = arm[24];
  l->by_pack = sum(arm, 20) != sum((const uint8_t[20]){0}, 20);
  const uint8_t *o = record + 128;
  size_t at = 12;
  at += 2 + (size_t)(o[at] << 8 | o[at + 1]);
  at += 2 + (size_t)(o[at] << 8 | o[at + 1]) + 64;
  size_t n = (size_t)(o[at] << 8 | o[at + 1]);
  for (at += 2; n > 0; n--) {
    at += 2 + (size_t)(o[at] << 8 | o[at + 1]);
    at += 4 + ((size_t)o[at] << 24 | (size_t)o[at + 1] << 16 | (size_t)o[at + 2] << 8 | o[at + 3]);
  }
  l->body_len = (size_t)o[at] << 24 | (size_t)o[at + 1] << 16 | (size_t)o[at + 2] << 8 | o[at + 3];
  MUST(at + 4 + l->body_len == o_len);
  l->body_sum = sum(o + at + 4, l->body_len);
}

static void drain_file(const char *path) {
  int fd = open(path, O_RDWR);
  MUST(fd >= 0);
  size_t size = (size_t)lseek(fd, 0, SEEK_END);
  uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  MUST(map != MAP_FAILED && memcmp(map, "KNHKRNG1", 8) == 0);
  uint64_t *head = (uint64_t *)(void *)(map + 128), *tail = (uint64_t *)(void *)(map + 192), capacity = size - 4096;
  *tail &= ~SILENT;
  while (*tail < *head) {
    uint8_t *record = map + 4096 + *tail % capacity;
    uint64_t commit;
    uint32_t length, type;
    memcpy(&commit, record, 8);
    memcpy(&length, record + 8, 4);
    memcpy(&type, record + 12, 4);
    MUST(commit == *tail + 1 && length >= 64 && length % 64 == 0 && (type == 1 || type == 2));
    if (type == 1) keep(record);
    *tail += length;
  }
  bool closed = *(uint64_t *)(void *)(map + 384) == 1;
  munmap(map, size);
  close(fd);
  if (closed) unlink(path);
}

static uint64_t ahead_ns; /* of the clocks */

/* The memory of a ring comes with use: to fill 4 MiB for each configuration would take most of a search's time. The linker puts these in
 * the places of the calls (--wrap). */
uint64_t __real_shim_now_ns(int clock);
uint64_t __wrap_shim_now_ns(int clock);
uint64_t __wrap_shim_now_ns(int clock) { return __real_shim_now_ns(clock) + ahead_ns; }
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
int __wrap_posix_fallocate(int fd, off_t from, off_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) { return __real_mmap(at, n, prot, flags & ~MAP_POPULATE, fd, from); }
int __wrap_posix_fallocate(int fd, off_t from, off_t n) { return ftruncate(fd, from + n); }

static void silence_file(const char *path) {
  int fd = open(path, O_RDWR);
  MUST(fd >= 0);
  uint64_t *header = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  MUST(header != MAP_FAILED);
  header[192 / 8] |= SILENT;
  munmap(header, 4096);
  close(fd);
}

/* Calls `each` with the path of every ring; returns their number. */
static int rings(void (*each)(const char *path)) {
  DIR *dir = opendir(folder);
  MUST(dir != NULL);
  int n = 0;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    char path[600];
    if (e->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    if (each != NULL) each(path);
    n++;
  }
  closedir(dir);
  return n;
}

static void drain(void) { rings(drain_file); }

static const leaf *find(const uint8_t *receipt) {
  for (size_t i = 0; i < nkept && i < KEEP; i++) {
    if (memcmp(kept[i].receipt, receipt, 16) == 0) return &kept[i];
  }
  return NULL;
}

/* ---- what Envoy would do ---------------------------------------------------------------------------- */

void cb_log(int level, knhk_buf message) {
  MUST(level >= 0 && level <= 5 && (message.n == 0 || message.p[message.n - 1] != 0));
}
bool cb_is_validation_mode(void) { return validating; }
uint32_t cb_get_concurrency(void) { return 1; }
uint32_t cb_http_filter_get_worker_index(void *f) { return (void)f, chance(60) == 1 ? 1 : 0; }
int cb_http_filter_config_define_counter(void *env, knhk_buf name, knhk_buf *labels, size_t n, size_t *id) {
  (void)env;
  MUST(name.n > 0 && n == 1 && labels->n > 0);
  static size_t counters;
  *id = counters++;
  return chance(200) == 0;
}
int cb_http_filter_increment_counter(void *f, size_t id, knhk_buf *values, size_t n, uint64_t by) { return (void)f, (void)id, MUST(n == 1 && values->n > 0 && by == 1), 0; }

static bool same(text t, knhk_buf b) { return t.n == b.n && memcmp(t.p, b.p, b.n) == 0; }
static void unpair(pair *p) { free(p->key.p), free(p->value.p); }

bool cb_http_get_header(void *f, int kind, knhk_buf key, knhk_buf *out, size_t index, size_t *count) {
  stream *s = f;
  size_t n = 0;
  MUST(kind == 0);
  for (int i = 0; i < s->nheaders; i++) {
    if (same(s->headers[i].key, key) && n++ == index) *out = (knhk_buf){s->headers[i].value.p, s->headers[i].value.n};
  }
  if (count != NULL) *count = n;
  return n > index;
}

bool cb_http_set_header(void *f, int kind, knhk_buf key, knhk_buf value) {
  stream *s = f;
  if (kind == 0 && value.n == 32 && key.n == 12) memcpy(s->receipt, value.p, 32);
  if (kind == 2) MUST(value.n == 0 || value.n == 32), s->shows = value.n == 32;
  if (kind == 2 && s->shows) memcpy(s->receipt, value.p, 32);
  return true;
}

static bool meta(stream *s, knhk_buf key, knhk_buf *out) {
  for (int i = 0; i < s->nmeta; i++) {
    if (same(s->meta[i].key, key)) return *out = (knhk_buf){s->meta[i].value.p, s->meta[i].value.n}, true;
  }
  return false;
}

bool cb_http_get_metadata_string(void *f, int source, knhk_buf ns, knhk_buf key, knhk_buf *out) { return MUST(source == 1 && ns.n == 4), meta(f, key, out); }
size_t cb_http_get_metadata_keys_count(void *f, int source, knhk_buf ns) { return (void)source, (void)ns, (size_t)((stream *)f)->nmeta; }
bool cb_http_get_metadata_keys(void *f, int source, knhk_buf ns, knhk_buf *out) {
  stream *s = f;
  (void)source, (void)ns;
  for (int i = 0; i < s->nmeta; i++) out[i] = (knhk_buf){s->meta[i].key.p, s->meta[i].key.n};
  return true;
}
bool cb_http_get_filter_state_bytes(void *f, knhk_buf key, knhk_buf *out) {
  stream *s = f;
  if (!s->has_filter_state || key.n == 0) return false;
  *out = (knhk_buf){s->filter_state.p, s->filter_state.n};
  return true;
}
size_t cb_http_get_body_chunks_size(void *f, int kind) { return (size_t)(kind == 1 ? ((stream *)f)->nbuffered : ((stream *)f)->nreceived); }
bool cb_http_get_body_chunks(void *f, int kind, knhk_buf *out) {
  stream *s = f;
  text *from = kind == 1 ? s->buffered : s->received;
  int n = kind == 1 ? s->nbuffered : s->nreceived;
  for (int i = 0; i < n; i++) out[i] = (knhk_buf){from[i].p, from[i].n};
  return n > 0;
}
bool cb_http_received_buffered_request_body(void *f) { return (void)f, false; }

void cb_http_send_response(void *f, uint32_t status, knhk_hdr *headers, size_t n, knhk_buf body, knhk_buf details) {
  stream *s = f;
  MUST(!s->passed && s->answers++ == 0 && status >= 202 && status <= 503 && details.n > 0);
  for (size_t i = 0; i < n; i++) MUST(headers[i].key_len > 0 && headers[i].value_len > 0 && memchr(headers[i].value, '\n', headers[i].value_len) == NULL);
  MUST(body.n == 0 || sum((const uint8_t *)body.p, body.n) != 0);
  s->parked = false;
}

static int hex(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

static void read_receipt(const stream *s, uint8_t receipt[16]) {
  for (int i = 0; i < 16; i++) receipt[i] = (uint8_t)(hex(s->receipt[2 * i]) << 4 | hex(s->receipt[2 * i + 1]));
}

/* What went on though its leaf was not as durable as it must be has a leaf that says so. */
static void check_missed(const uint8_t receipt[16]) {
  uint8_t missed[16];
  memcpy(missed, receipt, 16);
  missed[8] |= 0x80;
  const leaf *l = find(missed);
  MUST(l != NULL && l->kind == 3 && (l->flags & 16) != 0);
}

static void check_pass(stream *s) {
  uint8_t receipt[16];
  MUST(!s->passed && s->answers == 0 && s->ended);
  s->passed = true;
  s->parked = false;
  read_receipt(s, receipt);
  drain();
  if (s->undurable) check_missed(receipt);
  if (s->agent_admits) {
    MUST(memcmp(receipt, s->posted.p + 8, 16) == 0);
    return;
  }
  const leaf *l = find(receipt);
  MUST(l != NULL && l->kind == 1 && l->verdict == 1 && l->body_len == s->body_len && l->body_sum == sum((const uint8_t *)s->body, s->body_len));
  MUST(!l->by_pack || memmem(s->body, s->body_len, "bad", 3) == NULL);
}

void cb_http_filter_continue_decoding(void *f) { check_pass(f); }

static void finish_callout(stream *s, bool inline_call);

int cb_http_filter_http_callout(void *f, uint64_t *id, knhk_buf cluster, knhk_hdr *headers, size_t n, knhk_buf body, uint64_t timeout_ms) {
  stream *s = f;
  MUST(cluster.n > 0 && n >= 3 && timeout_ms > 0 && headers->key_len == 7 && (memcmp(body.p, "KNPK\1", 5) == 0 || memcmp(body.p, "KNDU\1", 5) == 0));
  *id = 1;
  s->undurable = s->waits = body.p[2] == 'D';
  if (chance(8) == 0) return 1 + (int)chance(4);
  free(s->posted.p);
  s->posted = copy(body.p, body.n);
  s->parked = true;
  if (chance(8) == 0) finish_callout(s, true);
  return chance(40) == 0 && s->answers == 0 && !s->parked ? 4 : 0;
}

/* An answer of the agent, or something like it. */
static void finish_callout(stream *s, bool inline_call) {
  static const char *const STATUS[] = {"200", "200", "200", "202", "410", "503", "504", "2"};
  const char *status = STATUS[chance(8)];
  bool marked = chance(5) != 0;
  uint8_t answer[4096] = "KNPA\1";
  size_t problem = chance(64), len = 28 + problem;
  answer[5] = (uint8_t)(1 + chance(2));
  memcpy(answer + 8, s->posted.p + 8, 16);
  answer[27] = (uint8_t)problem;
  memset(answer + 28, 'x', problem);
  bool spoilt = chance(4) == 0;
  if (spoilt) answer[chance(28)] ^= (uint8_t)(1 + chance(255));
  if (chance(6) == 0) len = chance(len + 1), spoilt = true;
  int result = chance(10) == 0 ? 1 : 0;
  if (s->waits) {
    status = chance(2) ? "204" : status;
    s->undurable = result != 0 || !marked || strcmp(status, "204") != 0;
  } else {
    s->undurable = answer[6] == 1;
  }
  s->agent_admits = !s->waits && result == 0 && marked && strcmp(status, "200") == 0 && !spoilt && answer[5] == 1;
  if (!s->waits && spoilt && len >= 28 && memcmp(answer, "KNPA\1", 5) == 0 && answer[5] == 1 && answer[6] <= 1 && answer[7] == 0 && memcmp(answer + 8, s->posted.p + 8, 16) == 0)
    s->agent_admits = result == 0 && marked && strcmp(status, "200") == 0;
  text parts[2] = {copy((char *)answer, len / 2), copy((char *)answer + len / 2, len - len / 2)}, code = copy(status, strlen(status));
  knhk_hdr headers[] = {{":status", 7, code.p, code.n}, {"x-knhk-agent", 12, marked ? "1" : "10", marked ? 1 : 2}};
  knhk_buf chunks[] = {{parts[0].p, parts[0].n}, {parts[1].p, parts[1].n}};
  s->parked = false;
  on_http_filter_http_callout_done(s, s->module, 1, result, headers, 2, chunks, chance(20) == 0 ? 0 : 2);
  if (!inline_call) MUST(s->foreign ? !s->passed && s->answers == 0 : s->passed || s->answers == 1);
  free(parts[0].p), free(parts[1].p), free(code.p);
}

/* ---- one stream -------------------------------------------------------------------------------------- */

static void header(stream *s, const char *key, const char *value, size_t n) {
  if (s->nheaders < HEADERS) s->headers[s->nheaders++] = (pair){copy(key, strlen(key)), copy(value, n)};
}

static void add_meta(stream *s, const char *key, const char *value) { s->meta[s->nmeta++] = (pair){copy(key, strlen(key)), copy(value, strlen(value))}; }

/* Bytes of the input. */
static size_t noise(char *out, size_t max) {
  size_t n = chance(max);
  if (n > left) n = left;
  memcpy(out, input, n);
  input += n;
  left -= n;
  return n;
}

static void one_of(stream *s, const char *key, const char *const *values, size_t n) {
  char junk[64];
  const char *value = values[chance(n)];
  if (chance(12) == 0) {
    header(s, key, junk, noise(junk, sizeof junk));
  } else if (value != NULL) {
    header(s, key, value, strlen(value));
  }
}

static void fill(stream *s) {
  static const char *const METHODS[] = {"POST", "POST", "GET", "CONNECT"}, *const PATHS[] = {"/invoices/1/approve", "/a%41/b", "/x?y", "/%", "/%f", "/%c3%28", "//", ""},
      *const TYPES[] = {"application/json", "application/json; charset=utf-8", "application/json;charset=x", "a/b", ";", ",", NULL}, *const ENCODINGS[] = {NULL, NULL, NULL, "gzip"},
      *const DECISIONS[] = {NULL, NULL, "0123456789abcdef0123456789abcdef", "short"}, *const LENGTHS[] = {NULL, "5", "99999999999999999999999"};
  one_of(s, ":method", METHODS, 4);
  one_of(s, ":path", PATHS, 8);
  one_of(s, "content-type", TYPES, 7);
  one_of(s, "content-encoding", ENCODINGS, 4);
  one_of(s, "knhk-decision", DECISIONS, 4);
  one_of(s, "content-length", LENGTHS, 3);
  if (chance(30) == 0) header(s, "upgrade", "websocket", 9);
  if (chance(20) != 0) add_meta(s, "route", "create");
  if (chance(2) == 0) add_meta(s, "action", "create");
  if (chance(3) == 0) add_meta(s, "media", chance(2) ? "application/json, text/x" : "");
  if (chance(3) == 0) add_meta(s, "query", "Allow");
  if (chance(3) == 0) add_meta(s, "capture.id", chance(4) ? "1" : "999999999");
  if (chance(6) == 0) add_meta(s, "capture.", "0");
  s->has_filter_state = chance(3) != 0;
  char junk[5000];
  s->filter_state = chance(6) == 0 ? copy(junk, noise(junk, sizeof junk)) : copy("alice", 5);
}

static void free_stream(stream *s) {
  on_http_filter_stream_complete(s, s->module);
  on_http_filter_destroy(s->module);
  for (int i = 0; i < s->nheaders; i++) unpair(&s->headers[i]);
  for (int i = 0; i < s->nmeta; i++) unpair(&s->meta[i]);
  for (int i = 0; i < s->nbuffered; i++) free(s->buffered[i].p);
  for (int i = 0; i < s->nreceived; i++) free(s->received[i].p);
  free(s->filter_state.p);
  free(s->posted.p);
  configs[s->config_slot].live--;
  free(s);
}

static void settle(stream *s, bool passes) {
  if (passes) {
    check_pass(s);
  } else {
    MUST(s->answers == 1 || s->parked || !s->ended);
  }
}

static text piece(stream *s) {
  static const char *const WORDS[] = {"fine", "bad", "cold", "escape", "fault", "noroute", "{\"a\":1}", "", "b", "ad", "foreign", NULL};
  char junk[256];
  const char *word = WORDS[chance(12)];
  size_t n = word == NULL ? noise(junk, sizeof junk) : strlen(word), times = chance(16) == 0 ? 1 + chance(BODY_MAX) : 1;
  text whole = {malloc(n * times == 0 ? 1 : n * times), 0};
  for (; times > 0 && s->body_len + n <= BODY_MAX; times--) {
    memcpy(s->body + s->body_len, word == NULL ? junk : word, n);
    memcpy(whole.p + whole.n, word == NULL ? junk : word, n);
    s->body_len += n;
    whole.n += n;
  }
  return whole;
}

static void run_body(stream *s) {
  size_t pieces = chance(6), trailers = chance(3) == 0;
  for (size_t i = 0; i <= pieces && s->answers == 0; i++) {
    bool last = i == pieces && !trailers;
    s->received[s->nreceived++] = piece(s);
    s->ended = last;
    int status = on_http_filter_request_body(s, s->module, last);
    if (last) {
      settle(s, status == ENVOY_BODY_CONTINUE);
      return;
    }
    MUST(status == ENVOY_BODY_STOP_AND_BUFFER);
    s->buffered[s->nbuffered++] = s->received[--s->nreceived];
  }
  s->ended = true;
  if (s->answers == 0) settle(s, on_http_filter_request_trailers(s, s->module) == ENVOY_TRAILERS_CONTINUE);
}

static void begin(stream *s) {
  bool eos = chance(4) == 0;
  fill(s);
  s->ended = eos;
  int status = on_http_filter_request_headers(s, s->module, eos);
  if (eos || s->answers != 0) {
    settle(s, status == ENVOY_HEADERS_CONTINUE);
  } else if (chance(10) != 0) {
    MUST(status == ENVOY_HEADERS_STOP);
    run_body(s);
  }
  /* Envoy stops after an answer; if it did not, nothing may pass. */
  if (s->answers == 1 && chance(4) == 0) {
    MUST(on_http_filter_request_body(s, s->module, true) != ENVOY_BODY_CONTINUE);
    MUST(on_http_filter_request_trailers(s, s->module) != ENVOY_TRAILERS_CONTINUE);
  }
}

static void open_stream(stream **place) {
  int c = (int)chance(CONFIGS);
  if (configs[c].config == NULL) return;
  stream *s = calloc(1, sizeof *s);
  memset(s->receipt, '0', 32);
  s->config = configs[c].config;
  s->config_slot = c;
  s->module = on_http_filter_new(s->config, s);
  MUST(s->module != NULL);
  configs[c].live++;
  *place = s;
  begin(s);
}

/* Envoy or another filter answers: a receipt that is shown has a leaf that admits nothing, and the agent's word comes too late. */
static void answer_foreign(stream *s) {
  uint8_t receipt[16];
  s->foreign = true;
  on_http_filter_response_headers(s, s->module, chance(2));
  if (s->shows) {
    read_receipt(s, receipt);
    drain();
    const leaf *l = find(receipt);
    MUST(l != NULL && (l->kind == 3 || l->kind == 4) && l->verdict != 1);
  }
  if (s->parked && chance(2) == 0) finish_callout(s, false);
  MUST(on_http_filter_request_trailers(s, s->module) != ENVOY_TRAILERS_CONTINUE);
}

static void touch_stream(stream **place) {
  stream *s = *place;
  if (s->parked && chance(3) != 0) finish_callout(s, false);
  if (chance(2) == 0) {
    if (s->passed || s->answers != 0) on_http_filter_response_headers(s, s->module, chance(2));
    else answer_foreign(s);
  }
  free_stream(s); /* or the client left */
  *place = NULL;
}

/* ---- configurations ----------------------------------------------------------------------------------- */

static int pack_json(char *out, size_t cap, const char *path) {
  static const char *const DURABILITIES[] = {"ring", "disk", "log", "region"};
  if (path == NULL) return snprintf(out, cap, "null");
  const char *name = strrchr(path, '/') + 1;
  return snprintf(out, cap, "{\"path\":\"%s\",\"sha256\":\"%.64s\",\"digest\":\"%.64s\",\"name\":\"erp/x\",\"version\":\"1\",\"durability\":\"%s\"}", path, name, name, DURABILITIES[chance(4)]);
}

static char *packs[2], *bundle, *broken[8];
static size_t nbroken;
static bool names_broken; /* the last configuration */

/* A table of consents, each time of other bytes: none, of few slots with garbage in them, or of another size than it says. */
static const char *consents_file(void) {
  static char path[512];
  uint64_t words[8 + 3 * 4] = {0};
  memcpy(words, "KNCONS01", 8);
  words[1] = chance(8) ? 4 : chance(9);
  words[2] = chance(2) ? UINT64_MAX : 0;
  for (size_t i = 8; i < sizeof words / sizeof *words; i++) words[i] = chance(2) ? chance(256) : 0;
  snprintf(path, sizeof path, "%s.map", folder);
  unlink(path);
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  MUST(fd >= 0 && write(fd, words, sizeof words - (chance(8) ? 0 : 8)) > 0);
  close(fd);
  return path;
}

static size_t config_json(char *out, size_t cap) {
  static const char *const MODES[] = {"Stable", "Shadow", "Canary"};
  char stable[1024], candidate[1024], data[1024], consent[512];
  pack_json(stable, sizeof stable, chance(6) ? packs[0] : NULL);
  names_broken = chance(8) == 1;
  pack_json(candidate, sizeof candidate, names_broken ? broken[chance(nbroken)] : chance(3) ? packs[1] : NULL);
  if (chance(3) == 1) snprintf(data, sizeof data, "{\"path\":\"%s\",\"sha256\":\"%.64s\"}", bundle, strrchr(bundle, '/') + 1);
  else snprintf(data, sizeof data, "null");
  if (chance(3) == 1) snprintf(consent, sizeof consent, "{\"subject\":\"%s\",\"purposes\":[\"a\",\"b\"],\"path\":\"%s\"}", chance(2) ? "sub" : "path.id", consents_file());
  else snprintf(consent, sizeof consent, "null");
  return (size_t)snprintf(out, cap,
      "{\"version\":1,\"point\":\"a/b\",\"epoch\":1,\"region\":\"r\",\"regionIndex\":0,\"ringDir\":\"%s\",\"ringBytes\":4194304,\"generation\":1,\"baseline\":\"%s\","
      "\"mode\":\"%s\",\"weight\":%d,\"salt\":\"0011223344556677\",\"stale\":%s,\"stable\":%s,\"candidate\":%s,\"bundle\":%s,\"evaluator\":null,\"stickyAttribute\":%s,"
      "\"attributes\":[{\"name\":\"sub\",\"filterState\":\"k\"},{\"name\":\"peer\",\"filterState\":\"k\"}],\"agentCluster\":\"agent\",\"parkTimeoutMs\":10,\"durableTimeoutMs\":10,\"agentGraceSeconds\":9,"
      "\"failure\":\"%s\",\"problemBase\":\"https://x/\",\"notAfterNs\":0,\"consent\":%s,\"residency\":{\"bytes\":%d,\"absent\":\"%s\",\"preload\":[\"stable\",\"bundle\",\"candidate\"]}}",
      folder, chance(2) ? "Deny" : "Admit", MODES[chance(3)], (int)chance(1001), chance(6) ? "false" : "true", stable, candidate, data, chance(3) ? "\"sub\"" : "null", chance(2) ? "Open" : "Closed", consent, (int)chance(3) << 13, chance(2) ? "Park" : "Decide");
}

/* Another text in the place of some bytes. */
static size_t spoil(char *json, size_t n, size_t cap) {
  static const char *const WORDS[] = {"", "null", "true", "-1", "0", "1e9", "18446744073709551615", "[", "]", "{", "}", "\"\"", ",", ":", "\\u0000", "\\ud800", "../", NULL};
  char junk[64];
  const char *word = WORDS[chance(18)];
  size_t len = word == NULL ? noise(junk, sizeof junk) : strlen(word), at = chance(n), gone = chance(32);
  if (gone > n - at) gone = n - at;
  if (n - gone + len > cap) return n;
  memmove(json + at + len, json + at + gone, n - at - gone);
  memcpy(json + at, word == NULL ? junk : word, len);
  return n - gone + len;
}

static void swap_config(slot *c) {
  char json[8192];
  size_t n = config_json(json, sizeof json);
  uint64_t spoils = chance(3) == 1 ? 1 + chance(4) : 0;
  bool whole = spoils == 0;
  for (; spoils > 0 && n > 0; spoils--) n = spoil(json, n, sizeof json);
  if (chance(16) == 1) n = chance(n + 1);
  text t = copy(json, n);
  validating = chance(10) == 1;
  const void *made = on_http_filter_config_new(NULL, (knhk_buf){"knhk", 4}, (knhk_buf){t.p, t.n});
  free(t.p);
  MUST(made == NULL || !whole || !names_broken);
  if (made != NULL && validating) on_http_filter_config_destroy(made);
  if (made == NULL || validating) return;
  if (c->config != NULL) on_http_filter_config_destroy(c->config);
  c->config = made;
}

/* ---- the driver --------------------------------------------------------------------------------------- */

static void leave(void) {
  char path[512];
  snprintf(path, sizeof path, "%s.map", folder);
  unlink(path);
  rmdir(folder);
}

/* Calls `each` with the path of every file of a folder beside the driver, in order of their names. */
static void beside(const char *name, void (*each)(char *path)) {
  char place[512];
  ssize_t n = readlink("/proc/self/exe", place, sizeof place - 32);
  MUST(n > 0);
  place[n] = 0;
  strcpy(strrchr(place, '/') + 1, name);
  struct dirent **names;
  int found = scandir(place, &names, NULL, alphasort);
  for (int i = 0; i < found; i++) {
    char *path;
    if (names[i]->d_name[0] != '.' && asprintf(&path, "%s/%s", place, names[i]->d_name) > 0) each(path);
    free(names[i]);
  }
  if (found >= 0) free(names);
}

static void keep_pack(char *path) {
  char **at = strstr(path, ".bnd") != NULL ? &bundle : packs[0] == NULL ? &packs[0] : &packs[1];
  MUST(*at == NULL);
  *at = path;
}

static void keep_broken(char *path) {
  MUST(nbroken < sizeof broken / sizeof *broken);
  broken[nbroken++] = path;
}

static void find_packs(void) {
  beside("packs", keep_pack);
  beside("broken", keep_broken);
  MUST(packs[1] != NULL && bundle != NULL && nbroken > 0);
}

static void prepare(void) {
  if (folder[0] != 0) return;
  find_packs();
  snprintf(folder, sizeof folder, "%s/knhk-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  MUST(mkdtemp(folder) != NULL && strcmp(on_program_init(), "v0.2.0") == 0);
  atexit(leave);
}

static void act(void) {
  slot *c = &configs[chance(CONFIGS)];
  stream **s = &streams[chance(STREAMS)];
  uint64_t deed = chance(50);
  if (c->live == 0 && (c->config == NULL || deed == 0)) swap_config(c);
  if (*s == NULL) {
    open_stream(s);
  } else {
    touch_stream(s);
  }
  if (deed == 1) drain();
  if (deed == 2) rings(silence_file);
  if (deed == 3) ahead_ns += (uint64_t)20 << (30 + chance(4));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  prepare();
  input = data;
  left = size;
  nkept = 0;
  ahead_ns = 0;
  while (left > 0) act();
  for (int i = 0; i < STREAMS; i++) {
    if (streams[i] != NULL) free_stream(streams[i]);
    streams[i] = NULL;
  }
  for (int i = 0; i < CONFIGS; i++) {
    if (configs[i].config != NULL) on_http_filter_config_destroy(configs[i].config);
    configs[i] = (slot){0};
  }
  drain();
  MUST(rings(NULL) == 0);
  return 0;
}

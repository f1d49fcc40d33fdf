/* fuzz_records.c. Invariant: whatever a pod has sent, a scan reads only what it was given and ends at whole records; columns stay in the room
 * that the scan has counted, each row once, and their offsets only grow. */
#include "fuzz.h"
#include "records.h"

#define INPUT ((size_t)1 << 16)
#define ROOM (5 * INPUT) /* of two bytes each makes a frame of eight */

static void no_hash(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]) {
  uint8_t sum = 0;
  for (size_t i = 0; i < head_len; i++) sum = (uint8_t)(sum + head[i]);
  for (size_t i = 0; i < body_len; i++) sum = (uint8_t)(sum + body[i]);
  memset(digest, sum, 32);
}

static fuzz_room frames, whole, starts, firsts, times, weights, keys, columns[17 + 3 * KNHK_COLUMNS];
static uint32_t rooms;

static void *room(size_t count, size_t size) {
  fuzz_demand(rooms < sizeof columns / sizeof *columns, "there is a room for each column");
  return fuzz_take(&columns[rooms++], count * size);
}

/* The input is payloads, each after two bytes with its length; their frames have the right CRC, but for those whose length has the top bit. */
static size_t fill(const uint8_t *data, size_t size, uint8_t *out) {
  size_t n = 0;
  while (size >= 2) {
    const size_t said = (size_t)(data[0] & 0x7f) << 8 | data[1], len = said < size - 2 ? said : size - 2;
    const uint8_t length[4] = {0, 0, (uint8_t)(len >> 8), (uint8_t)len};
    const uint32_t crc = knhk_frame_crc(length, data + 2, len) ^ (uint32_t)(data[0] >> 7);
    memcpy(out + n, length, 4);
    for (uint32_t i = 0; i < 4; i++) out[n + 4 + i] = (uint8_t)(crc >> (24 - 8 * i));
    memcpy(out + n + 8, data + 2, len);
    n += len + 8;
    data += len + 2;
    size -= len + 2;
  }
  return n;
}

static void give(knhk_columns *c, const knhk_scanned *s) {
  static const size_t widths[KNHK_COLUMNS] = {
      [KNHK_COLUMN_RECEIPT] = 32, [KNHK_COLUMN_PACK] = 40, [KNHK_COLUMN_KEY] = 16,  [KNHK_COLUMN_BUNDLE] = 64,
      [KNHK_COLUMN_EVALUATOR] = 64, [KNHK_COLUMN_LEAF] = 118, [KNHK_COLUMN_SALT] = 16, [KNHK_COLUMN_SUBJECT] = 64,
  };
  const size_t rows = s->nleaves;
  rooms = 0;
  c->time_us = room(rows, 8);
  c->time_ns = room(rows, 8);
  c->at = room(rows, 8);
  c->slot = room(rows, 8);
  c->kind = room(rows, 1);
  c->klass = room(rows, 1);
  c->verdict = room(rows, 1);
  c->mode = room(rows, 1);
  c->flags = room(rows, 1);
  c->guards = room(rows, 4);
  c->failing_offsets = room(rows + 1, 4);
  c->failing = room((size_t)s->acted * 8, 4);
  c->judged = room(rows, 1);
  c->holds = room(rows, 1);
  c->keys = room(rows, KNHK_KEY_SIZE);
  c->digests = room(rows, KNHK_DIGEST_SIZE);
  c->refused = room(s->nrecords, 4);
  for (uint32_t i = 0; i < KNHK_COLUMNS; i++) {
    const int is_null = i != KNHK_COLUMN_RECEIPT && i != KNHK_COLUMN_PACK && i != KNHK_COLUMN_KEY && i != KNHK_COLUMN_LEAF;
    const size_t free_text = (size_t)(i == KNHK_COLUMN_ACTION ? s->acted : s->observed);
    c->text[i].offsets = room(rows + 1, 4);
    c->text[i].data = room(widths[i] != 0 ? rows * widths[i] : free_text, 1);
    c->text[i].valid = is_null ? room(rows, 1) : NULL;
  }
}

static void grows(const int32_t *offsets, uint32_t rows) {
  for (uint32_t i = 0; i < rows; i++) fuzz_demand(offsets[i] >= 0 && offsets[i] <= offsets[i + 1], "offsets only grow");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint32_t cap = (uint32_t)(ROOM / KNHK_FRAME_LEAST);
  if (size > INPUT) return 0;
  uint8_t *made = fuzz_take(&frames, ROOM);
  const size_t len = fill(data, size, made);
  made = memmove(fuzz_take(&whole, len), made, len);
  knhk_scanned s = {.cap = cap};
  s.starts = (uint32_t *)(void *)fuzz_take(&starts, (cap + 1) * sizeof *s.starts);
  s.firsts = (uint32_t *)(void *)fuzz_take(&firsts, (cap + 1) * sizeof *s.firsts);
  s.times = (uint64_t *)(void *)fuzz_take(&times, cap * sizeof *s.times);
  s.weights = (uint64_t *)(void *)fuzz_take(&weights, cap * sizeof *s.weights);
  s.keys = fuzz_take(&keys, (size_t)2 * cap * KNHK_KEY_SIZE);
  knhk_use_sha256(no_hash);
  const int32_t why = knhk_records_scan(made, len, &s);
  fuzz_demand(why <= 0 && why >= KNHK_FRAME_NO_RECORD && s.starts[s.nrecords] <= len, "it ends within what it was given");
  for (uint32_t i = 0; i < s.nrecords; i++) fuzz_demand(s.starts[i + 1] - s.starts[i] >= KNHK_FRAME_LEAST, "no record is shorter than the shortest");
  knhk_columns c = {0};
  give(&c, &s);
  knhk_records_columns(made, s.starts, s.nrecords, &c);
  fuzz_demand(c.nrows <= s.nleaves && c.nrows + c.nrefused >= s.nrecords, "a record has a row for each leaf, or is refused");
  grows(c.failing_offsets, c.nrows);
  for (uint32_t i = 0; i < KNHK_COLUMNS; i++) grows(c.text[i].offsets, c.nrows);
  return 0;
}
